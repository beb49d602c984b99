//! TLS to a service's endpoints, as a DestinationRule asks for it.

use mizzen_types::Hostname;

use super::server_tls::credential;
use crate::read::{At, Fields, quoted};

/// What a rule is warned of that leaves it to the system's roots who is believed.
pub const SYSTEM_ROOTS: &str =
    "there are no caCertificates: the roots of the proxy's system verify the server, as with `caCertificates: system`";
/// What a rule is warned of by which nobody is verified.
pub const NOBODY_VERIFIED: &str = "nothing verifies the server: anybody on the way can answer for it, and read and change everything";
/// What a rule is warned of that says by which name the server is asked for, and not who it must be.
pub const ANY_NAME: &str = "nothing checks whom the server's certificate names: with sni, write subjectAltNames too";

/// TLS to a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// Plain text.
    Disable,
    /// Mutual TLS with the workload's identity, to a server of the mesh.
    IstioMutual(Expected),
    /// TLS to a server that is not of the mesh.
    Foreign(Box<ForeignTls>),
}

/// How a server is asked for, and who it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The server name in the handshake; none: by the mode's default.
    pub sni: Option<String>,
    /// One of these must be in its certificate; none: by the mode's default.
    pub subject_alt_names: Vec<String>,
}

/// TLS to a server that is not of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignTls {
    /// How it is asked for, and who it must be.
    pub expected: Expected,
    /// What is shown to it; none: nothing (SIMPLE).
    pub certificate: Option<ClientCertificate>,
    /// Who may have signed its certificate.
    pub roots: ClientRoots,
}

/// A certificate with its key, to be shown to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Files in the proxy.
    Files {
        /// The chain.
        certificate: String,
        /// The key.
        key: String,
    },
    /// A Secret of the proxy's namespace.
    Secret(String),
}

/// Who may have signed a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRoots {
    /// A file in the proxy.
    File {
        /// The authorities; none: the bundle of the proxy's system.
        authorities: Option<String>,
        /// What they have revoked.
        revoked: Option<String>,
    },
    /// The authorities of a Secret of the proxy's namespace, or of its companion.
    Secret(String),
    /// Nothing is verified (`insecureSkipVerify`).
    Nobody,
}

impl ForeignTls {
    /// The Secret that it names.
    pub fn credential(&self) -> Option<&str> {
        match (&self.certificate, &self.roots) {
            (Some(ClientCertificate::Secret(name)), _) | (_, ClientRoots::Secret(name)) => Some(name),
            _ => None,
        }
    }
}

/// What `mode` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientTlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

pub(crate) const CLIENT_TLS_MODES: &[(&str, i64, Option<ClientTlsMode>); 4] = &[
    ("DISABLE", 0, Some(ClientTlsMode::Disable)),
    ("SIMPLE", 1, Some(ClientTlsMode::Simple)),
    ("MUTUAL", 2, Some(ClientTlsMode::Mutual)),
    ("ISTIO_MUTUAL", 3, Some(ClientTlsMode::IstioMutual)),
];

/// What says what is shown and who is believed.
const CREDENTIALS: [&str; 5] = ["clientCertificate", "privateKey", "caCertificates", "caCrl", "credentialName"];

/// What stands for the bundle of the proxy's system.
const SYSTEM: &str = "system";

/// All that is written, as far as it is right by itself.
struct Written {
    certificate: Option<String>,
    key: Option<String>,
    authorities: Option<String>,
    revoked: Option<String>,
    credential: Option<String>,
    expected: Expected,
    skip: bool,
}

