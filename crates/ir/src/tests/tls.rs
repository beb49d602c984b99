//! TLS that is built: handshakes in memory, identities, and what survives a swap.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_types::{SpiffeId, TrustDomain};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use serde_json::{Value, json};

use super::{resource, tcp_proxy};
use crate::config::Transport;
use crate::{Config, Draft, ResourceKind, TlsRefusal, authenticate};

pub(super) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap())
}

pub(super) fn ca() -> Ca {
    Ca::self_signed(&TrustDomain::default(), now(), CaLimits::default()).unwrap()
}

pub(super) fn secrets(draft: &mut Draft, ca: &Ca, roots: &Ca, account: &str) {
    let id: SpiffeId = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
    let svid = ca.issue(&id, Duration::from_secs(3600), now()).unwrap();
    let certificate = json!({"name": "default", "tlsCertificate": {
        "certificateChain": {"inlineString": svid.chain_pem()}, "privateKey": {"inlineString": svid.key_pem().expose()}}});
    draft.put(&resource(ResourceKind::Secret, &certificate));
    let roots = json!({"name": "ROOTCA", "validationContext": {"trustedCa": {"inlineString": roots.roots().to_pem()}}});
    draft.put(&resource(ResourceKind::Secret, &roots));
}

pub(super) fn common(san: Value, alpn: &[&str]) -> Value {
    json!({"alpnProtocols": alpn,
        "tlsCertificateSdsSecretConfigs": [{"name": "default", "sdsConfig": {"ads": {}}}],
        "combinedValidationContext": {"defaultValidationContext": {"matchSubjectAltNames": [san]},
            "validationContextSdsSecretConfig": {"name": "ROOTCA", "sdsConfig": {"ads": {}}}}})
}

fn listener() -> Value {
    json!({"name": "in", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 15006}}, "filterChains": [{
        "filters": [tcp_proxy("c")],
        "transportSocket": {"name": "tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "requireClientCertificate": true,
            "commonTlsContext": common(json!({"prefix": "spiffe://cluster.local/"}), &["h2", "http/1.1"])}}}]})
}

fn cluster(expected: &str) -> Value {
    json!({"name": "out", "type": "ORIGINAL_DST", "lbPolicy": "CLUSTER_PROVIDED", "transportSocket": {"name": "tls", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "outbound_.9090_._.ratings.shop.svc.cluster.local",
        "commonTlsContext": common(json!({"exact": format!("spiffe://cluster.local/ns/shop/sa/{expected}")}), &["istio", "h2"])}}})
}

/// A server's configuration with its own secrets, and a client's.
fn side(ca: &Ca, roots: &Ca, account: &str, expected: &str) -> Arc<Config> {
    let mut draft = Draft::new(&Config::default());
    secrets(&mut draft, ca, roots, account);
    draft.put(&resource(ResourceKind::Listener, &listener()));
    draft.put(&resource(ResourceKind::Cluster, &cluster(expected)));
    let (config, problems) = draft.finish();
    assert_eq!(problems, []);
    config
}

fn connect(client: &Config, server: &Config) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let Transport::Tls(up) = &client.clusters["out"].transport.default else { panic!() };
    connect_to(&up.sni, client, server)
}

fn connect_to(name: &str, client: &Config, server: &Config) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let Transport::Tls(up) = &client.clusters["out"].transport.default else { panic!() };
    let down = server.listeners["in"].chains[0].tls.clone().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(client.client_tls(up).unwrap().clone(), name)?;
    shake(client, ServerConnection::new(server.server_tls(&down).unwrap().clone())?)
}

fn shake(mut client: ClientConnection, mut server: ServerConnection) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok((client, server))
}

#[test]
fn handshakes() {
    let (ca, other) = (ca(), ca());
    let server = side(&ca, &ca, "ratings", "none");
    let (client, peer) = connect(&side(&ca, &ca, "reviews", "ratings"), &server).unwrap();
    assert_eq!(client.alpn_protocol(), Some(b"h2".as_slice()));
    let peer = authenticate(peer.peer_certificates().unwrap(), now()).unwrap();
    assert_eq!(peer.identity.unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");
    assert_eq!(peer.fingerprint.len(), 64);
    // The server is not who it should be; the client is signed by somebody else.
    assert!(connect(&side(&ca, &ca, "reviews", "stock"), &server).is_err());
    assert!(connect(&side(&other, &ca, "reviews", "ratings"), &server).is_err());
    assert!(connect(&side(&ca, &other, "reviews", "ratings"), &server).is_err());
}

#[test]
fn an_ended_certificate_is_nobody() {
    let ca = ca();
    let svid = ca.issue(&"spiffe://cluster.local/ns/a/sa/b".parse().unwrap(), Duration::from_secs(60), now()).unwrap();
    assert!(authenticate(svid.chain(), now()).is_ok());
    assert!(authenticate(svid.chain(), UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 120))).is_err());
    assert!(authenticate(&[], now()).is_err());
}

