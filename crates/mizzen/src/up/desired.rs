//! What should run, from the objects of the folder: one [`Wanted`] for each replica of each deployment. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

use mizzen_api::{
    Key, Kind, Object,
    core::{ClusterIp, ConfigMap, Container, Deployment, EnvValue, FieldRef, PodSpec, VolumeSource},
    istio::{Gateway, Server},
};
use mizzen_model::{TLS_MODE_LABEL, single};
use mizzen_types::Protocol;

use super::address::VirtualOf;

/// All objects of the folder.
pub(crate) type Objects = BTreeMap<Key, Arc<Object>>;

/// A program that should run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    /// The pod's name, the same as long as the template is.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// The deployment; its name is the workload's.
    pub(crate) workload: String,
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// What runs in it; exactly one container.
    pub(crate) spec: PodSpec,
    /// Whether nothing runs in it but the proxy, as a gateway.
    pub(crate) is_gateway: bool,
}

/// A file that a program sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Relative to the volume.
    pub(crate) path: String,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// Its mode.
    pub(crate) mode: u32,
}

impl Wanted {
    /// `NAMESPACE.NAME`, which no other has.
    pub(crate) fn id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// The name of its folder and files, short whatever its own name is.
    pub(crate) fn short(&self) -> String {
        short(&self.id())
    }

    /// Its host name: the pod's name, as far as the kernel takes it.
    pub(crate) fn hostname(&self) -> &str {
        let end = self.name.char_indices().nth(63).map_or(self.name.len(), |(at, _)| at);
        self.name[..end].trim_end_matches(['-', '.'])
    }

    /// Its labels with those that injection would have written.
    pub(crate) fn told_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        // Every workload of this mesh has a sidecar, as injection would have noted here. What a gateway's servers say is what it takes: sidecars that
        // call it begin mutual TLS where a DestinationRule says so.
        if !self.is_gateway {
            labels.entry(TLS_MODE_LABEL.to_owned()).or_insert_with(|| "istio".to_owned());
        }
        // The name of the deployment, as Istio's own label for what is no pod of Kubernetes.
        labels.entry("service.istio.io/workload-name".to_owned()).or_insert_with(|| self.workload.clone());
        labels
    }

    /// The container; an empty one for a program that `mizzen run` brought along.
    pub(crate) fn container(&self) -> &Container {
        static NONE: LazyLock<Container> = LazyLock::new(Container::default);
        self.spec.containers.first().unwrap_or(&NONE)
    }

    /// The environment, with all references looked up.
    ///
    /// # Errors
    /// If a config map or a key that is not optional is missing.
    pub(crate) fn env(&self, objects: &Objects, address: Ipv4Addr, host: Ipv4Addr) -> Result<Vec<(String, String)>, String> {
        let mut env: Vec<(String, String)> = Vec::new();
        let mut set = |name: String, value: String| {
            env.retain(|(known, _)| *known != name);
            env.push((name, value));
        };
        for from in &self.container().env_from {
            match config_map(objects, &self.namespace, &from.config_map) {
                Some(map) => map.data.iter().for_each(|(key, value)| set(format!("{}{key}", from.prefix), value.clone())),
                None if from.optional => {}
                None => return Err(format!("ConfigMap {}/{} does not exist", self.namespace, from.config_map)),
            }
        }
        for variable in &self.container().env {
            let value = match &variable.value {
                EnvValue::Literal(text) => Some(text.clone()),
                EnvValue::Field(field) => Some(self.field(field, address, host)),
                EnvValue::ConfigMapKey { name, key, optional } => {
                    let value = config_map(objects, &self.namespace, name).and_then(|map| map.data.get(key).cloned());
                    if value.is_none() && !optional {
                        return Err(format!("key {key} of ConfigMap {}/{name} does not exist", self.namespace));
                    }
                    value
                }
            };
            if let Some(value) = value {
                set(variable.name.clone(), value);
            }
        }
        for at in 0..env.len() {
            env[at].1 = expand(&env[at].1, &env[..at]);
        }
        Ok(env)
    }

    /// The program and its arguments, `$(NAME)` replaced.
    pub(crate) fn argv(&self, env: &[(String, String)]) -> Vec<String> {
        let container = self.container();
        container.command.iter().chain(&container.args).map(|arg| expand(arg, env)).collect()
    }

    fn field(&self, field: &FieldRef, address: Ipv4Addr, host: Ipv4Addr) -> String {
        match field {
            FieldRef::Name => self.name.clone(),
            FieldRef::Namespace => self.namespace.clone(),
            FieldRef::Uid => self.id(),
            FieldRef::Label(key) => self.labels.get(key).cloned().unwrap_or_default(),
            FieldRef::Annotation(key) => self.annotations.get(key).cloned().unwrap_or_default(),
            FieldRef::ServiceAccount => self.spec.service_account.clone(),
            FieldRef::NodeName => "localhost".to_owned(),
            FieldRef::PodIp => address.to_string(),
            FieldRef::HostIp => host.to_string(),
        }
    }

    /// The files of the volume called `name`; none for an empty folder.
    ///
    /// # Errors
    /// If a config map or a key that is not optional is missing.
    pub(crate) fn files(&self, objects: &Objects, name: &str) -> Result<Vec<File>, String> {
        let Some(volume) = self.spec.volumes.iter().find(|v| v.name == name) else { return Ok(Vec::new()) };
        let VolumeSource::ConfigMap { name, items, optional, mode } = &volume.source else { return Ok(Vec::new()) };
        let Some(map) = config_map(objects, &self.namespace, name) else {
            return if *optional { Ok(Vec::new()) } else { Err(format!("ConfigMap {}/{name} does not exist", self.namespace)) };
        };
        let value = |key: &str| map.data.get(key).map(|t| t.clone().into_bytes()).or_else(|| map.binary_data.get(key).cloned());
        let wanted: Vec<(String, String)> = if items.is_empty() {
            map.data.keys().chain(map.binary_data.keys()).map(|key| (key.clone(), key.clone())).collect()
        } else {
            items.clone()
        };
        let mut files = Vec::new();
        for (key, path) in wanted {
            match value(&key) {
                Some(bytes) => files.push(File { path, bytes, mode: *mode }),
                None if *optional => {}
                None => return Err(format!("key {key} of ConfigMap {}/{name} does not exist", self.namespace)),
            }
        }
        Ok(files)
    }
}

