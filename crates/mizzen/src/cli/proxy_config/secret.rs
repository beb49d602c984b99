//! Certificates and roots, in istioctl's columns.

use anyhow::{Context, Result};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::pem::Pem;

use super::{Rows, resources, text};

const HEADER: &[&str] = &["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];

pub(super) fn rows(dump: &Value) -> Result<Rows> {
    let mut rows = Vec::new();
    for secret in resources(dump, "SecretsConfigDump", &["static_secrets", "dynamic_active_secrets"], &["secret"]) {
        rows.push((cells(secret)?, secret.clone()));
    }
    for waiting in resources(dump, "SecretsConfigDump", &["dynamic_warming_secrets"], &[]) {
        let name = text(&waiting["name"]);
        rows.push((
            vec![name, String::new(), "WARMING".to_owned(), "false".to_owned(), String::new(), String::new(), String::new()],
            waiting.clone(),
        ));
    }
    Ok(Rows { header: HEADER, rows })
}

fn cells(secret: &Value) -> Result<Vec<String>> {
    let (kind, source) = match secret.get("tls_certificate") {
        Some(certificate) => ("Cert Chain", &certificate["certificate_chain"]),
        None => ("CA", &secret["validation_context"]["trusted_ca"]),
    };
    let name = text(&secret["name"]);
    let pem = pem(source).with_context(|| format!("secret {name}"))?;
    let found = Pem::iter_from_buffer(&pem).next().context("it holds no certificate")??;
    let certificate = found.parse_x509()?;
    let validity = certificate.validity();
    let now = OffsetDateTime::now_utc();
    let valid = validity.not_before.to_datetime() <= now && now < validity.not_after.to_datetime();
    let time = |at: OffsetDateTime| at.format(&Rfc3339);
    let serial = certificate.raw_serial().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let serial = serial.trim_start_matches('0').to_owned();
    Ok(vec![
        name,
        kind.to_owned(),
        "ACTIVE".to_owned(),
        valid.to_string(),
        serial,
        time(validity.not_after.to_datetime())?,
        time(validity.not_before.to_datetime())?,
    ])
}

/// The bytes of a data source: protojson writes bytes in base64.
fn pem(source: &Value) -> Result<Vec<u8>> {
    use base64::Engine;
    match (source["inline_bytes"].as_str(), source["inline_string"].as_str()) {
        (Some(bytes), _) => Ok(base64::engine::general_purpose::STANDARD.decode(bytes)?),
        (None, Some(text)) => Ok(text.as_bytes().to_vec()),
        _ => anyhow::bail!("it is not inline"),
    }
}
