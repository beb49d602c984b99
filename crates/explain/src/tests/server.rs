//! What the server's side says of how a connection comes.

use super::{check, explain, object, shop};
use crate::{Security, Verdict};

#[test]
fn strict() {
    let strict = object("PeerAuthentication", "default", "{mtls: {mode: STRICT}}");
    let snapshot = shop(&[strict]);
    check(
        &snapshot,
        &[
            ("shop/web GET reviews:9080/", "outbound|9080||reviews [shop/v1 shop/v2] = delivered"),
            ("shop/web TCP stock:6379", "outbound|6379||stock [shop/stock] = delivered"),
            ("shop/legacy GET reviews:9080/", "reviews:9080 [shop/v1 shop/v2] = closed"),
            ("shop/legacy TCP stock:6379", "stock:6379 [shop/stock] = closed"),
            ("192.0.2.9 GET 10.0.0.11:8080/", "10.0.0.11:8080 [shop/v1] = closed"),
            ("192.0.2.9 TLS 10.0.0.11:8080", "10.0.0.11:8080 [shop/v1] = closed"),
        ],
    );
    let explanation = explain(&snapshot, "shop/legacy GET reviews:9080/");
    let Verdict::Closed { why } = &explanation.verdict else { panic!("{explanation}") };
    assert_eq!(why, "no filter chain of virtualInbound is for plaintext");
}

/// A gateway that ends TLS: the server name chooses the server, the host a route of that server alone, and who has to show a certificate must.
#[test]
fn https() {
    let servers = "{selector: {istio: ingressgateway}, servers: [
      {port: {number: 443, name: open, protocol: HTTPS}, hosts: [open.example], tls: {mode: SIMPLE, credentialName: open}},
      {port: {number: 443, name: mutual, protocol: HTTPS}, hosts: ['*.mutual.example'], tls: {mode: MUTUAL, credentialName: mutual}},
      {port: {number: 443, name: optional, protocol: HTTPS}, hosts: [optional.example], tls: {mode: OPTIONAL_MUTUAL, credentialName: optional}},
      {port: {number: 443, name: own, protocol: HTTPS}, hosts: [own.example], tls: {mode: ISTIO_MUTUAL}},
      {port: {number: 81, name: plain, protocol: HTTP}, hosts: [open.example], tls: {httpsRedirect: true}}]}";
    let routes = "{hosts: ['*'], gateways: [edge], http: [{match: [{uri: {prefix: /reviews}}], route: [{destination: {host: reviews}}]}]}";
    let snapshot = shop(&[object("Gateway", "edge", servers), object("VirtualService", "edge", routes)]);
    let door = |end: &str| format!("10.0.0.98:443 [istio-system/door] = {end}");
    let (delivered, nowhere, closed) = (door("delivered"), door("404"), door("closed"));
    check(
        &snapshot,
        &[
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=open.example host=open.example", &delivered),
            ("192.0.2.9 GET 10.0.0.98:443/else sni=open.example host=open.example", &nowhere),
            // The host of another server, and one that is none.
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=open.example host=a.mutual.example", &nowhere),
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=nobody.example host=open.example", &closed),
            ("192.0.2.9 GET 10.0.0.98:443/reviews host=open.example", &closed),
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=a.mutual.example host=a.mutual.example", &closed),
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=a.mutual.example host=a.mutual.example certificate=true", &delivered),
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=optional.example host=optional.example", &delivered),
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=optional.example host=optional.example certificate=true", &delivered),
            ("192.0.2.9 GET 10.0.0.98:443/reviews sni=own.example host=own.example", &closed),
            ("192.0.2.9 GET 10.0.0.98:81/reviews host=open.example", "10.0.0.98:81 [istio-system/door] = 301"),
        ],
    );
    let explanation = explain(&snapshot, "192.0.2.9 GET 10.0.0.98:443/reviews sni=a.mutual.example host=a.mutual.example");
    assert!(explanation.to_string().contains("the client shows no certificate, and must"), "{explanation}");
    assert!(explanation.call.to_string().starts_with("192.0.2.9: GET https://10.0.0.98:443/reviews"));
}

/// A client told not to use TLS, a server that wants it, and the other way round.
#[test]
fn clients_modes() {
    let plain = object("DestinationRule", "plain", "{host: '*.shop.svc.cluster.local', trafficPolicy: {tls: {mode: DISABLE}}}");
    let strict = object("PeerAuthentication", "default", "{mtls: {mode: STRICT}}");
    let mutual = object("DestinationRule", "mutual", "{host: legacy, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}");
    let row = ("shop/web GET ratings:9080/", "outbound|9080||ratings [shop/ratings] = closed");
    check(&shop(&[plain.clone(), strict]), &[row]);
    check(&shop(&[plain]), &[("shop/web GET ratings:9080/", "outbound|9080||ratings [shop/ratings] = delivered")]);
    check(&shop(&[mutual]), &[("shop/web GET legacy:9080/", "outbound|9080||legacy [shop/legacy] = closed")]);
}

#[test]
fn each_endpoint_by_its_sidecar() {
    let snapshot = shop(&[]);
    let security = |text: &str| explain(&snapshot, text).hop.ways[0].to[0].security.clone();
    assert_eq!(security("shop/web GET legacy:9080/"), Security::Plaintext);
    let expected = Security::MutualTls {
        identity: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
        server_name: "outbound_.6379_._.stock.shop.svc.cluster.local".to_owned(),
        protocols: vec!["istio".to_owned()],
    };
    assert_eq!(security("shop/web TCP stock:6379"), expected);
}

/// A server whose certificate is not one that the client expects.
#[test]
fn another_server() {
    let entry = object(
        "ServiceEntry",
        "alias",
        "{hosts: [alias.example.com], addresses: [10.99.0.1], location: MESH_INTERNAL, resolution: STATIC, \
         ports: [{number: 80, targetPort: 8080, name: http, protocol: HTTP}], \
         endpoints: [{address: 10.0.0.13, serviceAccount: other, labels: {security.istio.io/tlsMode: istio}}]}",
    );
    let explanation = explain(&shop(&[entry]), "shop/web GET alias.example.com/");
    let Verdict::Answered { status: 503, why } = &explanation.verdict else { panic!("{explanation}") };
    assert!(why.contains("ns/shop/sa/ratings"), "{why}");
}
