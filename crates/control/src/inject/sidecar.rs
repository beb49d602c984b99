//! The proxy's container and its volumes, and how they come into the pod.

use std::collections::BTreeSet;

use mizzen_api::istio::Interception;
use mizzen_types::ports;
use serde_json::{Map, Value, json};

use super::{
    InjectConfig, InjectError,
    annotations::{Template, Wanted},
    config::ProxyValues,
    init,
    merge::{self, Given},
    metadata::Owner,
    pod::{CONTAINERS, INIT_CONTAINERS, PROXY, PROXY_ID, Pod, list_of, map_of},
    proxy_env,
};
use crate::names::ROOT;

/// The proxy's program in its image.
const PROGRAM: &str = "/usr/local/bin/mizzen-proxy";

/// For how long a workload's token is good, in seconds, and for whom.
const TOKEN_SECONDS: u32 = 43_200;
const TOKEN_AUDIENCE: &str = "istio-ca";

/// How long a probe of the proxy may take, in seconds.
const PROBE_TIMEOUT: u32 = 3;

/// Which of Linux's settings lets a gateway without capabilities listen on 80 and 443.
const LOW_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

/// What is put into a pod.
pub(super) struct Made {
    proxy: Map<String, Value>,
    init: Option<Map<String, Value>>,
    volumes: Vec<Value>,
}

/// The names of what was put into a pod.
#[derive(Default)]
pub(super) struct Added {
    pub(super) init_containers: Vec<&'static str>,
    pub(super) containers: Vec<&'static str>,
    pub(super) volumes: Vec<String>,
}

impl Made {
    pub(super) fn new(pod: &Pod, given: &Given, wanted: &Wanted, owner: &Owner, config: &InjectConfig) -> Made {
        let mut proxy = container(wanted, config);
        proxy.insert("env".to_owned(), proxy_env::env(pod, given, wanted, owner, config).into());
        Made {
            proxy,
            init: (wanted.template == Template::Sidecar).then(|| init::container(wanted, config)),
            volumes: volumes(wanted, config),
        }
    }

    /// Puts all of it into the pod; `env` are variables that came of the pod's other containers.
    pub(super) fn put(
        mut self,
        pod: &mut Pod,
        given: &Given,
        env: Vec<Value>,
        wanted: &Wanted,
        config: &InjectConfig,
    ) -> Result<Added, InjectError> {
        let mut added = Added::default();
        if let Some(Value::Array(all)) = self.proxy.get_mut("env") {
            merge::items(all, &env, "name");
        }
        if let Some(own) = &given.proxy {
            merge::over(&mut self.proxy, own);
        }
        if let (Some(init), Some(own), false) = (&mut self.init, &given.init, config.cni) {
            merge::over(init, own);
        }
        let first = init::name(config);
        let native = wanted.native && wanted.template == Template::Sidecar;
        if native {
            self.proxy.insert("restartPolicy".to_owned(), "Always".into());
            // The capture first, then the proxy, then all init containers of the pod: they are in the mesh, too.
            let containers = pod.list_mut(INIT_CONTAINERS)?;
            containers.splice(0..0, self.init.into_iter().chain([self.proxy]).map(Value::Object));
            added.init_containers = vec![first, PROXY];
        } else {
            if let Some(init) = self.init {
                // Behind what sets the capture nothing reaches the network without a proxy, which does not run yet: it is the last. What looks whether the
                // node has set it is the first, so that nothing runs where that is not so.
                let containers = pod.list_mut(INIT_CONTAINERS)?;
                containers.insert(if config.cni { 0 } else { containers.len() }, init.into());
                added.init_containers = vec![first];
            }
            let containers = pod.list_mut(CONTAINERS)?;
            // kubelet starts a container when the one before it has ended its hook.
            let place = if wanted.hold && wanted.template == Template::Sidecar { 0 } else { containers.len() };
            containers.insert(place, self.proxy.into());
            added.containers = vec![PROXY];
        }
        put_volumes(pod, self.volumes, &mut added)?;
        if !config.proxy.pull_secrets.is_empty() {
            let secrets: Vec<Value> = config.proxy.pull_secrets.iter().map(|name| json!({ "name": name })).collect();
            merge::items(pod.list_mut("imagePullSecrets")?, &secrets, "name");
        }
        security(pod, wanted, config)?;
        Ok(added)
    }
}

