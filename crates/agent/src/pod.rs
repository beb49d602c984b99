//! An agent in a pod: what Istio's injector puts into the environment and the pod's volumes becomes [`Options`].
//!
//! The proxy has no capability there: nothing is marked, and the capture knows it by its user.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mizzen_types::ports;
use serde_json::{Map, Value, json};

use crate::options::{invalid, parse};
use crate::probes::{METRICS_VARIABLE, Probes, ProgramMetrics, VARIABLE};
use crate::{Options, OptionsError, TokenSource};

/// Where a pod has what the agent reads; the default is Istio's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The folder of the downward API's `labels` and `annotations`.
    pub info: PathBuf,
    /// The token that is for the mesh's authority alone.
    pub token: PathBuf,
    /// The service account's own token, for `JWT_POLICY=first-party-jwt`.
    pub account_token: PathBuf,
    /// The servers of names.
    pub resolv_conf: PathBuf,
    /// The addresses of IPv6 that the pod's interfaces have.
    pub interfaces: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            info: "/etc/istio/pod".into(),
            token: "/var/run/secrets/tokens/istio-token".into(),
            account_token: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            interfaces: "/proc/net/if_inet6".into(),
        }
    }
}

/// What a pod's proxy is started with.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The agent's options.
    pub options: Options,
    /// The proxy's threads, if the settings or the container's limit say.
    pub concurrency: Option<usize>,
    /// How it ends.
    pub termination: Termination,
    /// The servers of names, as the pod's programs have them.
    pub name_servers: Vec<SocketAddr>,
    /// What of the environment has no effect, a line each.
    pub warnings: Vec<String>,
}

/// How a proxy ends after SIGTERM, as Istio's agent does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination {
    /// How long connections are still taken: `terminationDrainDuration` (5 s), or with `until_deserted` `MINIMUM_DRAIN_DURATION` (5 s).
    pub farewell: Duration,
    /// Whether the proxy then stays for as long as there are connections (`EXIT_ON_ZERO_ACTIVE_CONNECTIONS`); kubelet ends it at last.
    pub until_deserted: bool,
}

/// Where the control plane is if nothing says so.
const CONTROL_PLANE: &str = "istiod.istio-system.svc:15012";
/// Where names are answered, if questions are captured.
const DNS: &str = "127.0.0.1:15053";
/// Files of the downward API are read up to this size.
const MOST: usize = 1 << 20;

