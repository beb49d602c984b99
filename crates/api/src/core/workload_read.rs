//! Reading Deployments and Pods.

use std::{net::IpAddr, time::Duration};

use super::{
    service::{port_name, transport},
    *,
};
use crate::{
    Meta, Selector,
    metadata::labels,
    read::{At, Fields, Why, quoted},
};

/// The container of a pod's proxy.
const PROXY: &str = "istio-proxy";

impl Deployment {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.sub("spec", |f| {
            let mut selector = Selector::default();
            if let Some(at) = f.need("selector") {
                at.fields(|f| {
                    f.refuse(Why::Runs, &["matchExpressions"]);
                    selector.labels = f.need("matchLabels").map(|at| labels(&at)).unwrap_or_default();
                });
                if selector.is_empty() && !at.cx.failed() {
                    at.fail("must have at least one label");
                }
            }
            f.harmless(&["strategy", "minReadySeconds"]);
            f.ignore(&["revisionHistoryLimit", "progressDeadlineSeconds"]);
            if f.get("template").is_none() {
                f.missing("template");
            }
            let template = f.sub("template", PodTemplate::read);
            if !selector.matches(&template.labels)
                && let Some(at) = f.get("selector")
            {
                at.fail("selects labels that spec.template.metadata.labels does not carry");
            }
            Deployment { meta, replicas: f.count("replicas").unwrap_or(1), selector, template }
        })
    }
}

impl PodTemplate {
    fn read(f: &Fields<'_>) -> PodTemplate {
        let (labels, annotations) = f.sub("metadata", |f| {
            f.ignore(&["name", "namespace", "creationTimestamp"]);
            for (key, at) in ["labels", "annotations"].into_iter().filter_map(|name| f.get(name)).flat_map(|at| at.entries()) {
                match key {
                    "sidecar.istio.io/inject" if at.node.text() == Some("false") => {
                        at.warn("is not acted on: every program that the mesh starts has a sidecar");
                    }
                    TEMPLATES => one_template(&at),
                    _ => {}
                }
            }
            (f.get("labels").map(|at| labels(&at)).unwrap_or_default(), f.text_map("annotations"))
        });
        let mut template = PodTemplate { labels, annotations, spec: PodSpec::default() };
        template.spec = f.sub("spec", |f| PodSpec::read(f, template.is_gateway()));
        template
    }
}

/// Says so if others than the templates of sidecars and gateways are named, or both: something else would run than is meant.
fn one_template(at: &At<'_>) {
    let text = at.node.text().unwrap_or_default();
    let mut names = names_of_templates(text);
    if names.next().is_some_and(|name| name != "sidecar" && name != "gateway") || names.next().is_some() {
        at.fail(format!("{}: the templates that are supported are sidecar and gateway, one of them", quoted(text)));
    }
}

impl Pod {
    /// What the mesh needs to know of a pod that somebody else runs.
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        let spec = root.sub("spec", |f| {
            f.ignore_rest();
            let container = |f: &Fields<'_>| {
                f.ignore_rest();
                Container { name: f.text("name"), ports: container_ports(f), ..Container::default() }
            };
            PodSpec {
                service_account: service_account(f),
                containers: f.list("containers").iter().map(|at| at.fields(container)).collect(),
                volumes: Vec::new(),
                termination_grace_period: grace(f),
            }
        });
        Pod { meta, spec, status: root.sub("status", PodStatus::read), controller: None }
    }
}

impl PodStatus {
    /// Of a pod's addresses, the first one first, that of the other family.
    pub(super) fn beside(all: &[IpAddr]) -> Option<IpAddr> {
        let first = all.first()?;
        all.iter().copied().find(|ip| ip.is_ipv4() != first.is_ipv4())
    }

    fn read(f: &Fields<'_>) -> PodStatus {
        const PHASES: &[(&str, i64, Option<PodPhase>)] = &[
            ("Pending", 0, Some(PodPhase::Pending)),
            ("Running", 1, Some(PodPhase::Running)),
            ("Succeeded", 2, Some(PodPhase::Succeeded)),
            ("Failed", 3, Some(PodPhase::Failed)),
            ("Unknown", 4, Some(PodPhase::Unknown)),
        ];
        f.ignore_rest();
        let ready = |at: &At<'_>| {
            at.fields(|f| {
                f.ignore_rest();
                f.text("type") == "Ready" && f.text("status") == "True"
            })
        };
        let pod_ip: Option<IpAddr> = f.get("podIP").filter(|at| at.node.text() != Some("")).and_then(|at| at.parse());
        let more = f.list("podIPs");
        let more = more.iter().filter_map(|at| at.fields(|f| f.get("ip").and_then(|at| at.parse())));
        let all: Vec<IpAddr> = pod_ip.into_iter().chain(more).collect();
        PodStatus {
            pod_ip: all.first().copied(),
            second_ip: PodStatus::beside(&all),
            phase: f.get("phase").and_then(|at| at.enumeration(PHASES, Why::Runs)).unwrap_or_default(),
            ready: f.list("conditions").iter().any(ready),
        }
    }
}