fn put_volumes(pod: &mut Pod, volumes: Vec<Value>, added: &mut Added) -> Result<(), InjectError> {
    let list = pod.list_mut("volumes")?;
    let name = |volume: &Value| volume.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let there: BTreeSet<String> = list.iter().map(name).collect();
    // A volume that the author gave by one of our names is the author's.
    for volume in volumes.into_iter().filter(|volume| !there.contains(&name(volume))) {
        added.volumes.push(name(&volume));
        list.push(volume);
    }
    Ok(())
}

/// What the pod as a whole is allowed.
fn security(pod: &mut Pod, wanted: &Wanted, config: &InjectConfig) -> Result<(), InjectError> {
    if wanted.template == Template::Gateway {
        let of = map_of(pod.spec_mut()?, "securityContext", "spec.securityContext")?;
        if config.gateway_security_context.is_empty() {
            let sysctls = list_of(of, "sysctls", "spec.securityContext.sysctls")?;
            if !sysctls.iter().any(|one| one.get("name").and_then(Value::as_str) == Some(LOW_PORTS)) {
                sysctls.push(json!({ "name": LOW_PORTS, "value": "0" }));
            }
        } else {
            for (key, value) in &config.gateway_security_context {
                of.entry(key.clone()).or_insert(value.clone());
            }
        }
        if !config.gateway_seccomp.is_empty() {
            of.entry("seccompProfile").or_insert(config.gateway_seccomp.clone().into());
        }
    }
    if config.fs_group {
        map_of(pod.spec_mut()?, "securityContext", "spec.securityContext")?.entry("fsGroup").or_insert(PROXY_ID.into());
    }
    Ok(())
}

/// The map of a literal.
pub(super) fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

/// An image: the annotation's, else the values'; a name without `/` is one of the hub.
pub(super) fn image(name: &str, own: Option<&str>, values: &ProxyValues) -> String {
    let name = own.unwrap_or(name);
    if name.contains('/') { name.to_owned() } else { format!("{}/{name}:{}", values.hub, values.tag) }
}

/// The proxy's container, but for its environment.
fn container(wanted: &Wanted, config: &InjectConfig) -> Map<String, Value> {
    let values = &config.proxy;
    let role = match wanted.template {
        Template::Sidecar => "sidecar",
        Template::Gateway => "router",
    };
    let mut args = vec![
        "proxy".to_owned(),
        role.to_owned(),
        "--domain".to_owned(),
        format!("$(POD_NAMESPACE).svc.{}", values.cluster_domain),
        format!("--proxyLogLevel={}", wanted.log_level),
    ];
    if !wanted.component_log_level.is_empty() {
        args.push(format!("--proxyComponentLogLevel={}", wanted.component_log_level));
    }
    args.push(format!("--log_output_level={}", wanted.agent_log_level));
    let ready = json!({ "path": "/healthz/ready", "port": ports::READINESS });
    let [delay, period, failures] = wanted.readiness;
    let mut container = object(json!({
        "name": PROXY,
        "image": image(&values.image, wanted.image.as_deref(), values),
        "args": args,
        "ports": [{ "name": "http-envoy-prom", "containerPort": ports::METRICS, "protocol": "TCP" }],
    }));
    if !values.pull_policy.is_empty() {
        container.insert("imagePullPolicy".to_owned(), values.pull_policy.as_str().into());
    }
    if failures > 0 {
        let probe = json!({
            "httpGet": ready, "initialDelaySeconds": delay, "periodSeconds": period, "timeoutSeconds": PROBE_TIMEOUT, "failureThreshold": failures,
        });
        container.insert("readinessProbe".to_owned(), probe);
    }
    if let (Some(failures), Template::Sidecar) = (values.startup, wanted.template) {
        let probe = json!({ "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": PROBE_TIMEOUT, "failureThreshold": failures });
        container.insert("startupProbe".to_owned(), probe);
    }
    if !values.lifecycle.is_empty() {
        container.insert("lifecycle".to_owned(), values.lifecycle.clone().into());
    } else if wanted.hold && !wanted.native && wanted.template == Template::Sidecar {
        container.insert("lifecycle".to_owned(), json!({ "postStart": { "exec": { "command": [PROGRAM, "wait"] } } }));
    }
    container.insert("resources".to_owned(), wanted.resources.as_ref().unwrap_or(&values.resources).clone().into());
    let mut security = unprivileged(config);
    if wanted.interception == Interception::Tproxy {
        be_transparent(&mut security);
    }
    container.insert("securityContext".to_owned(), security);
    container.insert("volumeMounts".to_owned(), mounts(wanted, config).into());
    container
}

