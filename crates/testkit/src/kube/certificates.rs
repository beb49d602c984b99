//! A certificate authority for one cluster, and who it vouches for.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;

use super::{make_dir, write};

/// Names under which programs reach the API server.
const API_NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// The authority, with its files in a folder.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A user for the API server: a certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Certificates {
    /// Those of this folder, made where they are missing: the authority, the keys of service accounts, and the API server's certificate for
    /// these addresses.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn open(folder: &Path, addresses: &[IpAddr]) -> Result<Certificates, String> {
        make_dir(folder)?;
        let (ca_file, key_file) = (folder.join("ca.crt"), folder.join("ca.key"));
        let (ca, key) = match (fs::read_to_string(&ca_file), fs::read_to_string(&key_file)) {
            (Ok(ca), Ok(key)) => (ca, KeyPair::from_pem(&key).map_err(of("ca.key"))?),
            _ => authority()?,
        };
        write(&ca_file, &ca)?;
        write(&key_file, key.serialize_pem())?;
        if !folder.join("sa.key").exists() {
            let accounts = KeyPair::generate().map_err(of("sa.key"))?;
            write(&folder.join("sa.pub"), accounts.public_key_pem())?;
            write(&folder.join("sa.key"), accounts.serialize_pem())?;
        }
        let issuer = Issuer::from_ca_cert_pem(&ca, key).map_err(of("ca.crt"))?;
        let certificates = Certificates { folder: folder.to_owned(), ca, issuer };
        certificates.server("apiserver", &API_NAMES, addresses)?;
        certificates.save("kubelet-client", &certificates.client("kube-apiserver", &["system:masters"])?)?;
        certificates.save("front-proxy", &certificates.client("front-proxy", &[])?)?;
        Ok(certificates)
    }

    /// Writes `NAME.crt` and `NAME.key` for a server.
    ///
    /// # Errors
    /// If they cannot be made or written.
    pub fn server(&self, name: &str, names: &[&str], addresses: &[IpAddr]) -> Result<(), String> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(of(name))?;
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let identity = self.issue(name, params)?;
        self.save(name, &identity)
    }

    /// A user of these groups, as the API server sees it.
    ///
    /// # Errors
    /// If its certificate cannot be made.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity, String> {
        let mut params = CertificateParams::default();
        // A map by type holds one organization only, and so one group.
        if let Some(more) = groups.get(1) {
            return Err(format!("{user}: one group is all that such a certificate names, and {more} is the second"));
        }
        if let Some(group) = groups.first() {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(user, params)
    }

    /// A client's configuration for the API server at this URL.
    pub fn kubeconfig(&self, server: &str, identity: &Identity) -> String {
        let base64 = |text: &str| BASE64_STANDARD.encode(text);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "mizzen-test", "cluster": { "server": server, "certificate-authority-data": base64(&self.ca) } }],
            "users": [{ "name": "user", "user": {
                "client-certificate-data": base64(&identity.certificate), "client-key-data": base64(&identity.key),
            } }],
            "contexts": [{ "name": "mizzen-test", "context": { "cluster": "mizzen-test", "user": "user" } }],
            "current-context": "mizzen-test",
        });
        format!("{config:#}\n")
    }

    /// The authority's certificate, as PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    fn issue(&self, name: &str, mut params: CertificateParams) -> Result<Identity, String> {
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(of(name))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(of(name))?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    fn save(&self, name: &str, identity: &Identity) -> Result<(), String> {
        write(&self.folder.join(format!("{name}.crt")), &identity.certificate)?;
        write(&self.folder.join(format!("{name}.key")), &identity.key)
    }
}

fn authority() -> Result<(String, KeyPair), String> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, "mizzen-test");
    let key = KeyPair::generate().map_err(of("ca.key"))?;
    Ok((params.self_signed(&key).map_err(of("ca.crt"))?.pem(), key))
}

fn of(what: &str) -> impl Fn(rcgen::Error) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}
