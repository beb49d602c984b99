//! Deployment, Pod, and what they are made of.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::TargetPort;
use crate::{Meta, Selector};

/// A deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Name, labels, origin.
    pub meta: Meta,
    /// How many pods.
    pub replicas: u32,
    /// The labels of its pods; the template's labels carry them.
    pub selector: Selector,
    /// What its pods are made from.
    pub template: PodTemplate,
}

/// What pods are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTemplate {
    /// The pods' labels.
    pub labels: BTreeMap<String, String>,
    /// The pods' annotations.
    pub annotations: BTreeMap<String, String>,
    /// Exactly one container.
    pub spec: PodSpec,
}

/// The annotation that says what stands in a pod, by the names of Istio's templates of injection.
pub const TEMPLATES: &str = "inject.istio.io/templates";

impl PodTemplate {
    /// Whether its pods are gateways: nothing runs in them but the proxy.
    pub fn is_gateway(&self) -> bool {
        self.annotations.get(TEMPLATES).is_some_and(|names| names_of_templates(names).next() == Some("gateway"))
    }
}

/// The templates that are named, in their order.
pub fn names_of_templates(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Name, labels, origin.
    pub meta: Meta,
    /// What runs in it.
    pub spec: PodSpec,
    /// How it is.
    pub status: PodStatus,
    /// What made it, as people call it: the Deployment, not the ReplicaSet. Known of a cluster's pods alone.
    pub controller: Option<String>,
}

/// How a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStatus {
    /// Its address, once it has one; the first of two.
    pub pod_ip: Option<IpAddr>,
    /// Its address of the other family, if it has one of each (`podIPs`).
    pub second_ip: Option<IpAddr>,
    /// Its phase.
    pub phase: PodPhase,
    /// Condition `Ready`.
    pub ready: bool,
}

/// A pod's phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodPhase {
    /// Not started yet.
    #[default]
    Pending,
    /// Running.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Not known.
    Unknown,
}

/// What runs in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// The service account; `default` if none was written.
    pub service_account: String,
    /// The containers; never empty.
    pub containers: Vec<Container>,
    /// The volumes; names are unique.
    pub volumes: Vec<Volume>,
    /// From SIGTERM to SIGKILL; default 30 s.
    pub termination_grace_period: Duration,
}

/// A program of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// The name.
    pub name: String,
    /// The image. Known of a cluster's pods alone, since none is run here.
    pub image: String,
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// The environment, in order; later entries win.
    pub env: Vec<EnvVar>,
    /// Whole config maps as environment, before `env`.
    pub env_from: Vec<EnvFrom>,
    /// Its ports.
    pub ports: Vec<ContainerPort>,
    /// When it is ready; none: once it runs.
    pub readiness_probe: Option<Probe>,
    /// Its mounts; the volumes exist.
    pub volume_mounts: Vec<VolumeMount>,
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// The name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// This text, in which `$(NAME)` stands for another variable.
    Literal(String),
    /// A field of the pod.
    Field(FieldRef),
    /// A key of a config map.
    ConfigMapKey {
        /// The config map.
        name: String,
        /// The key.
        key: String,
        /// Whether it may be missing; the variable is then not set.
        optional: bool,
    },
}

/// A field of a pod (`fieldRef.fieldPath`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldRef {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// `metadata.uid`.
    Uid,
    /// `metadata.labels['KEY']`.
    Label(String),
    /// `metadata.annotations['KEY']`.
    Annotation(String),
    /// `spec.serviceAccountName`.
    ServiceAccount,
    /// `spec.nodeName`.
    NodeName,
    /// `status.podIP` and `status.podIPs`.
    PodIp,
    /// `status.hostIP` and `status.hostIPs`.
    HostIp,
}

/// A whole config map as environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    /// Before each key.
    pub prefix: String,
    /// The config map.
    pub config_map: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// The name; empty if none was written.
    pub name: String,
    /// The number.
    pub port: u16,
    /// Whether it is UDP; else TCP.
    pub udp: bool,
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is tried.
    pub action: ProbeAction,
    /// Before the first try; default 0.
    pub initial_delay: Duration,
    /// Between tries; default 10 s.
    pub period: Duration,
    /// Of one try; default 1 s.
    pub timeout: Duration,
    /// Successes in a row until it holds; default 1.
    pub success_threshold: u32,
    /// Failures in a row until it fails; default 3.
    pub failure_threshold: u32,
}

/// What a probe tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// A plain HTTP GET, good from 200 to 399.
    HttpGet {
        /// The path; `/` if none was written.
        path: String,
        /// The port.
        port: TargetPort,
        /// Further headers; `Host` replaces the default.
        headers: Vec<(String, String)>,
    },
    /// A connection.
    TcpSocket {
        /// The port.
        port: TargetPort,
    },
    /// A program in the container, good if it ends with 0.
    Exec {
        /// The program and its arguments; never empty.
        command: Vec<String>,
    },
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The name.
    pub name: String,
    /// What it holds.
    pub source: VolumeSource,
}

/// What a volume holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Nothing at first.
    EmptyDir,
    /// A config map's keys as files.
    ConfigMap {
        /// The config map.
        name: String,
        /// Only these keys, each to a relative path; empty: all keys under their own names.
        items: Vec<(String, String)>,
        /// Whether it may be missing.
        optional: bool,
        /// The files' mode.
        mode: u32,
    },
}

/// Where a volume is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// An absolute path.
    pub mount_path: String,
    /// Only this file or folder of the volume.
    pub sub_path: Option<String>,
    /// Whether it cannot be written; a config map never can.
    pub read_only: bool,
}