#[test]
fn what_does_not_change_is_kept() {
    let ca = ca();
    let first = side(&ca, &ca, "a", "b");
    let tls = first.listeners["in"].chains[0].tls.clone().unwrap();
    // The same listener again, and another cluster: sessions go on.
    let mut draft = Draft::new(&first);
    assert!(!draft.put(&resource(ResourceKind::Listener, &listener())));
    assert!(draft.put(&resource(ResourceKind::Cluster, &cluster("c"))));
    let (second, _) = draft.finish();
    assert!(Arc::ptr_eq(first.server_tls(&tls).unwrap(), second.server_tls(&tls).unwrap()));
    assert_eq!(second.generation, first.generation + 1);
    // A new certificate: a new configuration.
    let mut draft = Draft::new(&second);
    secrets(&mut draft, &ca, &ca, "a");
    let (third, _) = draft.finish();
    assert!(!Arc::ptr_eq(first.server_tls(&tls).unwrap(), third.server_tls(&tls).unwrap()));
    // Without its secret there is nothing.
    let mut draft = Draft::new(&third);
    assert!(draft.remove(ResourceKind::Secret, "ROOTCA"));
    let (fourth, problems) = draft.finish();
    assert!(fourth.server_tls(&tls).is_none());
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().all(|(_, e)| *e == TlsRefusal::Missing("ROOTCA".into())));
}

/// The hosts of a gateway.
#[test]
fn servers_that_differ_by_their_certificates_share_the_rest() {
    let ca = ca();
    let mut draft = Draft::new(&Config::default());
    let names = ["a.example", "b.example", "c.example"];
    for name in names {
        let svid = ca.server_certificate(&[name], Duration::from_secs(3600), now()).unwrap();
        let secret = json!({"name": name, "tlsCertificate": {
            "certificateChain": {"inlineString": svid.chain_pem()}, "privateKey": {"inlineString": svid.key_pem().expose()}}});
        draft.put(&resource(ResourceKind::Secret, &secret));
    }
    let chain = |(name, alpn): (&str, &str)| {
        json!({"filterChainMatch": {"serverNames": [name]}, "filters": [tcp_proxy("c")], "transportSocket": {"name": "tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "commonTlsContext": {"alpnProtocols": [alpn],
                "tlsCertificateSdsSecretConfigs": [{"name": name, "sdsConfig": {"ads": {}}}]}}}})
    };
    let chains: Vec<Value> = names.into_iter().zip(["h2", "h2", "http/1.1"]).map(chain).collect();
    let listener = json!({"name": "in", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 443}}, "filterChains": chains});
    draft.put(&resource(ResourceKind::Listener, &listener));
    let (config, problems) = draft.finish();
    assert_eq!(problems, []);
    let servers: Vec<_> =
        config.listeners["in"].chains.iter().map(|chain| config.server_tls(chain.tls.as_ref().unwrap()).unwrap().clone()).collect();
    for (at, server) in servers.iter().enumerate() {
        let protocol: &[u8] = if at == 2 { b"http/1.1" } else { b"h2" };
        assert_eq!(server.alpn_protocols, [protocol]);
        // What is shared must not be what makes tickets: one host's would be good for another.
        assert!(!server.ticketer.enabled());
        for other in servers.iter().skip(at + 1) {
            // A session is good for the host that gave it out alone.
            assert!(!Arc::ptr_eq(&server.session_storage, &other.session_storage));
        }
        // Each has its own certificate.
        let roots = mizzen_pki::server_verifier_by_name(ca.roots()).unwrap();
        for (name, is_own) in names.into_iter().zip(0..).map(|(name, own)| (name, own == at)) {
            let options = mizzen_pki::tls::TlsOptions { alpn: vec![protocol.to_vec()], ..Default::default() };
            let client = mizzen_pki::tls::client_config(None, roots.clone(), &options).unwrap();
            let client = ClientConnection::new(client, ServerName::try_from(name).unwrap()).unwrap();
            assert_eq!(shake(client, ServerConnection::new(server.clone()).unwrap()).is_ok(), is_own, "{name} at {at}");
        }
    }
    let ticketers = [(0, 1, true), (0, 2, false)];
    for (one, other, shared) in ticketers {
        assert_eq!(Arc::ptr_eq(&servers[one].ticketer, &servers[other].ticketer), shared);
    }
}