impl Pod {
    /// From the pod's environment, in Istio's names; `domain` is the flag `--domain`, as `shop.svc.cluster.local`.
    ///
    /// # Errors
    /// If something is missing or makes no sense.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (String, String)>,
        domain: Option<&str>,
        places: &Places,
        token: Option<TokenSource>,
    ) -> Result<Pod, OptionsError> {
        let mut vars: BTreeMap<String, String> = vars.into_iter().collect();
        vars.retain(|_, value| !value.is_empty());
        let settings = settings(&vars)?;
        let mut warnings = Vec::new();
        let setting = |name: &str| settings.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let mut default = |name: &str, value: &str| {
            vars.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        };
        default("CA_ADDR", CONTROL_PLANE);
        default("DISCOVERY_ADDRESS", setting("discoveryAddress").unwrap_or(CONTROL_PLANE));
        default("CA_ROOT_CERT", "/var/run/secrets/istio/root-cert.pem");
        default("PROXY_CONFIG_DIR", "/etc/istio/proxy");
        // Whoever asks a pod's proxy to end is in the pod, and a Job's program has no other way to be done.
        default("MIZZEN_ALLOW_QUIT", "true");
        let names = vars.get("ISTIO_META_DNS_CAPTURE").is_some_and(|text| text == "true");
        let listen = vars.get("DNS_PROXY_ADDR").map_or(DNS, String::as_str).replace("localhost:", "127.0.0.1:");
        vars.insert("DNS_PROXY_ADDR".to_owned(), if names { listen } else { "off".to_owned() });
        if let Some(domain) = domain {
            let namespace = vars.get("POD_NAMESPACE").map(String::as_str).unwrap_or_default();
            let cluster = domain.strip_prefix(namespace).and_then(|rest| rest.strip_prefix(".svc.")).unwrap_or(domain);
            vars.entry("DOMAIN".to_owned()).or_insert_with(|| cluster.to_owned());
        }
        let first_party = vars.get("JWT_POLICY").is_some_and(|policy| policy == "first-party-jwt");
        let token = token.unwrap_or_else(|| TokenSource::File(if first_party { &places.account_token } else { &places.token }.clone()));
        let mut options = Options::from_vars(vars.clone(), Some(token))?;
        options.mark = None;
        // The platform need not know of all: a router may have given the pod an address. It is captured, too, and must find the proxy.
        let own = interface_addresses(&std::fs::read_to_string(&places.interfaces).unwrap_or_default());
        options.instance_ips.extend(own.into_iter().filter(|ip| !options.instance_ips.contains(ip)).collect::<Vec<_>>());
        let resolv_conf = std::fs::read_to_string(&places.resolv_conf).unwrap_or_default();
        let name_servers = crate::options::nameservers(&resolv_conf);
        if let Some(dns) = &mut options.dns {
            // What is captured by IPv6 is sent to the same port of its loopback address.
            let by_both = dns.listen.ip() == Ipv4Addr::LOCALHOST && options.instance_ips.iter().any(IpAddr::is_ipv6);
            dns.also = by_both.then(|| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), dns.listen.port()));
            // The cluster's own server knows names that the mesh does not.
            dns.local_domains.clear();
            if !vars.contains_key("MIZZEN_DNS_UPSTREAMS") {
                dns.upstreams.clone_from(&name_servers);
            }
        }
        if !vars.contains_key("ISTIO_METAJSON_LABELS") {
            options.labels = info(places, "labels", &mut warnings);
        }
        let annotations = info(places, "annotations", &mut warnings);
        if !annotations.is_empty() {
            options.metadata.entry("ANNOTATIONS".to_owned()).or_insert_with(|| json!(annotations));
        }
        if !settings.is_empty() {
            options.metadata.entry("PROXY_CONFIG".to_owned()).or_insert_with(|| Value::Object(settings.clone()));
        }
        let status = settings.get("statusPort").and_then(Value::as_u64).unwrap_or(ports::AGENT.into());
        let status = u16::try_from(status).ok().filter(|port| *port > 0);
        let status = status.ok_or_else(|| invalid("PROXY_CONFIG", "statusPort is not a port between 1 and 65535"))?;
        // Whoever asks comes by the family of the pod's first address.
        let any = mizzen_net::any_address();
        options.status = Some(SocketAddr::new(any, status));
        options.readiness = Some(SocketAddr::new(any, ports::READINESS));
        if let Some(text) = vars.get(VARIABLE) {
            options.probes = Probes::read(text, options.instance_ips.first().copied())?;
        }
        if let Some(text) = vars.get(METRICS_VARIABLE) {
            options.program_metrics = ProgramMetrics::read(text, status)?;
        }
        let (concurrency, termination) = (concurrency(&vars, &settings)?, termination(&vars, &settings)?);
        Ok(Pod { options, concurrency, termination, name_servers, warnings })
    }
}

/// What Linux writes of its interfaces' addresses of IPv6: of each line the address, the interface's number, the prefix, the scope, flags, and the name.
/// Those alone by which others can reach the pod: of global scope, which is 0.
fn interface_addresses(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [address, _, _, "00", _, name] if name != "lo" => {
            u128::from_str_radix(address, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    };
    text.lines().filter_map(address).collect()
}

/// `PROXY_CONFIG`: the settings of this proxy, in protojson.
fn settings(vars: &BTreeMap<String, String>) -> Result<Map<String, Value>, OptionsError> {
    match vars.get("PROXY_CONFIG") {
        None => Ok(Map::new()),
        Some(text) => serde_json::from_str(text).map_err(|error| invalid("PROXY_CONFIG", error)),
    }
}

/// The threads: the settings', where 0 is one for each processor; else as many as the container may use processors.
fn concurrency(vars: &BTreeMap<String, String>, settings: &Map<String, Value>) -> Result<Option<usize>, OptionsError> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(value) = settings.get("concurrency").filter(|value| !value.is_null()) {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        let number = number.ok_or_else(|| invalid("PROXY_CONFIG", format!("concurrency must be a whole number, is {value}")))?;
        return Ok(Some(if number == 0 { all } else { number }));
    }
    let limit = vars.get("ISTIO_CPU_LIMIT").map(|text| parse::<usize>("ISTIO_CPU_LIMIT", text)).transpose()?;
    Ok(limit.map(|limit| limit.clamp(1, all)))
}