/// What it takes to call the program from its clients' addresses: one capability, which only root gets from a container runtime. The capture knows the proxy by
/// its group then.
fn be_transparent(security: &mut Value) {
    security["capabilities"]["add"] = json!(["NET_ADMIN"]);
    security["runAsNonRoot"] = false.into();
    security["runAsUser"] = 0.into();
}

/// What the proxy needs, which is nothing. Where no container sets the capture, a namespace of the level `restricted` takes it.
pub(super) fn unprivileged(config: &InjectConfig) -> Value {
    let mut context = object(json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": PROXY_ID,
        "runAsNonRoot": true,
        "runAsUser": PROXY_ID,
    }));
    let seccomp = &config.proxy.seccomp;
    if !seccomp.is_empty() {
        context.insert("seccompProfile".to_owned(), seccomp.clone().into());
    } else if config.cni {
        context.insert("seccompProfile".to_owned(), json!({ "type": "RuntimeDefault" }));
    }
    context.into()
}

fn mounts(wanted: &Wanted, config: &InjectConfig) -> Vec<Value> {
    let mount = |name: &str, path: &str, read_only: bool| {
        let mut mount = object(json!({ "name": name, "mountPath": path }));
        if read_only {
            mount.insert("readOnly".to_owned(), true.into());
        }
        Value::Object(mount)
    };
    let mut mounts = vec![mount("istiod-ca-cert", "/var/run/secrets/istio", true)];
    if !config.first_party_token {
        mounts.push(mount("istio-token", "/var/run/secrets/tokens", true));
    }
    mounts.push(mount("istio-envoy", "/etc/istio/proxy", false));
    mounts.push(mount("istio-data", "/var/lib/istio/data", false));
    mounts.push(mount("istio-podinfo", "/etc/istio/pod", true));
    mounts.extend(wanted.volume_mounts.iter().cloned());
    mounts
}

fn volumes(wanted: &Wanted, config: &InjectConfig) -> Vec<Value> {
    let item = |path: &str, field: &str| json!({ "path": path, "fieldRef": { "fieldPath": field } });
    let mut volumes = vec![
        json!({ "name": "istio-envoy", "emptyDir": { "medium": "Memory" } }),
        json!({ "name": "istio-data", "emptyDir": {} }),
        json!({
            "name": "istio-podinfo",
            "downwardAPI": { "items": [item("labels", "metadata.labels"), item("annotations", "metadata.annotations")] },
        }),
    ];
    if !config.first_party_token {
        let token = json!({ "path": "istio-token", "expirationSeconds": TOKEN_SECONDS, "audience": TOKEN_AUDIENCE });
        volumes.push(json!({ "name": "istio-token", "projected": { "sources": [{ "serviceAccountToken": token }] } }));
    }
    volumes.push(json!({ "name": "istiod-ca-cert", "configMap": { "name": ROOT } }));
    volumes.extend(wanted.volumes.iter().cloned());
    volumes
}