fn service_account(f: &Fields<'_>) -> String {
    let old = f.opt_text("serviceAccount");
    let name = f.opt_text("serviceAccountName").or(old).unwrap_or_else(|| "default".to_owned());
    if let Err(error) = mizzen_types::check_dns_subdomain(&name) {
        f.get("serviceAccountName").unwrap_or_else(|| f.at.clone()).fail(error.to_string());
    }
    name
}

fn grace(f: &Fields<'_>) -> Duration {
    Duration::from_secs(f.count("terminationGracePeriodSeconds").map_or(30, u64::from))
}

impl PodSpec {
    /// Of a pod that is run here: what would change what runs and is not supported is refused.
    fn read(f: &Fields<'_>, is_gateway: bool) -> PodSpec {
        f.refuse(Why::Runs, &["initContainers", "ephemeralContainers", "hostAliases", "dnsConfig"]);
        for switch in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            f.refuse_true(Why::Runs, switch);
        }
        if f.get("restartPolicy").is_some_and(|at| at.node.text() != Some("Always")) {
            f.refuse(Why::Runs, &["restartPolicy"]);
        }
        f.harmless(&["affinity", "nodeName", "nodeSelector", "tolerations", "topologySpreadConstraints"]);
        if f.get("dnsPolicy").is_some_and(|at| at.node.text() != Some("ClusterFirst")) {
            f.harmless(&["dnsPolicy"]);
        }
        f.ignore(&[
            "automountServiceAccountToken",
            "dnsPolicy",
            "enableServiceLinks",
            "imagePullSecrets",
            "preemptionPolicy",
            "priority",
            "priorityClassName",
            "restartPolicy",
            "schedulerName",
        ]);
        let volumes = if is_gateway {
            f.refuse(Why::Runs, &["volumes"]);
            // It is for ports below 1024, which the gateway needs no leave for here.
            f.ignore(&["securityContext"]);
            Vec::new()
        } else {
            volumes(f)
        };
        let read = |f: &Fields<'_>| if is_gateway { Container::read_proxy(f) } else { Container::read(f, &volumes) };
        let mut containers = Vec::new();
        if let Some(at) = f.need("containers") {
            let list = at.list();
            if list.len() > 1 {
                at.fail(format!("{} containers: more than one {}", list.len(), Why::Runs.text()));
            } else if list.is_empty() {
                at.fail("must have one container");
            }
            containers = list.iter().map(|at| at.fields(read)).collect();
        }
        PodSpec { service_account: service_account(f), containers, volumes, termination_grace_period: grace(f) }
    }
}

impl Container {
    fn read(f: &Fields<'_>, volumes: &[Volume]) -> Container {
        // The image is expected, since the same file serves a cluster; it is not run.
        f.ignore(&["image", "imagePullPolicy", "resizePolicy", "terminationMessagePath", "terminationMessagePolicy"]);
        f.harmless(&["resources"]);
        f.refuse(Why::Runs, &["lifecycle", "restartPolicy", "restartPolicyRules", "volumeDevices"]);
        let ports = container_ports(f);
        let command = f.text_list("command");
        if command.is_empty() {
            f.missing("command");
            if let Some(problem) = f.at.cx.problems.borrow_mut().last_mut() {
                problem.message = "is required: images are not run here, the program is started by its command".to_owned();
            }
        }
        let mounts = f.list("volumeMounts");
        Container {
            image: String::new(),
            name: {
                f.need("name");
                port_name(f)
            },
            command,
            args: f.text_list("args"),
            working_dir: f.opt_text("workingDir"),
            env: f.list("env").iter().filter_map(|at| at.fields(EnvVar::read)).collect(),
            env_from: f.list("envFrom").iter().filter_map(|at| at.fields(EnvFrom::read)).collect(),
            readiness_probe: f.get("readinessProbe").and_then(|at| at.fields(|f| Probe::read(f, &ports))),
            volume_mounts: mounts.iter().map(|at| at.fields(|f| VolumeMount::read(f, volumes))).collect(),
            ports,
        }
    }

