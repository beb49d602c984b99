//! The YAML of the mesh: what carries the load, names that are used now and then, and services that nobody here calls.

use std::{fmt::Write, net::Ipv4Addr};

/// Services of a namespace, of those that nobody calls.
const EACH: u32 = 10;
/// Endpoints of such a service.
const ENDPOINTS: u32 = 5;

/// Where what carries the load is.
pub(super) const NAMESPACE: &str = "churn";
/// The versions of `echo` that routes may name; they stay.
pub(super) const VERSIONS: [&str; 3] = ["a", "b", "c"];
/// One more version, which comes and goes.
pub(super) const FLEETING: &str = "x";

pub(super) const BASE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: churn}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: echo, namespace: churn}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: client, namespace: churn}}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: churn}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 9080}
  - {name: http2, port: 9081, targetPort: 9080}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: churn, namespace: churn}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: churn}
spec:
  hosts: ['*']
  gateways: [churn]
  http:
  - route: [{destination: {host: echo, port: {number: 9080}}}]
";

/// How requests to `echo` are routed inside the mesh.
#[derive(Clone, Debug)]
pub(super) struct Routing {
    /// Versions and weights. None: no route, all versions share.
    pub(super) weights: Vec<(&'static str, u32)>,
    /// Of the DestinationRule, in braces.
    pub(super) traffic_policy: &'static str,
    /// Of the route, a line.
    pub(super) http: &'static str,
}

/// What a DestinationRule may say without a request being lost.
pub(super) const TRAFFIC_POLICIES: [&str; 5] = [
    "",
    "loadBalancer: {simple: ROUND_ROBIN}",
    "loadBalancer: {simple: RANDOM}, connectionPool: {http: {http2MaxRequests: 500}}",
    "connectionPool: {tcp: {maxConnections: 200, connectTimeout: 5s}}",
    "outlierDetection: {consecutive5xxErrors: 50}, connectionPool: {http: {idleTimeout: 20s}}",
];

/// What a route may say, likewise.
pub(super) const HTTP: [&str; 4] =
    ["", "timeout: 9s", "headers: {request: {set: {x-by: mesh}}}", "retries: {attempts: 3, perTryTimeout: 5s, retryOn: connect-failure}"];

impl Routing {
    /// The one version.
    pub(super) fn only(version: &'static str) -> Routing {
        Routing { weights: vec![(version, 100)], traffic_policy: "", http: "" }
    }

    /// A subset exists only while it is in use.
    pub(super) fn yaml(&self) -> String {
        let mut text =
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo, namespace: churn}\nspec:\n  host: echo\n"
                .to_owned();
        if !self.traffic_policy.is_empty() {
            let _ = writeln!(text, "  trafficPolicy: {{{}}}", self.traffic_policy);
        }
        if !self.weights.is_empty() {
            text += "  subsets:\n";
        }
        for (version, _) in &self.weights {
            let _ = writeln!(text, "  - {{name: {version}, labels: {{version: {version}}}}}");
        }
        text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: inside, namespace: churn}\nspec:\n  hosts: [echo]\n  http:\n  - route:\n";
        if self.weights.is_empty() {
            text += "    - {destination: {host: echo}}\n";
        }
        for (version, weight) in &self.weights {
            let _ = writeln!(text, "    - {{destination: {{host: echo, subset: {version}}}, weight: {weight}}}");
        }
        if !self.http.is_empty() {
            let _ = writeln!(text, "    {}", self.http);
        }
        text
    }
}

/// Who must speak mutual TLS, in the mesh or in a namespace.
pub(super) fn mode(namespace: &str, mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: {namespace}}}\nspec: {{mtls: {{mode: \
         {mode}}}}}\n"
    )
}

const CLIENT: &str = "cluster.local/ns/churn/sa/client";
const GATEWAY: &str = "cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account";

/// Policies for all of the namespace, each of which lets the load pass: by name, by namespace, with one that denies others, and none.
pub(super) fn policies() -> [String; 5] {
    let policy = |name: &str, action: &str, rules: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: churn}}\nspec:\n  action: {action}\n  \
             rules:\n  - {rules}\n"
        )
    };
    let names = policy("load", "ALLOW", &format!("from: [{{source: {{principals: [{CLIENT}, {GATEWAY}]}}}}]"));
    let spaces = policy("load", "ALLOW", "from: [{source: {namespaces: [churn, istio-system]}}]");
    let more = names.replace("principals: [", "principals: [cluster.local/ns/churn/sa/visitor, ");
    let deny = policy("others", "DENY", "from: [{source: {principals: [cluster.local/ns/churn/sa/visitor]}}]");
    let empty =
        "# nobody is kept away\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: no-policy, namespace: churn}\ndata: {}\n".to_owned();
    [names.clone(), spaces, more, format!("{names}---\n{deny}"), empty]
}

/// What the client's proxy may see: all there is, said in one way or the other.
pub(super) fn sidecar(all: bool) -> String {
    let hosts = if all { "'*/*'" } else { "./*, 'istio-system/*'" };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: churn}}\nspec:\n  egress:\n  - hosts: [{hosts}]\n"
    )
}

/// A service that is used now and then. It is of the servers' namespace: the identities that it expects are of its own.
#[derive(Clone, Debug)]
pub(super) struct Rare {
    pub(super) number: u32,
    /// Over HTTP, else lines over TCP.
    pub(super) http: bool,
    /// Where it is: what runs there answers.
    pub(super) endpoints: Vec<Ipv4Addr>,
    /// Of a DestinationRule of its own, in braces.
    pub(super) traffic_policy: Option<&'static str>,
    /// Of a VirtualService of its own.
    pub(super) route: Option<&'static str>,
}