fn config_map<'a>(objects: &'a Objects, namespace: &str, name: &str) -> Option<&'a ConfigMap> {
    match objects.get(&Key::new(Kind::ConfigMap, namespace, name)).map(|o| &**o) {
        Some(Object::ConfigMap(map)) => Some(map),
        _ => None,
    }
}

/// Replaces `$(NAME)` by the variable; `$$(NAME)` stays as `$(NAME)`, and a name that is not set stays as it is, as in Kubernetes.
fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| env.iter().find(|(known, _)| known == name).map(|(_, value)| (value, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

/// A name for files that stands for `text`, of 16 bytes whatever its length: names in Kubernetes may be so long that no file could have them,
/// and the path of a Unix socket has at most 107 bytes in all.
pub(crate) fn short(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// All programs that should run, by namespace and name.
pub(crate) fn wanted(objects: &Objects) -> BTreeMap<String, Wanted> {
    let mut found = BTreeMap::new();
    for object in objects.values() {
        if let Object::Deployment(deployment) = &**object {
            found.extend(replicas(deployment).map(|w| (w.id(), w)));
        }
    }
    found
}

fn replicas(deployment: &Deployment) -> impl Iterator<Item = Wanted> {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", deployment.template).hash(&mut hasher);
    // Kubernetes' alphabet for generated names: no vowels, so no words.
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    let mut number = hasher.finish();
    let mut hash = String::new();
    for _ in 0..5 {
        hash.push(char::from(alphabet[(number % alphabet.len() as u64) as usize]));
        number /= alphabet.len() as u64;
    }
    let template = &deployment.template;
    let one = move |at: u32| Wanted {
        name: format!("{}-{hash}-{at}", deployment.meta.name),
        namespace: deployment.meta.namespace.to_string(),
        workload: deployment.meta.name.to_string(),
        labels: template.labels.clone(),
        annotations: template.annotations.clone(),
        spec: template.spec.clone(),
        is_gateway: template.is_gateway(),
    };
    (0..deployment.replicas).map(one)
}

/// The host names that need virtual addresses, and the addresses that objects name, which no other is to get. Of a name of both a service and a ServiceEntry
/// the service's counts.
pub(crate) fn virtual_addresses(objects: &Objects) -> (BTreeMap<String, VirtualOf>, BTreeSet<IpAddr>) {
    let (mut wanted, mut named) = (BTreeMap::new(), BTreeSet::new());
    for object in objects.values() {
        match &**object {
            Object::Service(service) => match service.cluster_ip {
                ClusterIp::Headless => {}
                ClusterIp::Auto => {
                    wanted.insert(format!("{}.{}.svc.cluster.local", service.meta.name, service.meta.namespace), VirtualOf::Service);
                }
                ClusterIp::Address(ip) => drop(named.insert(ip)),
            },
            Object::ServiceEntry(entry) => {
                named.extend(single(&entry.addresses));
                for host in entry.allocatable_hosts().filter(|h| !h.is_wildcard()) {
                    wanted.entry(host.as_str().to_owned()).or_insert(VirtualOf::Entry);
                }
            }
            _ => {}
        }
    }
    (wanted, named)
}

/// Which Gateways are served, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Serving {
    /// Those of plain text over HTTPS, too.
    pub(crate) https: bool,
    /// By gateways of their own namespace alone.
    pub(crate) stay_home: bool,
}

/// The Gateways that select a gateway with these labels in this namespace.
pub(crate) fn selecting<'o>(
    objects: &'o Objects,
    namespace: &'o str,
    labels: &'o BTreeMap<String, String>,
    stay_home: bool,
) -> impl Iterator<Item = &'o Gateway> {
    let gateways = objects.values().filter_map(|object| if let Object::Gateway(found) = &**object { Some(found) } else { None });
    gateways.filter(move |found| found.selector.matches(labels) && (!stay_home || *found.meta.namespace == *namespace))
}