fn termination(vars: &BTreeMap<String, String>, settings: &Map<String, Value>) -> Result<Termination, OptionsError> {
    const USUAL: Duration = Duration::from_secs(5);
    let until_deserted = vars.get("EXIT_ON_ZERO_ACTIVE_CONNECTIONS").is_some_and(|text| text == "true");
    let (name, text) = if until_deserted {
        ("MINIMUM_DRAIN_DURATION", vars.get("MINIMUM_DRAIN_DURATION").map(String::as_str))
    } else {
        ("PROXY_CONFIG", settings.get("terminationDrainDuration").and_then(Value::as_str))
    };
    let farewell =
        text.map(|text| duration(text).ok_or_else(|| invalid(name, format!("`{text}` is not a duration as 5s or 1m30s")))).transpose()?;
    Ok(Termination { farewell: farewell.unwrap_or(USUAL), until_deserted })
}

/// Numbers with units, added up: `1m30s`, `0.5s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut sum, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

/// A file of the downward API: a line for each, `KEY="VALUE"`, the value as Go quotes it.
fn info(places: &Places, name: &str, warnings: &mut Vec<String>) -> BTreeMap<String, String> {
    let path = places.info.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) if text.len() <= MOST => text,
        Ok(_) => {
            warnings.push(format!("{}: is longer than {MOST} bytes and is not read", path.display()));
            return BTreeMap::new();
        }
        // Not every pod has them mounted.
        Err(error) => {
            warnings.push(format!("{}: {error}", path.display()));
            return BTreeMap::new();
        }
    };
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.split_once('=').and_then(|(key, value)| Some((key, unquoted(value)?))) {
            Some((key, value)) => drop(all.insert(key.to_owned(), value)),
            None => warnings.push(format!("{}: a line is none of KEY=\"VALUE\", and is passed over", path.display())),
        }
    }
    all
}

