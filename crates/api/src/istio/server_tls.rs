//! TLS of a Gateway's servers.

use mizzen_types::{Protocol, check_dns_label};

use super::client_tls::path;
use crate::read::{At, Fields, quoted};

/// How TLS is ended at a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Whose certificates are shown and asked for.
    pub mode: ServerTlsMode,
    /// The Secrets with certificate and key, in the namespace of the gateway's pods, which may stand before the name (`NAMESPACE/NAME`): one, or two of
    /// which the client's abilities choose. None with [`ServerTlsMode::IstioMutual`] or `files`, and one at least with all others.
    pub credentials: Vec<String>,
    /// The Secret with the authorities of clients; `None`: the first of `credentials`, or its companion `NAME-cacert`.
    pub ca_credential: Option<String>,
    /// Files in the proxy in the place of Secrets.
    pub files: Option<ServerFiles>,
    /// Whom a client's certificate must name one of; empty: anybody whom an authority has signed.
    pub subject_alt_names: Vec<String>,
    /// The lowest version.
    pub min: TlsVersion,
    /// The highest version; not below `min`.
    pub max: TlsVersion,
    /// The cipher suites of TLS 1.2, by OpenSSL's names; empty: the proxy's.
    pub cipher_suites: Vec<String>,
}

/// A server's certificates and whom it believes, in files that the proxy sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// The files of a chain and of its key: one pair, or two of which the client's abilities choose.
    pub certificates: Vec<(String, String)>,
    /// The authorities of clients, if clients are asked; then always.
    pub authorities: Option<String>,
    /// What they have revoked.
    pub revoked: Option<String>,
}

/// Whose certificates a server shows and asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerTlsMode {
    /// Its own is shown.
    Simple,
    /// Clients must show one too.
    Mutual,
    /// Clients may show one, which must then be good.
    OptionalMutual,
    /// Mutual TLS of the mesh, with the workload's own certificate.
    IstioMutual,
}

impl ServerTls {
    /// The Secret in which, or in whose companion, the authorities of clients are; none if no client is asked, or if those of the mesh are.
    pub fn authorities(&self) -> Option<&str> {
        let asked = matches!(self.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
        self.ca_credential.as_deref().or(self.credentials.first().map(String::as_str)).filter(|_| asked)
    }
}

impl ServerTlsMode {
    /// Whether clients are asked for a certificate.
    pub fn asks_clients(self) -> bool {
        self != ServerTlsMode::Simple
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// The proxy's own choice: 1.2 at least, 1.3 at most.
    #[default]
    Auto,
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

/// By what the server name of TLS that is not ended here says where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Passthrough {
    /// By the `tls` routes of VirtualServices.
    Routes,
    /// By itself: it is one that sidecars send in mutual TLS, `outbound_.PORT_.SUBSET_.HOST`.
    Auto,
}

/// What becomes of TLS at a server.
pub(crate) enum TlsAt {
    /// It is ended.
    Ended(ServerTls),
    /// It goes on as it came.
    Passed(Passthrough),
    /// None comes: requests are in plain text, and are sent to https or not.
    Nowhere { redirect: bool },
}

/// A mode as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Passes(Passthrough),
    Ends(ServerTlsMode),
}

pub(crate) const SERVER_TLS_MODES: &[(&str, i64, Option<Mode>); 6] = &[
    ("PASSTHROUGH", 0, Some(Mode::Passes(Passthrough::Routes))),
    ("SIMPLE", 1, Some(Mode::Ends(ServerTlsMode::Simple))),
    ("MUTUAL", 2, Some(Mode::Ends(ServerTlsMode::Mutual))),
    ("AUTO_PASSTHROUGH", 3, Some(Mode::Passes(Passthrough::Auto))),
    ("ISTIO_MUTUAL", 4, Some(Mode::Ends(ServerTlsMode::IstioMutual))),
    ("OPTIONAL_MUTUAL", 5, Some(Mode::Ends(ServerTlsMode::OptionalMutual))),
];

/// A version as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Old,
    Spoken(TlsVersion),
}

pub(crate) const SERVER_TLS_VERSIONS: &[(&str, i64, Option<Version>); 5] = &[
    ("TLS_AUTO", 0, Some(Version::Spoken(TlsVersion::Auto))),
    ("TLSV1_0", 1, Some(Version::Old)),
    ("TLSV1_1", 2, Some(Version::Old)),
    ("TLSV1_2", 3, Some(Version::Spoken(TlsVersion::V12))),
    ("TLSV1_3", 4, Some(Version::Spoken(TlsVersion::V13))),
];

/// The cipher suites that Istio takes. It leaves others out and says so.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// `tls` of a server with this protocol.
pub(crate) fn server_tls(f: &Fields<'_>, protocol: Protocol) -> TlsAt {
    let nowhere = TlsAt::Nowhere { redirect: false };
    let Some(at) = f.get("tls") else {
        if protocol.is_tls() {
            f.slot("tls").fail(format!("is required by protocol {protocol}"));
        }
        return nowhere;
    };
    if protocol.is_http() {
        return TlsAt::Nowhere { redirect: at.fields(|f| redirect(f, &at)) };
    }
    // With `tls` bytes of any kind come in TLS, whatever the protocol is called.
    at.fields(|f| secured(f, &at)).unwrap_or(nowhere)
}