/// The ports of all Gateways for a gateway, by number, each with the scheme of what comes there. With HTTPS, those of plain text have one more.
pub(crate) fn gateway_ports(
    objects: &Objects,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    serving: Serving,
) -> BTreeMap<u16, &'static str> {
    let mut ports = BTreeMap::new();
    for found in selecting(objects, namespace, labels, serving.stay_home) {
        ports.extend(found.servers.iter().map(|server| (server.port.number, scheme(server))));
        let more = found.also_https("").filter(|_| serving.https);
        ports.extend(more.iter().flat_map(|found| &found.servers).map(|server| (server.port.number, scheme(server))));
    }
    ports
}

fn scheme(server: &Server) -> &'static str {
    match (server.is_tls(), server.port.protocol) {
        (true, Protocol::Https) => "https",
        (true, _) => "tls",
        (false, protocol) if protocol.is_http() => "http",
        (false, _) => "tcp",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Those of a text, none of which may be refused.
    pub(crate) fn objects(text: &str) -> Objects {
        let parsed = mizzen_api::parse_documents(text, &"test.yaml".into());
        parsed.objects.into_iter().map(|o| o.unwrap_or_else(|r| panic!("{r:?}"))).map(|o| (o.key(), Arc::new(o))).collect()
    }

    #[test]
    fn who_gets_a_virtual_address() {
        let entry = |name: &str, labels: &str, rest: &str| {
            format!(
                "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, labels: {{{labels}}}}}, \
                 spec: {{hosts: [{name}.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}], {rest}}}}}"
            )
        };
        let all = [
            entry("a", "", "resolution: DNS"),
            entry("b", "'networking.istio.io/enable-autoallocate-ip': 'false'", "resolution: DNS"),
            // Whoever takes what was dialled must be dialled where it is.
            entry("c", "", "resolution: NONE"),
            entry("d", "", "resolution: DNS, addresses: [192.0.2.1]"),
            "{apiVersion: v1, kind: Service, metadata: {name: e, namespace: shop}, spec: {ports: [{port: 80}]}}".to_owned(),
            "{apiVersion: v1, kind: Service, metadata: {name: f, namespace: shop}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}"
                .to_owned(),
        ];
        let (found, named) = virtual_addresses(&objects(&all.join("\n---\n")));
        let expected = [("a.example.com", VirtualOf::Entry), ("e.shop.svc.cluster.local", VirtualOf::Service)];
        assert_eq!(found, expected.map(|(name, of)| (name.to_owned(), of)).into());
        assert_eq!(named, ["192.0.2.1", "10.96.0.9"].map(|ip| ip.parse().unwrap()).into());
    }

    #[test]
    fn ports_of_gateways() {
        let text = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: b, protocol: HTTPS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 444, name: c, protocol: HTTPS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}
  - {port: {number: 445, name: d, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}
  - {port: {number: 446, name: e, protocol: TCP}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 447, name: f, protocol: TCP}, hosts: ['*']}
";
        let (objects, labels) = (objects(text), super::super::gateway::labels());
        let ports = |serving| gateway_ports(&objects, "istio-system", &labels, serving).into_iter().collect::<Vec<_>>();
        let expected = [(80, "http"), (443, "https"), (444, "https"), (445, "tls"), (446, "tls"), (447, "tcp")];
        assert_eq!(ports(Serving::default()), expected);
        assert!(ports(Serving { stay_home: true, ..Serving::default() }).is_empty(), "it is of another namespace");
    }

    const SHOP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {colour: red, greeting: hello}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      volumes: [{name: conf, configMap: {name: settings, items: [{key: greeting, path: sub/greeting.txt}]}}]
      containers:
      - name: web
        image: any
        command: [serve, $(WHERE)]
        args: [\"$$(WHERE)\", $(NOT)]
        envFrom: [{configMapRef: {name: settings}, prefix: S_}]
        env:
        - {name: WHERE, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: URL, value: http://$(WHERE)/}
        - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
        volumeMounts: [{name: conf, mountPath: /etc/web}]
";

    #[test]
    fn deployment() {
        let objects = objects(SHOP);
        let wanted = wanted(&objects);
        let folders: Vec<&String> = wanted.keys().collect();
        assert_eq!(folders.len(), 2);
        assert!(folders[0].starts_with("shop.web-") && folders[0].ends_with("-0"), "{folders:?}");
        let one = &wanted[folders[0]];
        let env = one.env(&objects, Ipv4Addr::new(10, 244, 0, 16), Ipv4Addr::new(10, 244, 0, 1)).unwrap();
        let expected =
            [("S_colour", "red"), ("S_greeting", "hello"), ("WHERE", "10.244.0.16"), ("URL", "http://10.244.0.16/"), ("COLOUR", "red")];
        assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(one.argv(&env), ["serve", "10.244.0.16", "$(WHERE)", "$(NOT)"]);
        assert_eq!(one.files(&objects, "conf").unwrap(), [File { path: "sub/greeting.txt".into(), bytes: b"hello".into(), mode: 0o644 }]);
    }

    #[test]
    fn a_changed_template_is_another_pod() {
        let before = wanted(&objects(SHOP));
        let scaled = wanted(&objects(&SHOP.replace("replicas: 2", "replicas: 3")));
        assert!(before.keys().all(|name| scaled.contains_key(name)));
        let changed = wanted(&objects(&SHOP.replace("[serve,", "[other,")));
        assert!(before.keys().all(|name| !changed.contains_key(name)));
    }

    #[test]
    fn a_missing_config_map_is_an_error() {
        let mut objects = objects(SHOP);
        let wanted = wanted(&objects);
        objects.remove(&Key::new(Kind::ConfigMap, "shop", "settings"));
        let one = wanted.values().next().unwrap();
        let any = Ipv4Addr::LOCALHOST;
        assert_eq!(one.env(&objects, any, any).unwrap_err(), "ConfigMap shop/settings does not exist");
        assert_eq!(one.files(&objects, "conf").unwrap_err(), "ConfigMap shop/settings does not exist");
    }
}
