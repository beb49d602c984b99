//! The CA against hostile requests, and both verifiers in real handshakes, without sockets.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use mizzen_types::{SpiffeId, TrustDomain};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;

use crate::tls::{TlsOptions, Version, client_config, server_config};
use crate::*;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

fn ca() -> Ca {
    Ca::self_signed(&TrustDomain::default(), at(NOW), CaLimits::default()).unwrap()
}

#[derive(Debug)]
struct Clock(u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(at(self.0))
    }
}

/// What a request wishes is not granted: neither CA rights, nor another's name, nor a subject.
#[test]
fn wishes_are_ignored() {
    let (ca, key) = (ca(), KeyPair::generate().unwrap());
    let mut wish = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    wish.subject_alt_names.push(SanType::URI("spiffe://evil/ns/a/sa/b".try_into().unwrap()));
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr = wish.serialize_request(key.inner()).unwrap().pem().unwrap();
    let chain = ca.sign_csr(&csr, &id("reviews"), Duration::from_secs(3600), at(NOW)).unwrap();
    assert_eq!(chain.len(), 2, "leaf and root");
    let svid = Svid::from_chain(&chain, &key).unwrap();
    let facts = svid.facts();
    assert!(!facts.is_ca);
    assert_eq!(facts.uris, [id("reviews").to_string()]);
    assert!(facts.dns.is_empty());
    assert_eq!(facts.subject, "");
    assert_eq!(facts.validity, Validity { not_before: at(NOW - 120), not_after: at(NOW + 3600) });
    assert_eq!(svid.identity(), Some(&id("reviews")));
    assert_eq!(peer_identity(&svid.chain()[0]).unwrap(), id("reviews"));
    assert_eq!(facts.serial.len(), 32);
}

#[test]
fn extensions_of_a_leaf() {
    use x509_parser::prelude::*;
    let svid = ca().issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    let (_, cert) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    let names = cert.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    assert_eq!(names.value.general_names.len(), 1);
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    let basic = cert.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && !basic.value.ca);
}

#[test]
fn lifetimes() {
    let (ca, key) = (ca(), KeyPair::generate().unwrap());
    let csr = key.csr(Some(&id("a"))).unwrap();
    for (ttl, now, expected) in [
        (0, NOW, Ok((NOW - 120, NOW + DAY))),
        (10, NOW, Ok((NOW - 1, NOW + 10))),
        (90 * DAY, NOW, Ok((NOW - 120, NOW + 90 * DAY))),
        (90 * DAY + 1, NOW, Err(PkiError::Lifetime { wished: 90 * DAY + 1, max: 90 * DAY })),
        // Never longer than the CA itself.
        (DAY, NOW + 3650 * DAY - 60, Ok((NOW + 3650 * DAY - 180, NOW + 3650 * DAY))),
        (DAY, NOW + 3650 * DAY, Err(PkiError::CaExpired { not_after: NOW + 3650 * DAY })),
    ] {
        let chain = ca.sign_csr(&csr, &id("a"), Duration::from_secs(ttl), at(now));
        let validity = chain.map(|c| Svid::from_chain(&c, &key).unwrap().validity());
        assert_eq!(validity.map(|v| (v.not_before.as_secs(), v.not_after.as_secs())), expected, "{ttl} at {now}");
    }
}

