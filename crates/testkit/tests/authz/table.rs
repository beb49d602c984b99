//! The table's syntax, and the mesh that its calls are made in.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    frames::{self, Field},
    tokens::{Token, with_keys},
};

/// Policies, and calls that they decide.
pub(crate) struct Scenario {
    pub(crate) file: &'static str,
    pub(crate) title: String,
    /// Members of MeshConfig.
    mesh: String,
    /// YAML documents.
    policies: Vec<String>,
    pub(crate) calls: Vec<Call>,
}

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// As it stands in the file.
    pub(crate) text: String,
    pub(crate) expected: String,
    /// What Envoy decides, where that is something else.
    by_envoy: Option<String>,
    /// Who calls.
    pub(crate) from: &'static Caller,
    pub(crate) port: u16,
    /// With the names of tokens in their place: see [`Call::filled`].
    pub(crate) what: What,
    tokens: Arc<BTreeMap<String, Token>>,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Http {
        method: String,
        path: String,
        headers: Vec<(String, String)>,
    },
    /// Over HTTP/2, the fields as they come.
    H2(Vec<Field>),
    Raw(Vec<u8>),
    Tcp,
}

/// Somebody who calls.
#[derive(Debug)]
pub(crate) struct Caller {
    name: &'static str,
    /// The pod, if it is one; with a sidecar.
    pub(crate) pod: Option<&'static str>,
    ip: &'static str,
}

const CALLERS: [Caller; 5] = [
    Caller { name: "web", pod: Some("shop/web"), ip: "10.0.0.21" },
    Caller { name: "other", pod: Some("shop/other"), ip: "10.0.0.23" },
    Caller { name: "guest", pod: Some("visit/guest"), ip: "10.0.0.22" },
    Caller { name: "admin", pod: Some("ops/admin"), ip: "10.0.0.24" },
    Caller { name: "plain", pod: None, ip: "192.0.2.1" },
];

/// The address of the workload that is called.
pub(crate) const SERVER: &str = "10.0.0.11";
const SERVICES: &str = "
kind: Service
apiVersion: v1
metadata: {name: reviews, namespace: shop}
spec:
  clusterIP: 10.96.0.11
  selector: {app: reviews}
  ports: [{name: http, port: 9080, targetPort: 8080}, {name: http-two, port: 9081, targetPort: 8081}, {name: tcp, port: 6379}]
---
kind: Service
apiVersion: v1
metadata: {name: door, namespace: shop}
spec: {clusterIP: 10.96.0.12, ports: [{name: http, port: 9000}, {name: grpc, port: 9001}]}
";

/// Ports of the Service, and of the workload.
const PORTS: [(u16, u16); 3] = [(9080, 8080), (9081, 8081), (6379, 6379)];