impl Rare {
    pub(super) fn host(&self) -> String {
        format!("r{}.rare.test", self.number)
    }

    pub(super) fn port(&self) -> u16 {
        if self.http { 9080 } else { 7070 }
    }

    pub(super) fn file(&self) -> String {
        format!("rare-{}.yaml", self.number)
    }

    pub(super) fn yaml(&self) -> String {
        let (host, number, port) = (self.host(), self.number, self.port());
        let (name, protocol) = if self.http { ("http", "HTTP") } else { ("tcp", "TCP") };
        let meta = format!("metadata: {{name: r{number}, namespace: churn}}\nspec:");
        let mut text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n{meta}\n  hosts: [{host}]\n  addresses: [{}]\n  location: MESH_INTERNAL\n  \
             resolution: STATIC\n  ports: [{{number: {port}, name: {name}, protocol: {protocol}}}]\n  endpoints:\n",
            after([172, 30, 0, 0], number + 1)
        );
        for address in &self.endpoints {
            let _ = writeln!(text, "  - {{address: {address}, serviceAccount: echo, labels: {{security.istio.io/tlsMode: istio}}}}");
        }
        if let Some(policy) = self.traffic_policy {
            let policy = if policy.is_empty() { String::new() } else { format!("  trafficPolicy: {{{policy}}}\n") };
            let _ = write!(text, "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n{meta}\n  host: {host}\n{policy}");
        }
        if let (Some(route), true) = (self.route, self.http) {
            let line = if route.is_empty() { String::new() } else { format!("    {route}\n") };
            let _ = write!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n{meta}\n  hosts: [{host}]\n  http:\n  - route: [{{destination: \
                 {{host: {host}}}}}]\n{line}"
            );
        }
        text
    }
}

/// A service that nobody here calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere {
    pub(super) number: u32,
    /// How often an endpoint of it has moved.
    pub(super) moved: u32,
    pub(super) weight: u32,
    pub(super) connections: u32,
}

impl Elsewhere {
    pub(super) fn new(number: u32) -> Elsewhere {
        Elsewhere { number, moved: 0, weight: 90, connections: 100 }
    }

    pub(super) fn file(self) -> String {
        format!("e{}/s{}.yaml", self.number / EACH, self.number)
    }

    pub(super) fn yaml(self) -> String {
        let (name, namespace) = (format!("s{}", self.number), format!("e{}", self.number / EACH));
        let host = format!("{name}.{namespace}.elsewhere.test");
        let meta = format!("metadata: {{name: {name}, namespace: {namespace}}}\nspec:");
        let mut text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n{meta}\n  hosts: [{host}]\n  addresses: [{}]\n  location: MESH_INTERNAL\n  \
             resolution: STATIC\n  ports: [{{number: 8080, name: http, protocol: HTTP}}]\n  endpoints:\n",
            after([172, 16, 0, 0], self.number + 1)
        );
        for number in 0..ENDPOINTS {
            let address = if number == 0 {
                after([100, 64, 0, 0], self.number * 16 + self.moved % 16)
            } else {
                after([10, 0, 0, 0], self.number * ENDPOINTS + number + 1)
            };
            let _ =
                writeln!(text, "  - {{address: {address}, labels: {{app: {name}, version: v{}}}, serviceAccount: {name}}}", number % 2 + 1);
        }
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n{meta}\n  hosts: [{host}]\n  http:\n  - timeout: 10s\n    route:\n    - \
             {{destination: {{host: {host}, subset: v1}}, weight: {}}}\n    - {{destination: {{host: {host}, subset: v2}}, weight: {}}}\n",
            self.weight,
            100 - self.weight
        );
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n{meta}\n  host: {host}\n  trafficPolicy: {{connectionPool: {{http: \
             {{http1MaxPendingRequests: {}}}}}}}\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: v2, labels: {{version: v2}}}}\n",
            self.connections
        );
        text
    }
}

/// The files of the namespaces of so many services.
pub(super) fn namespaces(services: u32) -> impl Iterator<Item = (String, String)> {
    // As many again as there are at the start may come.
    (0..services.div_ceil(EACH) * 2 + 2)
        .map(|n| (format!("e{n}/namespace.yaml"), format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: e{n}}}}}\n")))
}

/// The address so many after another.
fn after(base: [u8; 4], number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes(base).wrapping_add(number))
}

/// A service with routes and subsets, at servers that answer.
pub(super) fn called(number: u32, http: bool, endpoints: &[Ipv4Addr]) -> String {
    let rare = Rare { number, http, endpoints: Vec::new(), traffic_policy: None, route: None };
    let (host, meta) = (rare.host(), format!("metadata: {{name: r{number}, namespace: churn}}\nspec:"));
    let mut text = rare.yaml();
    for (at, address) in endpoints.iter().enumerate() {
        let labels = format!("{{security.istio.io/tlsMode: istio, version: v{}}}", at % 2 + 1);
        let _ = writeln!(text, "  - {{address: {address}, serviceAccount: echo, labels: {labels}}}");
    }
    let to = format!(
        "route: [{{destination: {{host: {host}, subset: v1}}, weight: 90}}, {{destination: {{host: {host}, subset: v2}}, weight: 10}}]"
    );
    let kind = if http { "http" } else { "tcp" };
    let _ = write!(
        text,
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n{meta}\n  hosts: [{host}]\n  {kind}:\n  - {to}\n---\napiVersion: \
         networking.istio.io/v1\nkind: DestinationRule\n{meta}\n  host: {host}\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: \
         v2, labels: {{version: v2}}}}\n"
    );
    text
}
