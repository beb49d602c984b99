//! The bootstraps of a gateway, which Mizzen and Envoy take as they are, and the certificates in them.
//!
//! Listeners are what istiod makes of a Gateway with servers of HTTPS: an inspector of TLS, and for each host a chain that is found by the client's SNI, with
//! a certificate, a connection manager and routes of its own. Certificates stand in place, as secrets of a stream do: no file is looked at meanwhile.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
};

use anyhow::Result;
use mizzen_pki::{Svid, TrustBundle};
use mizzen_testkit::{Authority, Credential};
use serde_json::{Value, json};

use super::nginx;
use crate::bench::config::{TYPE, bootstrap, cluster, manager};

/// Where gateways listen. Connections to it come from another address of the loopback interface, so that none of them is ever in the way of a port that
/// the next gateway opens.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The host of all listeners but that of many.
pub(super) const HOST: &str = "shop.example.com";
/// Many more would make a larger bootstrap than Mizzen reads.
pub(super) const MOST_HOSTS: i64 = 3_000;
/// The bootstrap with a listener for each load.
pub(super) const LOADS: &str = "loads.json";

/// A listener of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// No session is ever resumed.
    Once,
    /// The same, and clients show a certificate.
    Mutual,
    /// As a Gateway has it: sessions are resumed.
    Usual,
    /// The same with a chain for each of many hosts.
    Hosts,
}

impl Door {
    /// Those of [`LOADS`].
    pub(super) const LOADS: [Door; 3] = [Door::Once, Door::Mutual, Door::Usual];

    fn name(self) -> &'static str {
        match self {
            Door::Once => "once",
            Door::Mutual => "mutual",
            Door::Usual => "usual",
            Door::Hosts => "hosts",
        }
    }
}

/// Ports that nobody else listens on. Somebody could take them before they are used, which is told then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports([u16; 5]);

impl Ports {
    pub(super) fn free() -> Result<Ports> {
        let mut ports = [0; 5];
        // All are held until the last is known: none is given twice.
        let mut held = Vec::new();
        for port in &mut ports {
            let listener = TcpListener::bind((ADDRESS, 0))?;
            *port = listener.local_addr()?.port();
            held.push(listener);
        }
        Ok(Ports(ports))
    }

    pub(super) fn of(self, door: Door) -> SocketAddr {
        (ADDRESS, self.0[door as usize]).into()
    }

    /// Where Mizzen serves its metrics.
    pub(super) fn metrics(self) -> SocketAddr {
        (ADDRESS, self.0[4]).into()
    }
}

/// The name of a host out of many.
pub(super) fn host(number: u32) -> String {
    format!("shop-{number}.example.com")
}

/// The bootstrap with so many hosts.
pub(super) fn hosts_file(hosts: u32) -> String {
    format!("hosts-{hosts}.json")
}

/// Writes all bootstraps, with one host and with `hosts` in those of many, and what nginx has in their place; whom a client believes, and what it shows.
pub(super) fn write(dir: &Path, ports: Ports, upstream: u16, hosts: u32) -> Result<(TrustBundle, Svid)> {
    let authority = Authority::new("edge");
    std::fs::write(dir.join(LOADS), loads(&authority, ports, upstream).to_string())?;
    for count in [1, hosts] {
        std::fs::write(dir.join(hosts_file(count)), many(&authority, ports, upstream, count).to_string())?;
    }
    nginx::write(dir, ports, upstream, &authority.issue(&[HOST]), &authority.root)?;
    let shown = authority.issue(&["client.example.com"]);
    Ok((TrustBundle::from_pem(authority.root.as_bytes())?, Svid::from_pem(shown.certificate.as_bytes(), &shown.key)?))
}

fn loads(authority: &Authority, ports: Ports, upstream: u16) -> Value {
    let credential = authority.issue(&[HOST]);
    let listeners: Vec<Value> =
        Door::LOADS.into_iter().map(|door| listener(door, ports, &[chain(door, HOST, &credential, &authority.root)])).collect();
    bootstrap("edge", listeners.into(), json!([cluster("shop", "127.0.0.1", upstream)]))
}

fn many(authority: &Authority, ports: Ports, upstream: u16, hosts: u32) -> Value {
    let one = |number| {
        let name = host(number);
        chain(Door::Hosts, &name, &authority.issue(&[&name]), &authority.root)
    };
    let chains: Vec<Value> = (0..hosts).map(one).collect();
    bootstrap("edge", json!([listener(Door::Hosts, ports, &chains)]), json!([cluster("shop", "127.0.0.1", upstream)]))
}

fn listener(door: Door, ports: Ports, chains: &[Value]) -> Value {
    let address = ports.of(door);
    json!({"name": door.name(),
        "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
        // Without it no chain would be found by its names.
        "listener_filters": [{"name": "envoy.filters.listener.tls_inspector", "typed_config": {
            "@type": format!("{TYPE}.extensions.filters.listener.tls_inspector.v3.TlsInspector")}}],
        "filter_chains": chains})
}