#[test]
fn other_protocols_share_the_rest() {
    let ca = ca();
    let config = side(&ca, &ca, "a", "b");
    let Transport::Tls(up) = &config.clusters["out"].transport.default else { panic!() };
    let other = config.client_tls_with_alpn(up, &["istio-h2".into()]).unwrap();
    assert_eq!(other.alpn_protocols, [b"istio-h2".to_vec()]);
    assert!(Arc::ptr_eq(config.client_tls(up).unwrap(), &config.client_tls_with_alpn(up, &up.common.alpn).unwrap()));
}

/// A cluster to a server that is not of the mesh.
fn foreign(tls: &Value, more: &Value) -> Value {
    let mut made = json!({"name": "out", "type": "ORIGINAL_DST", "lbPolicy": "CLUSTER_PROVIDED", "transportSocket": {"name": "tls", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "commonTlsContext": tls}}});
    made.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    made
}

#[test]
fn whom_a_foreign_server_must_be() {
    let roots = |sans: &[&str]| {
        let sans: Vec<Value> = sans.iter().map(|san| json!({"exact": san})).collect();
        json!({"combinedValidationContext": {"defaultValidationContext": {"matchSubjectAltNames": sans},
            "validationContextSdsSecretConfig": {"name": "ROOTCA", "sdsConfig": {"ads": {}}}}})
    };
    let by_authority = json!({"typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "upstreamHttpProtocolOptions": {"autoSni": true, "autoSanValidation": true},
        "explicitHttpConfig": {"httpProtocolOptions": {}}}}});
    let (ca, others) = (ca(), self::ca());
    let config = |resources: &[(ResourceKind, Value)], roots: &Ca| {
        let mut draft = Draft::new(&Config::default());
        secrets(&mut draft, &ca, roots, "reviews");
        resources.iter().for_each(|(kind, value)| assert!(draft.put(&resource(*kind, value))));
        let (config, problems) = draft.finish();
        assert_eq!(problems, []);
        config
    };
    let svid = ca.server_certificate(&["a.example"], Duration::from_secs(3600), now()).unwrap();
    let own = json!({"name": "own", "tlsCertificate": {
        "certificateChain": {"inlineString": svid.chain_pem()}, "privateKey": {"inlineString": svid.key_pem().expose()}}});
    let open = json!({"name": "in", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 443}}, "filterChains": [{
        "filters": [tcp_proxy("c")],
        "transportSocket": {"name": "tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "commonTlsContext": {"tlsCertificateSdsSecretConfigs": [{"name": "own", "sdsConfig": {"ads": {}}}]}}}}]});
    let server = config(&[(ResourceKind::Secret, own), (ResourceKind::Listener, open)], &ca);
    for (what, tls, more, trusted, name, expected) in [
        ("a name that is listed", roots(&["b.example", "a.example"]), &json!({}), &ca, "x.example", true),
        ("one that is not", roots(&["b.example"]), &json!({}), &ca, "a.example", false),
        ("none is asked for", roots(&[]), &json!({}), &ca, "x.example", true),
        ("the authority", roots(&[]), &by_authority, &ca, "a.example", true),
        ("another authority", roots(&[]), &by_authority, &ca, "b.example", false),
        ("signed by somebody else", roots(&["a.example"]), &by_authority, &others, "a.example", false),
        ("nobody looks", json!({"validationContext": {}}), &json!({}), &others, "b.example", true),
    ] {
        let client = config(&[(ResourceKind::Cluster, foreign(&tls, more))], trusted);
        assert_eq!(connect_to(name, &client, &server).is_ok(), expected, "{what}");
    }
}

#[test]
fn whose_names_of_protocols_are_offered() {
    for (metadata, expected) in [
        (json!({}), true),
        (json!({"alpn_override": "false"}), false),
        (json!({"alpn_override": "true", "services": []}), true),
        (json!({"alpn_override": false}), true),
    ] {
        let mut draft = Draft::new(&Config::default());
        let cluster = foreign(&json!({}), &json!({"metadata": {"filterMetadata": {"istio": metadata}}}));
        assert!(draft.put(&resource(ResourceKind::Cluster, &cluster)));
        let (config, _) = draft.finish();
        assert_eq!(config.clusters["out"].alpn_override, expected, "{metadata}");
    }
}