fn pod(namespace: &str, name: &str, labels: &str, ip: &str, ports: &str) -> String {
    format!(
        "
kind: Pod
apiVersion: v1
metadata: {{name: {name}, namespace: {namespace}, labels: {{security.istio.io/tlsMode: istio, {labels}}}}}
spec: {{serviceAccountName: {name}, containers: [{{name: main, image: x, ports: [{ports}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
"
    )
}

/// All addresses from which somebody calls.
pub(crate) fn addresses() -> [&'static str; CALLERS.len()] {
    CALLERS.map(|caller| caller.ip)
}

impl Scenario {
    /// Whether nobody speaks TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.policies.iter().any(|text| text.contains("mode: DISABLE"))
    }

    /// Whether somebody else is asked, who is there for real proxies alone.
    pub(crate) fn asks(&self) -> bool {
        self.mesh.contains("extensionProviders")
    }

    /// The mesh's trust domain.
    pub(crate) fn trust_domain(&self) -> &str {
        self.mesh.split("trustDomain: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("cluster.local")
    }

    /// All of the mesh, as files.
    pub(crate) fn files(&self) -> Vec<(&'static str, String)> {
        let ports = PORTS.map(|(_, port)| format!("{{containerPort: {port}}}")).join(", ");
        let mut pods = vec![pod("shop", "reviews", "app: reviews, version: v1", SERVER, &ports)];
        for caller in &CALLERS {
            if let Some((namespace, name)) = caller.pod.and_then(|pod| pod.split_once('/')) {
                pods.push(pod(namespace, name, &format!("app: {name}"), caller.ip, ""));
            }
        }
        let config = format!(
            "{{kind: ConfigMap, apiVersion: v1, metadata: {{name: istio, namespace: istio-system}}, \
             data: {{mesh: '{{accessLogFile: /dev/stdout, accessLogEncoding: JSON{}{}}}'}}}}",
            if self.mesh.is_empty() { "" } else { ", " },
            self.mesh.replace('\'', "''")
        );
        let mut files = vec![("services.yaml", SERVICES.to_owned()), ("pods.yaml", pods.join("---")), ("mesh.yaml", config)];
        files.extend(self.policies.iter().map(|text| ("policy.yaml", text.clone())));
        files
    }
}

impl Call {
    /// The same call, with what Envoy decides.
    pub(crate) fn of_envoy(&self) -> Call {
        let expected = self.by_envoy.clone().unwrap_or_else(|| self.expected.clone());
        Call { expected, ..self.clone() }
    }

    /// Whether a decision is the one that is expected. One that names no rule is any of its kind.
    pub(crate) fn is(&self, got: &str) -> bool {
        let parts =
            |text: &str| text.split_once(' ').map_or((text.to_owned(), None), |(kind, rule)| (kind.to_owned(), Some(rule.to_owned())));
        let ((kind, rule), (other, theirs)) = (parts(&self.expected), parts(got));
        kind == other && rule.zip(theirs).is_none_or(|(ours, theirs)| ours == theirs)
    }

    /// The port of the workload.
    pub(crate) fn target(&self) -> u16 {
        PORTS.iter().find(|(port, _)| *port == self.port).map_or(self.port, |(_, target)| *target)
    }

    pub(crate) fn source(&self) -> &'static str {
        self.from.ip
    }

    /// The host of the request.
    pub(crate) fn host(&self) -> String {
        match &self.what {
            What::Http { headers, .. } => headers.iter().find(|(name, _)| name == "host").map(|(_, host)| host.clone()),
            _ => None,
        }
        .unwrap_or_else(|| format!("reviews.shop:{}", self.port))
    }

    /// What is sent at this time since 1970.
    pub(crate) fn filled(&self, now: Duration) -> What {
        let fill = |text: &String| {
            self.tokens.iter().fold(text.clone(), |text, (name, token)| {
                let place = format!("{{{name}}}");
                if text.contains(&place) { text.replace(&place, &token.at(now)) } else { text }
            })
        };
        match &self.what {
            What::Http { method, path, headers } => {
                let headers = headers.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
                What::Http { method: method.clone(), path: fill(path), headers }
            }
            other => other.clone(),
        }
    }

    /// What a client writes at this time since 1970.
    pub(crate) fn bytes(&self, now: Duration) -> Vec<u8> {
        match &self.filled(now) {
            What::Http { method, path, headers } => {
                let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host());
                headers.iter().filter(|(name, _)| name != "host").for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
                (text + "\r\n").into_bytes()
            }
            What::H2(fields) => frames::request(fields),
            What::Raw(bytes) => bytes.clone(),
            What::Tcp => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        }
    }
}

/// `ns[NAMESPACE]-policy[NAME]-rule[N]` as the table writes it: `NAME[N]` in the server's namespace, else `NAMESPACE/NAME[N]`.
pub(crate) fn short(rule: &str) -> String {
    let parts = rule.strip_prefix("ns[").and_then(|rest| {
        let (namespace, rest) = rest.split_once("]-policy[")?;
        let (name, rest) = rest.split_once("]-rule[")?;
        Some((namespace, name, rest.strip_suffix(']')?))
    });
    match parts {
        Some(("shop", name, number)) => format!("{name}[{number}]"),
        Some((namespace, name, number)) => format!("{namespace}/{name}[{number}]"),
        None => rule.to_owned(),
    }
}

/// Reads a file.
pub(crate) fn scenarios(file: &'static str, text: &str) -> Vec<Scenario> {
    let mut all: Vec<Scenario> = Vec::new();
    // By name, as far as they were read.
    let mut tokens: Arc<BTreeMap<String, Token>> = Arc::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            all.push(Scenario { file, title: title.to_owned(), mesh: String::new(), policies: Vec::new(), calls: Vec::new() });
            continue;
        }
        if let Some((name, token)) = line.strip_prefix("token ").and_then(|rest| rest.split_once(": ")) {
            Arc::make_mut(&mut tokens).insert(name.to_owned(), Token::read(token));
            continue;
        }
        let scenario = all.last_mut().expect("a scenario begins with its title");
        if let Some(mesh) = line.strip_prefix("mesh: ") {
            scenario.mesh = mesh.to_owned();
        } else if let Some((call, expected)) = line.rsplit_once(" => ") {
            scenario.calls.push(self::call(call, expected, &tokens));
        } else {
            scenario.policies.push(policy(line));
        }
    }
    all
}

/// `policy`, `dry`, `peer` or `users`, then `NAME[@NAMESPACE]: SPEC`.
fn policy(line: &str) -> String {
    let (head, spec) = line.split_once(": ").unwrap_or_else(|| panic!("no policy: {line}"));
    let (what, name) = head.split_once(' ').unwrap_or_else(|| panic!("no policy: {line}"));
    let (name, namespace) = name.split_once('@').unwrap_or((name, "shop"));
    let (kind, annotations) = match what {
        "policy" => ("AuthorizationPolicy", ""),
        "dry" => ("AuthorizationPolicy", ", annotations: {istio.io/dry-run: 'true'}"),
        "peer" => ("PeerAuthentication", ""),
        "users" => ("RequestAuthentication", ""),
        _ => panic!("no policy: {line}"),
    };
    format!(
        "{{kind: {kind}, apiVersion: security.istio.io/v1, metadata: {{name: {name}, namespace: {namespace}{annotations}}}, spec: {}}}",
        with_keys(spec)
    )
}

fn call(text: &str, expected: &str, tokens: &Arc<BTreeMap<String, Token>>) -> Call {
    let words = words(text);
    let [from, method, rest @ ..] = words.as_slice() else { panic!("no call: {text}") };
    let from = CALLERS.iter().find(|caller| caller.name == from).unwrap_or_else(|| panic!("nobody is {from}"));
    let (port, what) = match (method.as_str(), rest) {
        ("RAW", [bytes]) => (9080, What::Raw(unescaped(bytes))),
        ("TCP", [port]) => (port.trim_start_matches(':').parse().expect("a port"), What::Tcp),
        ("H2", fields) => {
            let field = |word: &String| {
                let at = word.find('=').unwrap_or_else(|| panic!("name=value: {word}"));
                (unescaped(&word[..at]), unescaped(&word[at + 1..]))
            };
            (9080, What::H2(fields.iter().map(field).collect()))
        }
        (method, [target, headers @ ..]) => {
            let (port, path) = match target.strip_prefix(':') {
                Some(rest) => rest.split_at(rest.find('/').expect("a path")),
                None => ("9080", target.as_str()),
            };
            let header = |word: &String| word.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).expect("name=value");
            let headers = headers.iter().map(header).collect();
            (port.parse().expect("a port"), What::Http { method: method.to_owned(), path: path.to_owned(), headers })
        }
        _ => panic!("no call: {text}"),
    };
    let (expected, by_envoy) = match expected.split_once(" (Envoy: ") {
        Some((expected, envoy)) => (expected, envoy.strip_suffix(')').map(str::to_owned)),
        None => (expected, None),
    };
    Call { text: text.to_owned(), expected: expected.trim().to_owned(), by_envoy, from, port, what, tokens: tokens.clone() }
}

/// Words, of which those in quotes may have blanks.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// With bytes in the place of `\r`, `\n`, `\t`, `\0` and `\xHH`.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let (byte, length) = match (first, after) {
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'0', ..]) => (0, 2),
            (b'\\', [b'x', high, low, ..]) => {
                let hex = std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                (hex.unwrap_or_else(|| panic!("no byte: {text}")), 4)
            }
            _ => (*first, 1),
        };
        out.push(byte);
        rest = &rest[length..];
    }
    out
}