fn chain(door: Door, host: &str, credential: &Credential, root: &str) -> Value {
    json!({"filter_chain_match": {"server_names": [host]},
        "transport_socket_connect_timeout": "15s",
        "filters": [http(host)],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls(door, credential, root)}})
}

fn http(host: &str) -> Value {
    let hosts = json!([{"name": host, "domains": [host], "routes": [{"name": "default", "match": {"prefix": "/"},
        "decorator": {"operation": format!("{host}:443/*")}, "route": {"cluster": "shop", "timeout": "0s"}}]}]);
    let mut filter = manager("edge", &hosts, &[]);
    let config = &mut filter["typed_config"];
    config["use_remote_address"] = true.into();
    config["forward_client_cert_details"] = "SANITIZE_SET".into();
    config["set_current_client_cert_details"] = json!({"subject": true, "cert": true, "dns": true, "uri": true});
    filter
}

/// Versions and curves are left as they are by default: the client offers only one of each, so that all contenders do the same.
fn tls(door: Door, credential: &Credential, root: &str) -> Value {
    let mut common = json!({"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [{
        "certificate_chain": {"inline_string": credential.certificate}, "private_key": {"inline_string": credential.key}}]});
    if door == Door::Mutual {
        common["validation_context"] = json!({"trusted_ca": {"inline_string": root}});
    }
    let mut context = json!({"@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": door == Door::Mutual, "common_tls_context": common});
    if matches!(door, Door::Once | Door::Mutual) {
        // The first is all that there is in Envoy's TLS 1.3; Mizzen keeps sessions for clients unless both are off.
        context["disable_stateless_session_resumption"] = true.into();
        context["disable_stateful_session_resumption"] = true.into();
    }
    context
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mizzen_dataplane::{Places, Unknown, parse_bootstrap, validate};

    use super::*;

    fn ports() -> Ports {
        Ports([18_440, 18_441, 18_442, 18_443, 18_444])
    }

    fn faults(bootstrap: &Value) -> Vec<String> {
        let text = bootstrap.to_string();
        validate(&parse_bootstrap(&text, Unknown::Refused).unwrap(), &Places::new("edge.json", &text)).unwrap()
    }

    fn context(chain: &Value) -> &Value {
        &chain["transport_socket"]["typed_config"]
    }

    #[test]
    fn bootstraps_are_good() {
        let authority = Authority::new("edge");
        assert_eq!(faults(&loads(&authority, ports(), 8080)), Vec::<String>::new());
        assert_eq!(faults(&many(&authority, ports(), 8080, 20)), Vec::<String>::new());
    }

    #[test]
    fn each_load_has_its_listener() {
        let authority = Authority::new("edge");
        let made = loads(&authority, ports(), 8080);
        let listeners = made["static_resources"]["listeners"].as_array().unwrap();
        let found: Vec<_> = listeners
            .iter()
            .map(|listener| {
                let tls = context(&listener["filter_chains"][0]);
                let mutual = tls["common_tls_context"]["validation_context"].is_object();
                assert_eq!(tls["require_client_certificate"], mutual);
                let once = ["disable_stateless_session_resumption", "disable_stateful_session_resumption"].map(|field| tls[field] == true);
                (listener["address"]["socket_address"]["port_value"].as_u64().unwrap(), mutual, once)
            })
            .collect();
        assert_eq!(found, [(18_440, false, [true; 2]), (18_441, true, [true; 2]), (18_442, false, [false; 2])]);
    }

    #[test]
    fn each_host_has_a_certificate_of_its_own() {
        let made = many(&Authority::new("edge"), ports(), 8080, 20);
        let listener = &made["static_resources"]["listeners"][0];
        assert_eq!(listener["listener_filters"][0]["name"], "envoy.filters.listener.tls_inspector");
        let chains = listener["filter_chains"].as_array().unwrap();
        let text = |value: &Value| value["inline_string"].as_str().unwrap().to_owned();
        let certificates: BTreeSet<String> =
            chains.iter().map(|c| text(&context(c)["common_tls_context"]["tls_certificates"][0]["certificate_chain"])).collect();
        let names: BTreeSet<&str> = chains.iter().map(|c| c["filter_chain_match"]["server_names"][0].as_str().unwrap()).collect();
        assert_eq!((chains.len(), certificates.len(), names.len()), (20, 20, 20));
        assert!(names.contains(host(19).as_str()));
    }

    #[test]
    fn the_most_hosts_can_be_read() {
        let size = |hosts| many(&Authority::new("edge"), ports(), 8080, hosts).to_string().len();
        let each = (size(40) - size(20)) / 20;
        let most = each * usize::try_from(MOST_HOSTS).unwrap();
        assert!(most < 15 << 20, "{each} bytes a host");
    }

    #[test]
    fn a_client_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let (roots, shown) = write(dir.path(), ports(), 8080, 3).unwrap();
        assert_eq!((roots.roots().len(), shown.chain().len()), (1, 1));
        for file in [LOADS.to_owned(), hosts_file(1), hosts_file(3), nginx::FILE.to_owned()] {
            assert!(dir.path().join(file).is_file());
        }
    }
}