impl ClientTls {
    pub(crate) fn read(f: &Fields<'_>) -> ClientTls {
        let mode = f.get("mode").map_or(Some(ClientTlsMode::Disable), |at| at.choice(CLIENT_TLS_MODES));
        let given = |name| f.get(name).filter(|at| !at.str().is_empty());
        let written = Written {
            certificate: given("clientCertificate").and_then(|at| path(&at)),
            key: given("privateKey").and_then(|at| path(&at)),
            authorities: given("caCertificates").and_then(|at| if at.str() == SYSTEM { Some(SYSTEM.to_owned()) } else { path(&at) }),
            revoked: given("caCrl").and_then(|at| path(&at)),
            credential: given("credentialName").and_then(|at| credential(&at)),
            expected: Expected {
                sni: given("sni").and_then(|at| server_name(&at)),
                subject_alt_names: f.list("subjectAltNames").iter().map(At::word).collect(),
            },
            skip: f.flag("insecureSkipVerify"),
        };
        match mode {
            None => ClientTls::Disable,
            Some(ClientTlsMode::Disable) => {
                for name in CREDENTIALS.into_iter().chain(["sni", "subjectAltNames", "insecureSkipVerify"]).filter(|name| has(f, name)) {
                    f.slot(name).warn("is not used: mode DISABLE, which is the default, is plain text");
                }
                ClientTls::Disable
            }
            Some(ClientTlsMode::IstioMutual) => {
                for name in CREDENTIALS.into_iter().filter(|name| has(f, name)) {
                    f.slot(name).fail(
                        "has no place beside ISTIO_MUTUAL, which shows the workload's own certificate and believes the mesh's authorities",
                    );
                }
                if written.skip {
                    f.slot("insecureSkipVerify").fail("has no place beside ISTIO_MUTUAL, which always verifies");
                }
                ClientTls::IstioMutual(written.expected)
            }
            Some(ClientTlsMode::Simple) => ClientTls::Foreign(Box::new(written.foreign(f, false))),
            Some(ClientTlsMode::Mutual) => ClientTls::Foreign(Box::new(written.foreign(f, true))),
        }
    }
}

impl Written {
    fn foreign(self, f: &Fields<'_>, mutual: bool) -> ForeignTls {
        if self.credential.is_some() {
            for name in CREDENTIALS.into_iter().filter(|name| *name != "credentialName" && has(f, name)) {
                f.slot(name).fail("has no place beside credentialName, whose Secret has certificate, key and authorities");
            }
        } else if mutual {
            for name in ["clientCertificate", "privateKey"].into_iter().filter(|name| !has(f, name)) {
                f.slot(name).fail("is required by MUTUAL, or a credentialName");
            }
        } else {
            for name in ["clientCertificate", "privateKey"].into_iter().filter(|name| has(f, name)) {
                f.slot(name).warn("is not used: SIMPLE shows no certificate, MUTUAL does");
            }
        }
        if self.skip {
            let by_secret: &[&'static str] = if mutual { &[] } else { &["credentialName"] };
            let files = ["caCertificates", "caCrl", "subjectAltNames"];
            for name in files.into_iter().chain(by_secret.iter().copied()).filter(|name| has(f, name)) {
                f.slot(name).fail("has no place beside insecureSkipVerify, by which nothing is verified");
            }
            f.slot("insecureSkipVerify").warn(NOBODY_VERIFIED);
        } else {
            if self.authorities.is_none() && self.credential.is_none() && !has(f, "caCertificates") {
                f.slot("mode").warn(SYSTEM_ROOTS);
            }
            if self.expected.sni.is_some() && self.expected.subject_alt_names.is_empty() {
                f.slot("sni").warn(ANY_NAME);
            }
        }
        let files = self.certificate.zip(self.key).map(|(certificate, key)| ClientCertificate::Files { certificate, key });
        let secret = self.credential.clone().map(ClientCertificate::Secret);
        let roots = match self.credential {
            _ if self.skip => ClientRoots::Nobody,
            Some(name) => ClientRoots::Secret(name),
            None => ClientRoots::File { authorities: self.authorities.filter(|path| path != SYSTEM), revoked: self.revoked },
        };
        ForeignTls { expected: self.expected, certificate: secret.or(files).filter(|_| mutual), roots }
    }
}

/// A file in the proxy. A `~` stands between two files in the names of secrets.
pub(super) fn path(at: &At<'_>) -> Option<String> {
    let text = at.text();
    let fits = text.starts_with('/') && !text.contains('~');
    if !fits {
        at.fail(format!("{} is no absolute path without `~`", quoted(&text)));
    }
    fits.then_some(text)
}

/// The name of a server: no wildcard.
fn server_name(at: &At<'_>) -> Option<String> {
    let name: Hostname = at.parse()?;
    if name.is_wildcard() {
        at.fail(format!("{} is no server's name: it has a wildcard", quoted(name.as_str())));
        return None;
    }
    Some(name.to_string())
}

/// Whether a field says something.
fn has(f: &Fields<'_>, name: &'static str) -> bool {
    match name {
        "subjectAltNames" => !f.list(name).is_empty(),
        "insecureSkipVerify" => f.flag(name),
        _ => f.opt_text(name).is_some(),
    }
}