    /// Of a gateway's pod: the proxy, which is known, and which is asked itself whether it is ready.
    fn read_proxy(f: &Fields<'_>) -> Container {
        f.ignore(&["image", "imagePullPolicy", "resizePolicy", "securityContext", "terminationMessagePath", "terminationMessagePolicy"]);
        f.harmless(&["readinessProbe", "resources"]);
        f.refuse(
            Why::Runs,
            &["args", "command", "lifecycle", "restartPolicy", "restartPolicyRules", "volumeDevices", "volumeMounts", "workingDir"],
        );
        if let Some(at) = f.need("name").filter(|at| at.node.text() != Some(PROXY)) {
            at.fail(format!("must be {PROXY}: nothing else runs in a gateway's pod"));
        }
        Container {
            name: PROXY.to_owned(),
            env: f.list("env").iter().filter_map(|at| at.fields(EnvVar::read)).collect(),
            env_from: f.list("envFrom").iter().filter_map(|at| at.fields(EnvFrom::read)).collect(),
            ports: container_ports(f),
            ..Container::default()
        }
    }
}

fn container_ports(f: &Fields<'_>) -> Vec<ContainerPort> {
    let read = |f: &Fields<'_>| {
        f.harmless(&["hostPort", "hostIP"]);
        let port = f.need("containerPort").map(|at| at.port()).unwrap_or_default();
        ContainerPort { name: port_name(f), port, udp: transport(f) == "UDP" }
    };
    f.list("ports").iter().map(|at| at.fields(read)).collect()
}

/// Name and `optional` of a reference to a config map.
fn reference(f: &Fields<'_>) -> (String, bool) {
    (f.need("name").map(|at| at.word()).unwrap_or_default(), f.flag("optional"))
}

impl EnvVar {
    fn read(f: &Fields<'_>) -> Option<EnvVar> {
        let name = f.need("name").map(|at| {
            let name = at.word();
            if name.contains(['=', '\0']) {
                at.fail("must not contain `=`");
            }
            name
        })?;
        if f.get("value").is_some() && f.get("valueFrom").is_some() {
            f.at.fail("value and valueFrom exclude each other");
        }
        let value = match f.get("valueFrom") {
            None => EnvValue::Literal(f.text("value")),
            Some(at) => at.fields(|f| {
                f.refuse(Why::Runs, &["secretKeyRef", "resourceFieldRef", "fileKeyRef"]);
                match f.one_of(&["fieldRef", "configMapKeyRef"])? {
                    ("fieldRef", at) => at.fields(|f| {
                        f.ignore(&["apiVersion"]);
                        FieldRef::read(&f.need("fieldPath")?).map(EnvValue::Field)
                    }),
                    (_, at) => at.fields(|f| {
                        let (name, optional) = reference(f);
                        Some(EnvValue::ConfigMapKey { name, key: f.need("key").map(|at| at.word()).unwrap_or_default(), optional })
                    }),
                }
            })?,
        };
        Some(EnvVar { name, value })
    }
}

impl FieldRef {
    fn read(at: &At<'_>) -> Option<FieldRef> {
        let path = at.text();
        let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
        Some(match path.as_str() {
            "metadata.name" => FieldRef::Name,
            "metadata.namespace" => FieldRef::Namespace,
            "metadata.uid" => FieldRef::Uid,
            "spec.serviceAccountName" => FieldRef::ServiceAccount,
            "spec.nodeName" => FieldRef::NodeName,
            "status.podIP" | "status.podIPs" => FieldRef::PodIp,
            "status.hostIP" | "status.hostIPs" => FieldRef::HostIp,
            _ => match (keyed("metadata.labels"), keyed("metadata.annotations")) {
                (Some(key), _) => FieldRef::Label(key),
                (_, Some(key)) => FieldRef::Annotation(key),
                _ => {
                    at.fail(format!("{} is no field of a pod that can be read here", quoted(&path)));
                    return None;
                }
            },
        })
    }
}

impl EnvFrom {
    fn read(f: &Fields<'_>) -> Option<EnvFrom> {
        f.refuse(Why::Runs, &["secretRef"]);
        let (config_map, optional) = f.opt_sub("configMapRef", reference)?;
        Some(EnvFrom { prefix: f.text("prefix"), config_map, optional })
    }
}