#[test]
fn bad_requests() {
    let (ca, key) = (ca(), KeyPair::generate().unwrap());
    let good = key.csr(None).unwrap();
    // The last bit of the signature is another.
    let mut der = request().clone();
    *der.last_mut().unwrap() ^= 1;
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
    let certificate = ca.roots().to_pem();
    for (name, csr, reason) in [
        ("empty", String::new(), "PEM"),
        ("no PEM", "hello".to_owned(), "PEM"),
        ("a certificate", certificate, "PEM"),
        ("forged", forged, "signature"),
        ("long", good.repeat(400), "longer than"),
        ("a key", key.to_pem().expose().to_owned(), "PEM"),
    ] {
        let error = ca.sign_csr(&csr, &id("a"), Duration::ZERO, at(NOW)).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    assert!(ca.sign_csr(&good, &id("a"), Duration::ZERO, at(NOW)).is_ok());
}

#[test]
fn state_survives() {
    let first = ca();
    let second = Ca::from_pem(first.to_pem().expose(), CaLimits::default()).unwrap();
    assert_eq!(first.roots(), second.roots());
    let svid = second.issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    assert!(handshake(&first.issue(&id("b"), Duration::ZERO, at(NOW)).unwrap(), &svid, Case::of(&first)).is_ok());
    assert!(Ca::from_pem("", CaLimits::default()).is_err());
    let (key, foreign) = (KeyPair::generate().unwrap(), first.roots().to_pem());
    assert!(matches!(
        Ca::from_parts(key.to_pem().expose(), foreign.as_bytes(), foreign.as_bytes(), CaLimits::default()),
        Err(PkiError::Key(_))
    ));
}

/// An intermediate CA: its leaves are believed by those who know the root only.
#[test]
fn plugged_in() {
    let root = ca();
    let parts = root.to_pem();
    let root_key = rcgen::KeyPair::from_pem(parts.expose().split("=====").next().unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&root.roots().roots()[0], root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "between");
    let between = params.signed_by(key.inner(), &issuer).unwrap().pem();
    let plugged = Ca::from_parts(key.to_pem().expose(), between.as_bytes(), root.roots().to_pem().as_bytes(), CaLimits::default()).unwrap();
    let svid = plugged.issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    assert_eq!(svid.chain().len(), 3);
    assert!(handshake(&root.issue(&id("b"), Duration::ZERO, at(NOW)).unwrap(), &svid, Case::of(&root)).is_ok());
    // A leaf is no CA.
    let leaf = svid.chain_pem();
    let result = Ca::from_parts(svid.key_pem().expose(), leaf.as_bytes(), leaf.as_bytes(), CaLimits::default());
    assert!(matches!(result, Err(PkiError::Certificate(_))), "{result:?}");
}

/// One handshake's circumstances.
struct Case {
    trust: TrustBundle,
    server_names: Vec<SanMatch>,
    client_names: Vec<SanMatch>,
    now: u64,
    max: Version,
    anonymous: bool,
    required: bool,
}

impl Case {
    fn of(ca: &Ca) -> Case {
        Case {
            trust: ca.roots().clone(),
            server_names: vec![],
            client_names: vec![],
            now: NOW,
            max: Version::Tls13,
            anonymous: false,
            required: true,
        }
    }
}

/// Runs a handshake in memory; gives the group that was agreed on.
fn handshake(client: &Svid, server: &Svid, case: Case) -> Result<rustls::NamedGroup, rustls::Error> {
    let options = TlsOptions { time: Arc::new(Clock(case.now)), max: case.max, ..TlsOptions::default() };
    let verifier = server_verifier(&case.trust, case.server_names).unwrap();
    let client = client_config((!case.anonymous).then_some(client), verifier, &options).unwrap();
    let verifier = client_verifier(&case.trust, case.client_names, case.required).unwrap();
    let server = server_config(server, Some(verifier), &options).unwrap();
    let (client, _server) = shake(&client, &server)?;
    Ok(client.negotiated_key_exchange_group().unwrap().name())
}

/// Runs a handshake in memory by these configurations.
fn shake(
    client: &Arc<rustls::ClientConfig>,
    server: &Arc<rustls::ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from("outbound.any").unwrap()).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    for _ in 0..8 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let _ = client.reader().read(&mut [0; 8]);
    Ok((client, server))
}

