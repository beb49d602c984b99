//! `/certs`: the certificates in use, in the shape of `envoy.admin.v3.Certificates`. Never keys.

use std::time::{Duration, SystemTime};

use mizzen_ir::Config;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};

use super::dump::timestamp;

pub(super) fn json(config: &Config, now: SystemTime) -> Value {
    let mut all: Vec<(String, Value)> = Vec::new();
    for (name, secret) in config.certificates.iter() {
        let chain: Vec<Value> = secret.svid.chain().iter().filter_map(|c| certificate(c, now)).collect();
        all.push((name.to_string(), json!({"ca_cert": [], "cert_chain": chain})));
    }
    for (name, secret) in config.validations.iter() {
        let roots: Vec<Value> = secret.roots.roots().iter().filter_map(|c| certificate(c, now)).collect();
        all.push((name.to_string(), json!({"ca_cert": roots, "cert_chain": []})));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    json!({"certificates": all.into_iter().map(|(_, value)| value).collect::<Vec<_>>()})
}

fn certificate(der: &CertificateDer<'_>, now: SystemTime) -> Option<Value> {
    let facts = mizzen_pki::facts(der).ok()?;
    let names = facts.uris.iter().map(|u| json!({"uri": u})).chain(facts.dns.iter().map(|d| json!({"dns": d})));
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let time = |t: UnixTime| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(t.as_secs()));
    Some(json!({
        "path": "<inline>",
        "serial_number": facts.serial,
        "subject_alt_names": names.collect::<Vec<_>>(),
        "days_until_expiration": (facts.validity.remaining(now).as_secs() / 86_400).to_string(),
        "valid_from": time(facts.validity.not_before),
        "expiration_time": time(facts.validity.not_after),
    }))
}
