//! A certificate authority of a test's own, for servers and clients that are not the mesh's.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate, as PEM.
    pub root: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
    serial: Vec<u8>,
}

impl Authority {
    /// A new one of this name.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::from_ca_cert_pem(&root, key).expect("an authority"), root }
    }

    /// A certificate for these DNS names, good for servers and clients, with a key of P-256.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn issue(&self, names: &[&str]) -> Credential {
        self.sign(names, KeyPair::generate().expect("a key"), |_| {})
    }

    /// The same with this key, as PEM.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn issue_with(&self, names: &[&str], key: &str) -> Credential {
        self.sign(names, KeyPair::from_pem(key).expect("a key"), |_| {})
    }

    /// One that was good until years ago.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn issue_expired(&self, names: &[&str]) -> Credential {
        self.sign(names, KeyPair::generate().expect("a key"), |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        })
    }

    /// The list of all that it has revoked, which are these, as PEM.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn revoked(&self, credentials: &[&Credential]) -> String {
        let revoked = |credential: &&Credential| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&credential.serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: credentials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("a list")
    }

    fn sign(&self, names: &[&str], key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Credential {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial: Vec<u8> = std::iter::once(0x40).chain((0..15).map(|_| fastrand::u8(..))).collect();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Credential { certificate, key: key.serialize_pem(), serial }
    }
}

impl Credential {
    /// A Secret of type `kubernetes.io/tls` as a document, with further entries.
    pub fn secret(&self, namespace: &str, name: &str, more: &[(&str, &str)]) -> String {
        let pair = [("tls.crt", self.certificate.as_str()), ("tls.key", self.key.as_str())];
        secret(namespace, name, &[&pair[..], more].concat())
    }
}

/// A Secret as a document.
pub fn secret(namespace: &str, name: &str, entries: &[(&str, &str)]) -> String {
    let data: serde_json::Map<String, serde_json::Value> = entries.iter().map(|(key, text)| ((*key).to_owned(), (*text).into())).collect();
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data,
    });
    format!("---\n{object}\n")
}
