//! The configuration of the load, and its changes. Each change replaces one file in one step, and so does its way back.

use std::{
    fmt::Write,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Result;

/// Endpoints of a service.
const ENDPOINTS: u32 = 5;
/// Services of a namespace.
const EACH: u32 = 10;

/// The service that nobody calls.
const UNUSED: u32 = 0;

/// A folder with services.
pub(in crate::bench) struct Mesh {
    folder: PathBuf,
    /// Where files are written before they are moved to their places.
    staging: PathBuf,
    services: u32,
}

/// What is not as it was written first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One object of which no proxy gets anything.
    Unrelated,
    /// The address of one endpoint.
    Endpoint,
    /// The same, of a service that nobody calls.
    Unused,
    /// The weights of one route.
    Weight,
    /// One service more.
    Service,
    /// Who must speak mutual TLS.
    Mode,
}

/// A service, as its file says it.
#[derive(Clone, Copy)]
struct Service {
    number: u32,
    namespace: u32,
    moved: bool,
    weight: u32,
}

/// Where a proxy stands.
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) app: String,
    pub(super) ip: Ipv4Addr,
}

impl Mesh {
    /// Writes all of it.
    pub(super) fn write(dir: &Path, services: u32) -> Result<Mesh> {
        let mesh = Mesh { folder: dir.join("config"), staging: dir.join("staging"), services };
        fs::create_dir_all(&mesh.staging)?;
        for namespace in 0..services.div_ceil(EACH) {
            let folder = mesh.folder.join(format!("ns{namespace}"));
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("namespace.yaml"), namespace_yaml(namespace))?;
        }
        for number in 0..services {
            let service = mesh.service(number);
            fs::write(mesh.file(service), service.yaml())?;
        }
        fs::write(mesh.folder.join("mode.yaml"), mode_yaml("STRICT"))?;
        fs::write(mesh.folder.join("unrelated.yaml"), unrelated_yaml("0"))?;
        Ok(mesh)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many services have about so many objects, with what belongs to their namespaces.
    pub(in crate::bench) fn services_of(objects: u32) -> u32 {
        (objects * EACH / (3 * EACH + 2)).max(1)
    }

    /// The objects of so many services, by the number of their namespace: what is its own, and then three for each service. Each begins as a document.
    pub(in crate::bench) fn namespaces(services: u32) -> impl Iterator<Item = (u32, Vec<String>)> {
        let mesh = Mesh { folder: PathBuf::new(), staging: PathBuf::new(), services };
        (0..services.div_ceil(EACH)).map(move |namespace| {
            let numbers = namespace * EACH..services.min((namespace + 1) * EACH);
            let objects = namespace_objects(namespace).into_iter().chain(numbers.flat_map(|number| mesh.service(number).objects()));
            (namespace, objects.map(|object| format!("---\n{object}")).collect())
        })
    }

    /// As it is written first. One that is more than there were belongs to a namespace that is there.
    fn service(&self, number: u32) -> Service {
        Service { number, namespace: number.min(self.services - 1) / EACH, moved: false, weight: 90 }
    }

    fn file(&self, service: Service) -> PathBuf {
        self.folder.join(format!("ns{}/s{}.yaml", service.namespace, service.number))
    }

    /// Makes a change, or takes it back. When it was done.
    pub(super) fn change(&self, change: Change, done: bool) -> Result<Instant> {
        let service = self.service(self.services / 2);
        let unused = self.service(UNUSED);
        match (change, done) {
            (Change::Unrelated, _) => self.replace(&self.folder.join("unrelated.yaml"), &unrelated_yaml(if done { "1" } else { "0" })),
            (Change::Endpoint, _) => self.replace(&self.file(service), &Service { moved: done, ..service }.yaml()),
            (Change::Unused, _) => self.replace(&self.file(unused), &Service { moved: done, ..unused }.yaml()),
            (Change::Weight, _) => self.replace(&self.file(service), &Service { weight: if done { 70 } else { 90 }, ..service }.yaml()),
            (Change::Mode, _) => self.replace(&self.folder.join("mode.yaml"), &mode_yaml(if done { "PERMISSIVE" } else { "STRICT" })),
            (Change::Service, true) => self.replace(&self.more(), &self.service(self.services).yaml()),
            (Change::Service, false) => {
                let begun = Instant::now();
                fs::remove_file(self.more())?;
                Ok(begun)
            }
        }
    }

    fn more(&self) -> PathBuf {
        self.folder.join("more.yaml")
    }

    fn replace(&self, path: &Path, text: &str) -> Result<Instant> {
        let new = self.staging.join("new");
        fs::write(&new, text)?;
        let begun = Instant::now();
        fs::rename(&new, path)?;
        Ok(begun)
    }