/// Of a server of plain text: whether it sends requests to https. Nothing else has a place there.
fn redirect(f: &Fields<'_>, at: &At<'_>) -> bool {
    if matches!(f.get("mode").and_then(|at| at.choice(SERVER_TLS_MODES)), Some(Mode::Ends(_))) {
        f.slot("mode").fail("ends TLS, and the port's protocol is plain text: write protocol HTTPS");
    }
    for at in SECRETS.into_iter().chain(FILES).filter_map(|name| f.get(name)) {
        // With Istio, too, no more than a warning.
        at.warn("is not used: the port's protocol is plain text, and for TLS it is HTTPS");
    }
    // They are read, so that what is wrong is told; where no TLS is, they mean nothing.
    let _ = (f.text_list("subjectAltNames"), versions(f), cipher_suites(f));
    let redirect = f.flag("httpsRedirect");
    if !redirect && f.is_empty() {
        at.warn("says nothing: the server is one of plain text");
    }
    redirect
}

/// Of a server to which TLS comes. None: what is wrong was said.
fn secured(f: &Fields<'_>, at: &At<'_>) -> Option<TlsAt> {
    if f.flag("httpsRedirect") {
        f.slot("httpsRedirect").warn("has no effect: it is for servers of plain HTTP");
    }
    match f.get("mode").map(|at| at.choice(SERVER_TLS_MODES)) {
        Some(Some(Mode::Ends(mode))) => ended(f, at, Some(mode)).map(TlsAt::Ended),
        Some(Some(Mode::Passes(passthrough))) => Some(TlsAt::Passed(passed(f, passthrough))),
        None => Some(TlsAt::Passed(passed(f, Passthrough::Routes))),
        Some(None) => ended(f, at, None).map(TlsAt::Ended),
    }
}

/// What is not ended here has no certificate of ours, and no limits.
fn passed(f: &Fields<'_>, passthrough: Passthrough) -> Passthrough {
    let mode = match (f.written("mode"), passthrough) {
        (false, _) => "PASSTHROUGH, the mode where none is written,",
        (true, Passthrough::Routes) => "PASSTHROUGH",
        (true, Passthrough::Auto) => "AUTO_PASSTHROUGH",
    };
    // They are read, so that what is wrong is told.
    let _ = (versions(f), cipher_suites(f), f.text_list("subjectAltNames"));
    let unused = [
        "credentialName",
        "credentialNames",
        "caCertCredentialName",
        "serverCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "tlsCertificates",
        "subjectAltNames",
        "minProtocolVersion",
        "maxProtocolVersion",
        "cipherSuites",
    ];
    for at in unused.into_iter().filter_map(|name| f.get(name)) {
        at.warn(format!("is not used: {mode} ends no TLS"));
    }
    passthrough
}

fn ended(f: &Fields<'_>, at: &At<'_>, mode: Option<ServerTlsMode>) -> Option<ServerTls> {
    let names = f.one_of(&["credentialName", "credentialNames"]);
    let credentials: Vec<String> = match &names {
        Some(("credentialName", at)) => credential(at).into_iter().collect(),
        Some((_, at)) => {
            let all = at.list();
            if all.is_empty() || all.len() > 2 {
                at.fail("names one or two Secrets");
            }
            all.iter().filter_map(credential).collect()
        }
        None => Vec::new(),
    };
    let ca_credential = f.get("caCertCredentialName").and_then(|at| credential(&at));
    let (min, max) = versions(f);
    let (subject_alt_names, cipher_suites) = (f.text_list("subjectAltNames"), cipher_suites(f));
    let files = files(f);
    let mode = mode?;
    if mode == ServerTlsMode::IstioMutual {
        for name in SECRETS.into_iter().chain(FILES).filter(|name| f.written(name)) {
            f.slot(name).fail("has no place beside ISTIO_MUTUAL, which shows the workload's own certificate");
        }
    } else if let Some((secrets, _)) = names {
        for name in FILES.into_iter().filter(|name| f.written(name)) {
            f.slot(name).fail(format!("has no place beside {secrets}, whose Secret has certificate, key and authorities"));
        }
    } else if FILES.iter().any(|name| f.written(name)) {
        if f.written("tlsCertificates") {
            for name in PAIR.into_iter().filter(|name| f.written(name)) {
                f.slot(name).fail("has no place beside tlsCertificates, which has all certificates and keys");
            }
        }
        let pair = PAIR.into_iter().filter(|_| !f.written("tlsCertificates"));
        for name in pair.chain(mode.asks_clients().then_some("caCertificates")).filter(|name| !f.written(name)) {
            f.slot(name).fail("is required where there is no credentialName");
        }
        if f.written("caCertCredentialName") {
            f.slot("caCertCredentialName").fail("has no place beside files: the authorities are those of caCertificates");
        }
    } else {
        at.fail(
            "needs a credentialName: the Secret with certificate and key, in the namespace of the gateway's pods; or the files serverCertificate and \
             privateKey",
        );
    }
    if !mode.asks_clients() {
        for name in ["caCertCredentialName", "subjectAltNames", "caCertificates", "caCrl"] {
            let says = if name == "subjectAltNames" { !subject_alt_names.is_empty() } else { f.written(name) };
            if says {
                f.slot(name).fail("has no place beside SIMPLE, which asks clients for no certificate");
            }
        }
    }
    Some(ServerTls { mode, credentials, ca_credential, files, subject_alt_names, min, max, cipher_suites })
}