/// A text in Go's quotes.
fn unquoted(text: &str) -> Option<String> {
    let mut rest = text.trim().strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut bytes = Vec::with_capacity(text.len());
    let put = |c: char, bytes: &mut Vec<u8>| bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    while let Some(c) = rest.next() {
        if c != '\\' {
            put(c, &mut bytes);
            continue;
        }
        let digits = match rest.next()? {
            'n' => {
                bytes.push(b'\n');
                continue;
            }
            't' => {
                bytes.push(b'\t');
                continue;
            }
            'r' => {
                bytes.push(b'\r');
                continue;
            }
            'a' => {
                bytes.push(7);
                continue;
            }
            'b' => {
                bytes.push(8);
                continue;
            }
            'f' => {
                bytes.push(12);
                continue;
            }
            'v' => {
                bytes.push(11);
                continue;
            }
            same @ ('\\' | '"' | '\'') => {
                put(same, &mut bytes);
                continue;
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return None,
        };
        let number: String = rest.by_ref().take(digits).collect();
        let number = u32::from_str_radix(&number, 16).ok().filter(|_| number.len() == digits)?;
        // Two digits are a byte, which may be a part of a letter.
        if digits == 2 { bytes.push(u8::try_from(number).ok()?) } else { put(char::from_u32(number)?, &mut bytes) }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an injector writes it.
    const POD: [(&str, &str); 8] = [
        ("POD_NAME", "reviews-6f7c9-x1"),
        ("POD_NAMESPACE", "shop"),
        ("INSTANCE_IP", "10.244.0.7"),
        ("SERVICE_ACCOUNT", "reviews"),
        ("CA_ADDR", "istiod.istio-system.svc:15012"),
        ("PROXY_CONFIG", "{}"),
        ("ISTIO_META_WORKLOAD_NAME", "reviews"),
        ("TRUST_DOMAIN", "example.org"),
    ];

    fn pod(more: &[(&str, &str)]) -> Result<Pod, OptionsError> {
        pod_with("", more)
    }

    fn pod_with(interfaces: &str, more: &[(&str, &str)]) -> Result<Pod, OptionsError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("labels"), "app=\"reviews\"\npod-template-hash=\"6f7c9\"\n").unwrap();
        std::fs::write(folder.path().join("annotations"), "note=\"a \\\"b\\\"\\n\\u00fc\\xc3\\xbc\"\nbad\n").unwrap();
        std::fs::write(folder.path().join("resolv.conf"), "search shop.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n")
            .unwrap();
        std::fs::write(folder.path().join("interfaces"), interfaces).unwrap();
        let [resolv_conf, interfaces] = ["resolv.conf", "interfaces"].map(|name| folder.path().join(name));
        let places = Places { info: folder.path().into(), resolv_conf, interfaces, ..Places::default() };
        let vars = POD.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Pod::from_vars(vars, Some("shop.svc.cluster.local"), &places, None)
    }

    #[test]
    fn as_injected() {
        let pod = pod(&[]).unwrap();
        let options = &pod.options;
        assert_eq!((options.domain.as_str(), options.trust_domain.as_str()), ("cluster.local", "example.org"));
        assert_eq!(
            (options.discovery.to_string(), options.server_name.as_str()),
            ("istiod.istio-system.svc:15012".to_owned(), "istiod.istio-system.svc")
        );
        assert_eq!(
            (options.dir.to_str(), options.root_cert_file.to_str()),
            (Some("/etc/istio/proxy"), Some("/var/run/secrets/istio/root-cert.pem"))
        );
        assert!(matches!(&options.token, TokenSource::File(path) if path.to_str() == Some("/var/run/secrets/tokens/istio-token")));
        assert_eq!((options.mark, options.dns.is_none(), options.allow_quit), (None, true, true));
        assert_eq!(options.labels["app"], "reviews");
        assert_eq!(options.metadata["ANNOTATIONS"], serde_json::json!({ "note": "a \"b\"\nüü" }));
        assert_eq!(pod.termination, Termination { farewell: Duration::from_secs(5), until_deserted: false });
        assert_eq!((pod.concurrency, pod.warnings.len()), (None, 1), "{:?}", pod.warnings);
        assert_eq!(pod.name_servers, ["10.96.0.10:53".parse().unwrap()]);
    }

    #[test]
    fn settings_of_the_proxy() {
        let termination =
            |more: &[(&str, &str)]| pod(more).map(|pod| (pod.termination.farewell.as_millis(), pod.termination.until_deserted));
        let config = |text: &'static str| [("PROXY_CONFIG", text)];
        assert_eq!(termination(&config(r#"{"terminationDrainDuration":"12.5s"}"#)), Ok((12_500, false)));
        let zero = ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true");
        assert_eq!(termination(&[zero]), Ok((5_000, true)));
        assert_eq!(termination(&[zero, ("MINIMUM_DRAIN_DURATION", "1m30s")]), Ok((90_000, true)));
        let wrong = termination(&[zero, ("MINIMUM_DRAIN_DURATION", "soon")]).unwrap_err().to_string();
        assert_eq!(wrong, "MINIMUM_DRAIN_DURATION: `soon` is not a duration as 5s or 1m30s");
        assert_eq!(pod(&config(r#"{"concurrency":3}"#)).unwrap().concurrency, Some(3));
        assert_eq!(pod(&[("ISTIO_CPU_LIMIT", "1")]).unwrap().concurrency, Some(1));
        assert_eq!(pod(&[("ISTIO_CPU_LIMIT", "0")]).unwrap().concurrency, Some(1));
        assert!(pod(&[("ISTIO_CPU_LIMIT", "two")]).is_err());
        let other = pod(&config(r#"{"discoveryAddress":"istiod-canary.istio-system.svc:15012","statusPort":16020}"#)).unwrap().options;
        assert_eq!((other.discovery.host.as_str(), other.status.unwrap().port()), ("istiod-canary.istio-system.svc", 16020));
        let gateway = pod(&config(r#"{"gatewayTopology":{"numTrustedProxies":2}}"#)).unwrap().options;
        assert_eq!(gateway.metadata["PROXY_CONFIG"], json!({ "gatewayTopology": { "numTrustedProxies": 2 } }), "the control plane is told");
        assert!(pod(&config("[]")).is_err());
        assert!(pod(&config(r#"{"statusPort":0}"#)).is_err());
        let first = pod(&[("JWT_POLICY", "first-party-jwt")]).unwrap().options.token;
        assert!(matches!(first, TokenSource::File(path) if path.ends_with("serviceaccount/token")));
    }

    #[test]
    fn names() {
        let dns = pod(&[("ISTIO_META_DNS_CAPTURE", "true")]).unwrap().options.dns.unwrap();
        assert_eq!((dns.listen.to_string(), dns.upstreams), ("127.0.0.1:15053".to_owned(), vec!["10.96.0.10:53".parse().unwrap()]));
        assert_eq!(dns.local_domains, [""; 0], "the cluster's server knows more");
        let other = pod(&[("ISTIO_META_DNS_CAPTURE", "true"), ("DNS_PROXY_ADDR", "localhost:15153")]).unwrap().options.dns.unwrap();
        assert_eq!(other.listen.to_string(), "127.0.0.1:15153");
        assert!(pod(&[("ISTIO_META_DNS_CAPTURE", "false"), ("DNS_PROXY_ADDR", "localhost:15053")]).unwrap().options.dns.is_none());
    }

    #[test]
    fn addresses() {
        // One of its own, one of the link alone, that of the loopback interface, and that from which connections are handed to programs.
        let interfaces = "fd000000000000000000000000000007 02 40 00 80     eth0\nfe80000000000000040000fffe000007 02 40 20 80     eth0\n\
                          00000000000000000000000000000001 01 80 10 80       lo\n00000000000000000000000000000006 01 80 00 80       lo\nbad\n";
        let check = |interfaces: &str, all: &str, ips: &[&str], also: Option<&str>| {
            let options = pod_with(interfaces, &[("INSTANCE_IPS", all), ("ISTIO_META_DNS_CAPTURE", "true")]).unwrap().options;
            let found: Vec<String> = options.instance_ips.iter().map(ToString::to_string).collect();
            assert_eq!(
                (found, options.dns.unwrap().also),
                (ips.iter().map(ToString::to_string).collect(), also.map(|a| a.parse().unwrap()))
            );
        };
        check("", "", &["10.244.0.7"], None);
        check("", "10.244.0.7", &["10.244.0.7"], None);
        check("", "10.244.0.7,fd01::7", &["10.244.0.7", "fd01::7"], Some("[::1]:15053"));
        check(interfaces, "", &["10.244.0.7", "fd00::7"], Some("[::1]:15053"));
        check(interfaces, "10.244.0.7,fd00::7", &["10.244.0.7", "fd00::7"], Some("[::1]:15053"));
        assert!(pod(&[("INSTANCE_IPS", "x")]).unwrap_err().to_string().starts_with("INSTANCE_IPS: "));
    }

    #[test]
    fn probes_and_metrics() {
        let probers = r#"{"/app-health/a/livez":{"tcpSocket":{"port":80},"timeoutSeconds":2}}"#;
        let options = pod(&[(VARIABLE, probers), (METRICS_VARIABLE, r#"{"scrape":"true","path":"","port":"9000"}"#)]).unwrap().options;
        assert_eq!(options.probes, Probes::read(probers, Some([10, 244, 0, 7].into())).unwrap());
        assert!(options.program_metrics.is_some());
        assert!(pod(&[(VARIABLE, "1")]).is_err());
    }

    #[test]
    fn quotes() {
        for (text, want) in [
            (r#""plain""#, Some("plain")),
            (r#""\t\\\"\x41\u00e9\U0001F600""#, Some("\t\\\"Aé😀")),
            (r#""\xff""#, None),
            (r#""\q""#, None),
            (r#""\u12""#, None),
            (r#""\""#, None),
            ("plain", None),
            ("\"", None),
        ] {
            assert_eq!(unquoted(text).as_deref(), want, "{text}");
        }
    }
}