#[test]
fn sessions_are_resumed() {
    let ours = ca();
    let svid = |name| ours.issue(&id(name), Duration::from_secs(3600), at(NOW)).unwrap();
    let (a, b) = (svid("client"), svid("server"));
    for (max, resumption) in [(Version::Tls12, true), (Version::Tls13, true), (Version::Tls12, false), (Version::Tls13, false)] {
        let options = TlsOptions { time: Arc::new(Clock(NOW)), max, resumption, ..TlsOptions::default() };
        let client = client_config(Some(&a), server_verifier(ours.roots(), vec![]).unwrap(), &options).unwrap();
        let server = server_config(&b, Some(client_verifier(ours.roots(), vec![], true).unwrap()), &options).unwrap();
        for expected in [false, resumption, resumption] {
            let (client, _server) = shake(&client, &server).unwrap();
            assert_eq!(client.handshake_kind() == Some(rustls::HandshakeKind::Resumed), expected, "{max:?} {resumption}");
        }
    }
}

#[test]
fn verification() {
    let (ours, theirs) = (ca(), ca());
    let svid = |ca: &Ca, name| ca.issue(&id(name), Duration::from_secs(3600), at(NOW)).unwrap();
    let (client, server, foreign) = (svid(&ours, "client"), svid(&ours, "server"), svid(&theirs, "client"));
    let uri = |name: &str| vec![SanMatch::uri(id(name).to_string())];
    let case = || Case::of(&ours);
    for (name, a, b, case, ok) in [
        ("plain", &client, &server, case(), true),
        ("TLS 1.2", &client, &server, Case { max: Version::Tls12, ..case() }, true),
        ("right names", &client, &server, Case { server_names: uri("server"), client_names: uri("client"), ..case() }, true),
        ("wrong server", &client, &server, Case { server_names: uri("other"), ..case() }, false),
        ("wrong server, TLS 1.2", &client, &server, Case { server_names: uri("other"), max: Version::Tls12, ..case() }, false),
        ("wrong client", &client, &server, Case { client_names: uri("other"), ..case() }, false),
        ("trust domain", &client, &server, Case { client_names: vec![SanMatch::uri_prefix("spiffe://cluster.local/")], ..case() }, true),
        (
            "another domain",
            &client,
            &server,
            Case { client_names: vec![SanMatch::uri_prefix("spiffe://cluster.local2/")], ..case() },
            false,
        ),
        ("client of another CA", &foreign, &server, case(), false),
        ("server of another CA", &client, &foreign, case(), false),
        ("expired", &client, &server, Case { now: NOW + 3601, ..case() }, false),
        ("not yet", &client, &server, Case { now: NOW - 121, ..case() }, false),
        ("slow clock", &client, &server, Case { now: NOW - 119, ..case() }, true),
        ("anonymous", &client, &server, Case { anonymous: true, ..case() }, false),
        ("anonymous allowed", &client, &server, Case { anonymous: true, required: false, ..case() }, true),
        ("wrong where none is needed", &foreign, &server, Case { required: false, ..case() }, false),
    ] {
        let result = handshake(a, b, case);
        assert_eq!(result.is_ok(), ok, "{name}: {result:?}");
    }
    assert_eq!(handshake(&client, &server, Case::of(&ours)).unwrap(), rustls::NamedGroup::X25519MLKEM768);
}

/// During a rotation of the root both are believed.
#[test]
fn two_roots() {
    let (old, new) = (ca(), ca());
    let mut both = old.roots().clone();
    both.merge(new.roots());
    both.merge(old.roots());
    assert_eq!(both.roots().len(), 2);
    let read = TrustBundle::from_pem(both.to_pem().as_bytes()).unwrap();
    assert_eq!(read, both);
    let a = old.issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    let b = new.issue(&id("b"), Duration::ZERO, at(NOW)).unwrap();
    assert!(handshake(&a, &b, Case { trust: both, ..Case::of(&old) }).is_ok());
}

#[test]
fn several_names() {
    let ca = ca();
    let uris = ["spiffe://cluster.local/ns/a/sa/a", "spiffe://cluster.local/ns/b/sa/b"].map(|u| SanType::URI(u.try_into().unwrap()));
    let svid = ca.issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    let key = rcgen::KeyPair::from_pem(ca.to_pem().expose().split("=====").next().unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&ca.roots().roots()[0], key).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.to_vec();
    let key = KeyPair::generate().unwrap();
    let two = Svid::from_pem(params.signed_by(key.inner(), &issuer).unwrap().pem().as_bytes(), key.to_pem().expose()).unwrap();
    assert_eq!(two.identity(), None);
    assert!(peer_identity(&two.chain()[0]).is_err());
    assert!(handshake(&two, &svid, Case::of(&ca)).is_err());
    assert!(handshake(&svid, &two, Case::of(&ca)).is_err());
}