/// What names Secrets.
const SECRETS: [&str; 3] = ["credentialName", "credentialNames", "caCertCredentialName"];
/// What names the files of one certificate.
const PAIR: [&str; 2] = ["serverCertificate", "privateKey"];
/// What names files.
const FILES: [&str; 5] = ["serverCertificate", "privateKey", "caCertificates", "caCrl", "tlsCertificates"];

/// The files that are written, if they are enough to show a certificate.
fn files(f: &Fields<'_>) -> Option<ServerFiles> {
    let file = |name| f.get(name).and_then(|at| path(&at));
    let (certificate, key, authorities, revoked) = (file("serverCertificate"), file("privateKey"), file("caCertificates"), file("caCrl"));
    let certificates: Vec<(String, String)> = match f.get("tlsCertificates") {
        None => certificate.zip(key).into_iter().collect(),
        Some(at) => {
            let all = at.list();
            match all.len() {
                0 => at.fail("names one or two certificates"),
                1 | 2 => {}
                // With Istio, too, no more than a warning.
                _ => at.warn("only two certificates are served, the first ones"),
            }
            let pair = |f: &Fields<'_>| {
                let [certificate, key] = PAIR.map(|name| f.need(name).and_then(|at| path(&at)));
                certificate.zip(key)
            };
            all.iter().filter_map(|at| at.fields(pair)).take(2).collect()
        }
    };
    (!certificates.is_empty()).then_some(ServerFiles { certificates, authorities, revoked })
}

/// A Secret's name, of which a resource's name is made. Its namespace may stand before it, and is the gateway's in any case: a Secret of another one is
/// given to no gateway.
pub(super) fn credential(at: &At<'_>) -> Option<String> {
    let text = at.word();
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = |name: &str| {
        let inner = |c: char| ends(c) || matches!(c, '-' | '.');
        name.len() <= 253 && name.starts_with(ends) && name.ends_with(ends) && name.chars().all(inner)
    };
    let fits = match text.split_once('/') {
        Some((namespace, name)) => check_dns_label(namespace).is_ok() && is_name(name),
        None => is_name(&text),
    };
    if !fits {
        at.fail(format!(
            "{} is no name of a Secret: small letters, digits, `-`, `.`, perhaps with the gateway's namespace and `/` before it",
            quoted(&text)
        ));
        return None;
    }
    if text.ends_with("-cacert") {
        at.fail(format!("{} ends in -cacert, as the companions do that hold the authorities of others", quoted(&text)));
        return None;
    }
    Some(text)
}

fn versions(f: &Fields<'_>) -> (TlsVersion, TlsVersion) {
    let min = f.get("minProtocolVersion").and_then(|at| {
        let version = at.choice(SERVER_TLS_VERSIONS)?;
        if version == Version::Old {
            at.warn("is below TLSV1_2, under which nothing is spoken: TLSV1_2 is the lowest");
        }
        Some(version)
    });
    let max = f.get("maxProtocolVersion").and_then(|at| {
        let version = at.choice(SERVER_TLS_VERSIONS)?;
        if version == Version::Old {
            at.fail("is below TLSV1_2, under which nothing is spoken");
        }
        Some(version)
    });
    let of = |version| match version {
        Some(Version::Spoken(version)) => version,
        Some(Version::Old) => TlsVersion::V12,
        None => TlsVersion::Auto,
    };
    let (min, max) = (of(min), of(max));
    if (min, max) == (TlsVersion::V13, TlsVersion::V12) {
        f.slot("minProtocolVersion").fail("is above maxProtocolVersion");
    }
    (min, max)
}

fn cipher_suites(f: &Fields<'_>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    let all = f.list("cipherSuites");
    for at in &all {
        let name = at.word();
        if !CIPHER_SUITES.contains(&name.as_str()) {
            at.warn(format!("{} is no cipher suite that a gateway may have, and is left out", quoted(&name)));
        } else if kept.contains(&name) {
            at.warn(format!("{} is there twice", quoted(&name)));
        } else {
            kept.push(name);
        }
    }
    if kept.is_empty() && !all.is_empty() {
        f.slot("cipherSuites").fail("none of them is one that a gateway may have");
    }
    kept
}