impl Probe {
    fn read(f: &Fields<'_>, ports: &[ContainerPort]) -> Option<Probe> {
        f.refuse(Why::Runs, &["grpc"]);
        f.ignore(&["terminationGracePeriodSeconds"]);
        let port = |f: &Fields<'_>| -> TargetPort {
            let Some(at) = f.need("port") else { return TargetPort::Number(0) };
            let port = TargetPort::read(&at);
            if let TargetPort::Name(name) = &port
                && !ports.iter().any(|port| port.name == *name)
            {
                at.fail(format!("the container has no port {}", quoted(name)));
            }
            port
        };
        let action = f.one_of(&["httpGet", "tcpSocket", "exec"]).map(|(kind, at)| {
            at.fields(|f| match kind {
                "httpGet" => {
                    f.refuse(Why::Runs, &["host"]);
                    if f.get("scheme").is_some_and(|at| at.node.text() != Some("HTTP")) {
                        f.refuse(Why::Runs, &["scheme"]);
                    }
                    f.ignore(&["scheme"]);
                    let header = |f: &Fields<'_>| {
                        let name = f.need("name").map(|at| crate::istio::header_name(&at, &at.text())).unwrap_or_default();
                        (name, f.text("value"))
                    };
                    let path =
                        f.opt_text("path").map_or("/".to_owned(), |path| if path.starts_with('/') { path } else { format!("/{path}") });
                    let headers = f.list("httpHeaders").iter().map(|at| at.fields(header)).collect();
                    ProbeAction::HttpGet { path, port: port(f), headers }
                }
                "tcpSocket" => {
                    f.refuse(Why::Runs, &["host"]);
                    ProbeAction::TcpSocket { port: port(f) }
                }
                _ => {
                    let command = f.text_list("command");
                    if command.is_empty() {
                        f.missing("command");
                    }
                    ProbeAction::Exec { command }
                }
            })
        });
        if action.is_none() && f.get("grpc").is_none() {
            f.at.fail("must have one of httpGet, tcpSocket, exec");
        }
        let seconds = |name, default: u64, least: i64| {
            let number = f.get(name).map(|at| at.int(least..=i64::from(i32::MAX)));
            Duration::from_secs(number.map_or(default, |n| u64::try_from(n).unwrap_or(default)))
        };
        let threshold = |name, default| f.get(name).map_or(default, |at| u32::try_from(at.int(1..=i64::from(i32::MAX))).unwrap_or(default));
        Some(Probe {
            action: action?,
            initial_delay: seconds("initialDelaySeconds", 0, 0),
            period: seconds("periodSeconds", 10, 1),
            timeout: seconds("timeoutSeconds", 1, 1),
            success_threshold: threshold("successThreshold", 1),
            failure_threshold: threshold("failureThreshold", 3),
        })
    }
}

fn volumes(f: &Fields<'_>) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for at in f.list("volumes") {
        let Some(volume) = at.fields(Volume::read) else { continue };
        if volumes.iter().any(|other| other.name == volume.name) {
            at.fail(format!("there are two volumes {}", quoted(&volume.name)));
        }
        volumes.push(volume);
    }
    volumes
}

impl Volume {
    fn read(f: &Fields<'_>) -> Option<Volume> {
        f.need("name")?;
        let name = port_name(f);
        let source = match f.one_of(&["configMap", "emptyDir"]) {
            Some(("configMap", at)) => at.fields(|f| {
                let (name, optional) = reference(f);
                let item = |f: &Fields<'_>| {
                    f.harmless(&["mode"]);
                    (f.need("key").map(|at| at.word()).unwrap_or_default(), f.need("path").map(|at| inner_path(&at)).unwrap_or_default())
                };
                let items = f.list("items").iter().map(|at| at.fields(item)).collect();
                let mode = f.get("defaultMode").map_or(0o644, |at| u32::try_from(at.int(0..=0o777)).unwrap_or(0o644));
                VolumeSource::ConfigMap { name, items, optional, mode }
            }),
            Some((_, at)) => at.fields(|f| {
                f.ignore(&["medium", "sizeLimit"]);
                VolumeSource::EmptyDir
            }),
            None => {
                f.ignore_rest();
                f.at.fail("must have configMap or emptyDir, the kinds of volume that are supported so far");
                return None;
            }
        };
        Some(Volume { name, source })
    }
}

/// A relative path that stays inside.
fn inner_path(at: &At<'_>) -> String {
    let path = at.word();
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        at.fail(format!("{} must be relative and without `..`", quoted(&path)));
    }
    path
}

impl VolumeMount {
    fn read(f: &Fields<'_>, volumes: &[Volume]) -> VolumeMount {
        f.refuse(Why::Runs, &["subPathExpr"]);
        f.ignore(&["mountPropagation", "recursiveReadOnly"]);
        let name = f.need("name").map(|at| {
            let name = at.text();
            if !volumes.iter().any(|volume| volume.name == name) && !f.at.cx.failed() {
                at.fail(format!("there is no volume {}", quoted(&name)));
            }
            name
        });
        let mount_path = f.need("mountPath").map(|at| {
            let path = at.text();
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.trim_matches('/').is_empty() {
                at.fail(format!("{} must be an absolute path below `/`, without `..`", quoted(&path)));
            }
            path
        });
        VolumeMount {
            name: name.unwrap_or_default(),
            mount_path: mount_path.unwrap_or_default(),
            sub_path: f.get("subPath").map(|at| inner_path(&at)).filter(|path| !path.is_empty()),
            read_only: f.flag("readOnly"),
        }
    }
}