#[test]
fn san_patterns() {
    let ca = ca();
    let server = ca.server_certificate(&["*.shop.example", "Shop.example", "10.0.0.1"], Duration::ZERO, at(NOW)).unwrap();
    let client = ca.issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    for (kind, pattern, ignore_case, ok) in [
        (SanKind::Dns, SanPattern::Exact("a.shop.example".into()), false, true),
        (SanKind::Dns, SanPattern::Exact("a.b.shop.example".into()), false, false),
        (SanKind::Any, SanPattern::Exact("a.shop.example".into()), false, true),
        (SanKind::Uri, SanPattern::Exact("a.shop.example".into()), false, false),
        (SanKind::Dns, SanPattern::Prefix("Shop.".into()), false, true),
        (SanKind::Dns, SanPattern::Prefix("SHOP.".into()), false, false),
        (SanKind::Dns, SanPattern::Prefix("SHOP.".into()), true, true),
        (SanKind::Dns, SanPattern::Suffix(".example".into()), false, true),
        (SanKind::Any, SanPattern::Contains("hop.ex".into()), false, true),
        (SanKind::Any, SanPattern::Contains("hopex".into()), false, false),
    ] {
        let names = vec![SanMatch { kind, pattern, ignore_case }];
        let text = format!("{names:?}");
        let result = handshake(&client, &server, Case { server_names: names, ..Case::of(&ca) });
        assert_eq!(result.is_ok(), ok, "{text}: {result:?}");
    }
}