    /// The hosts that a proxy calls: the one that changes, and others that are not the same for all. `None` if there are not so many.
    pub(super) fn destinations(&self, proxy: u32, number: u32) -> Option<Vec<String>> {
        let used = self.services / 2;
        let others = (0..self.services).map(|n| (n + proxy.wrapping_mul(7)) % self.services).filter(|n| *n != used && *n != UNUSED);
        let hosts: Vec<String> = [used].into_iter().chain(others).take(number as usize).map(|n| self.service(n).host()).collect();
        (used != UNUSED && hosts.len() == number as usize).then_some(hosts)
    }

    /// Proxies stand at the endpoints of services, as far as there are endpoints that stay where they are.
    pub(super) fn place(&self, proxy: u32) -> Place {
        let service = self.service(proxy % self.services);
        let endpoint = proxy / self.services;
        // The last endpoint moves.
        let ip = if endpoint + 1 < ENDPOINTS { service.endpoint(endpoint) } else { address([100, 64, 0, 0], proxy) };
        Place { namespace: format!("ns{}", service.namespace), app: format!("s{}", service.number), ip }
    }
}

impl Service {
    fn endpoint(self, number: u32) -> Ipv4Addr {
        address([10, 0, 0, 0], self.number * ENDPOINTS + number + 1)
    }

    fn host(self) -> String {
        format!("s{}.ns{}.bench.internal", self.number, self.namespace)
    }

    fn yaml(self) -> String {
        self.objects().join("---\n")
    }

    fn objects(self) -> [String; 3] {
        let (name, namespace) = (format!("s{}", self.number), format!("ns{}", self.namespace));
        let host = self.host();
        let meta = format!("metadata: {{name: {name}, namespace: {namespace}}}\nspec:");
        let mut entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n{meta}\n  hosts: [{host}]\n  addresses: [{}]\n  \
             location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: 8080, name: http, protocol: HTTP}}]\n  endpoints:\n",
            address([172, 16, 0, 0], self.number + 1)
        );
        for number in 0..ENDPOINTS {
            let moved = self.moved && number + 1 == ENDPOINTS;
            let address = if moved { Ipv4Addr::new(100, 127, 255, 254) } else { self.endpoint(number) };
            let version = number % 2 + 1;
            let _ = writeln!(entry, "  - {{address: {address}, labels: {{app: {name}, version: v{version}}}, serviceAccount: {name}}}");
        }
        let routes = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n{meta}\n  hosts: [{host}]\n  http:\n  - timeout: 10s\n    \
             retries: {{attempts: 2, perTryTimeout: 2s}}\n    route:\n    - {{destination: {{host: {host}, subset: v1}}, weight: {}}}\n    \
             - {{destination: {{host: {host}, subset: v2}}, weight: {}}}\n",
            self.weight,
            100 - self.weight
        );
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n{meta}\n  host: {host}\n  trafficPolicy: \
             {{connectionPool: {{http: {{http1MaxPendingRequests: 100}}}}}}\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  \
             - {{name: v2, labels: {{version: v2}}}}\n"
        );
        [entry, routes, rule]
    }
}

/// The address so many after another.
fn address(base: [u8; 4], number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes(base).wrapping_add(number))
}

fn namespace_yaml(number: u32) -> String {
    namespace_objects(number).join("---\n")
}

fn namespace_objects(number: u32) -> [String; 2] {
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: ns{number}}}\n");
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: callers, namespace: ns{number}}}\nspec:\n  \
         action: ALLOW\n  rules:\n  - from: [{{source: {{namespaces: [ns{number}, ns0]}}}}]\n    to: [{{operation: {{methods: [GET, POST]}}}}]\n"
    );
    [namespace, policy]
}

fn mode_yaml(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: istio-system}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

fn unrelated_yaml(value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: unrelated, namespace: elsewhere}}\ndata: {{value: \"{value}\"}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_call_what_changes_and_none_what_is_unused() {
        let mesh = |services| Mesh { folder: PathBuf::new(), staging: PathBuf::new(), services };
        for proxy in 0..40 {
            let hosts = mesh(20).destinations(proxy, 3).unwrap();
            assert_eq!(hosts[0], "s10.ns1.bench.internal");
            let others: std::collections::BTreeSet<_> = hosts.iter().collect();
            assert!(others.len() == 3 && !hosts.contains(&"s0.ns0.bench.internal".to_owned()), "{hosts:?}");
        }
        assert!(mesh(4).destinations(0, 3).is_some() && mesh(3).destinations(0, 3).is_none() && mesh(1).destinations(0, 1).is_none());
    }
}