#[test]
fn renewal() {
    let validity = |from, to| Validity { not_before: at(from), not_after: at(to) };
    for (valid, now, random, expected) in [
        (validity(NOW - 120, NOW + DAY), NOW, 0.5, DAY / 2),
        (validity(NOW - 120, NOW + DAY), NOW, 0.0, DAY * 45 / 100),
        (validity(NOW - 120, NOW + DAY), NOW, 1.0, DAY * 55 / 100),
        (validity(NOW - 120, NOW + DAY), NOW, f64::NAN, DAY / 2),
        // The allowance for slow clocks is longer than the life: still half of what is left.
        (validity(NOW - 120, NOW + 60), NOW, 0.5, 30),
        (validity(NOW + 10, NOW + 30), NOW, 0.5, 20),
        (validity(NOW - 120, NOW - 60), NOW, 0.5, 0),
    ] {
        assert_eq!(renewal_delay(&valid, at(now), random).as_secs_f64().round() as u64, expected, "{valid:?} {random}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let (ca, key) = (ca(), KeyPair::generate().unwrap());
    let svid = ca.issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    let shown = format!("{ca:?} {key:?} {svid:?} {:?}", key.to_pem());
    assert!(!shown.contains("PRIVATE") && !shown.contains("MIG"), "{shown}");
}

#[test]
fn keys_belong_to_certificates() {
    let svid = ca().issue(&id("a"), Duration::ZERO, at(NOW)).unwrap();
    let other = KeyPair::generate().unwrap();
    assert!(matches!(Svid::from_pem(svid.chain_pem().as_bytes(), other.to_pem().expose()), Err(PkiError::Key(_))));
}

#[test]
fn restricted() {
    let none: [&str; 0] = [];
    let count = |suites: &[&str], curves: &[&str]| {
        restricted_provider(suites, curves).map(|p| (p.cipher_suites.iter().filter(|s| s.tls13().is_none()).count(), p.kx_groups.len()))
    };
    let all = count(&none, &none).unwrap();
    for (suites, curves, expected) in [
        (&["ECDHE-RSA-AES128-GCM-SHA256", "AES128-SHA"][..], &none[..], Some((1, all.1))),
        (&["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]"], &none, Some((2, all.1))),
        (&["AES128-SHA"], &none, None),
        (&none, &["X25519MLKEM768", "P-521"], Some((all.0, 1))),
        (&none, &["P-521"], None),
    ] {
        assert_eq!(count(suites, curves), expected, "{suites:?} {curves:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No parser of untrusted text panics: arbitrary bytes, as PEM bodies and as they are.
    #[test]
    fn arbitrary_input(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let ca = shared();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes);
        for label in ["CERTIFICATE", "CERTIFICATE REQUEST", "PRIVATE KEY", "EC PRIVATE KEY"] {
            let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            for input in [&pem, &text] {
                let _ = ca.sign_csr(input, &id("a"), Duration::ZERO, at(NOW));
                let _ = TrustBundle::from_pem(input.as_bytes());
                let _ = Svid::from_pem(input.as_bytes(), input);
                let _ = KeyPair::from_pem(input);
            }
        }
        let der = CertificateDer::from(bytes);
        let _ = (facts(&der), peer_uris(&der), peer_identity(&der));
    }

    /// Nor do they on what is almost right.
    #[test]
    fn mutated_input(spot in any::<proptest::sample::Index>(), value in any::<u8>()) {
        let ca = shared();
        let mut root = ca.roots().roots()[0].to_vec();
        let spot_in = spot.index(root.len());
        root[spot_in] = value;
        let der = CertificateDer::from(root);
        let _ = (facts(&der), peer_uris(&der), peer_identity(&der), TrustBundle::default().add(der.clone()));
        let csr = rustls_pki_types::CertificateSigningRequestDer::from(request().clone());
        let mut bytes = csr.to_vec();
        let spot_in = spot.index(bytes.len());
        bytes[spot_in] = value;
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        if let Ok(chain) = ca.sign_csr(&pem, &id("a"), Duration::ZERO, at(NOW)) {
            let leaf = <CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(chain[0].as_bytes()).unwrap();
            prop_assert_eq!(peer_identity(&leaf).unwrap(), id("a"));
        }
    }
}

fn shared() -> &'static Ca {
    static SHARED: std::sync::LazyLock<Ca> = std::sync::LazyLock::new(ca);
    &SHARED
}

fn request() -> &'static Vec<u8> {
    static SHARED: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let key = rcgen::KeyPair::generate().unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    });
    &SHARED
}

#[test]
fn what_is_revoked_is_not_believed() {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        (Issuer::from_ca_cert_pem(&root, key).unwrap(), root)
    };
    let (issuer, root) = authority("one");
    let (other, other_root) = authority("other");
    let leaf = |serial: u64| {
        let mut params = CertificateParams::new(vec!["ann.example".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
    };
    let list = |by: &Issuer<'_, rcgen::KeyPair>, until: i32| {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7_u64),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(by).unwrap().pem().unwrap()
    };
    let check = |lists: &[String], serial: u64, expected: bool| {
        let mut trust = TrustBundle::from_pem(format!("{root}{other_root}").as_bytes()).unwrap();
        lists.iter().for_each(|list| trust.revoke(list.as_bytes()).unwrap());
        let verifier = client_verifier(&trust, Vec::new(), true).unwrap();
        let verified = verifier.verify_client_cert(&leaf(serial), &[], UnixTime::now());
        assert_eq!(verified.is_ok(), expected, "{serial} by {} lists: {verified:?}", lists.len());
    };
    check(&[], 7, true);
    let good = list(&issuer, 2090);
    check(std::slice::from_ref(&good), 7, false);
    check(std::slice::from_ref(&good), 8, true);
    check(&[list(&other, 2090), good], 8, true);
    // Of whom nothing is known, and of whom nothing new is known.
    check(&[list(&other, 2090)], 8, false);
    check(&[list(&issuer, 2025)], 8, false);
    let mut trust = TrustBundle::from_pem(root.as_bytes()).unwrap();
    for wrong in ["", "nothing", root.as_str()] {
        assert!(trust.revoke(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
