//! What Helm has installed of the charts: its releases, as it keeps them in Secrets of the cluster.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::read::GzDecoder;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};

use super::{super::kube::say, charts, cluster::Installed};

/// The Secrets of releases that are in force. Helm keeps earlier ones too.
const DEPLOYED: &str = "owner=helm,status=deployed";
/// The longest release, in bytes: a Secret holds one of 1 MiB, packed.
const LONGEST: u64 = 32 << 20;

/// A release of one of the charts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Release {
    pub(super) name: String,
    /// What it has made, each with its namespace.
    pub(super) objects: Vec<Value>,
}

impl Release {
    /// Whether an object of the cluster is this release's.
    pub(super) fn has(&self, found: &Value) -> bool {
        found["metadata"]["annotations"]["meta.helm.sh/release-name"] == json!(self.name)
    }
}

/// All releases of the charts, in all namespaces, by name.
///
/// # Errors
/// If Secrets may not be listed, or one cannot be read.
pub(super) async fn releases(client: &Client) -> Result<Vec<Release>> {
    let api: Api<Secret> = Api::all(client.clone());
    let found =
        api.list(&ListParams::default().labels(DEPLOYED)).await.map_err(say).context("the Secrets in which Helm keeps its releases")?;
    let mut releases = Vec::new();
    for secret in found.items {
        let name = format!("Secret {}/{}", secret.metadata.namespace.unwrap_or_default(), secret.metadata.name.unwrap_or_default());
        let packed = secret.data.and_then(|mut data| data.remove("release")).unwrap_or_default().0;
        releases.extend(read(&packed).with_context(|| format!("{name}: the release cannot be read"))?);
    }
    releases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(releases)
}

/// A release as it is in a Secret: JSON, packed by gzip unless it was written long ago, in base64. None of a chart of somebody else's.
fn read(packed: &[u8]) -> Result<Option<Release>> {
    let bytes = BASE64_STANDARD.decode(packed).context("no base64")?;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b, 0x08]) {
        let mut plain = Vec::new();
        GzDecoder::new(&bytes[..]).take(LONGEST + 1).read_to_end(&mut plain).context("no gzip")?;
        ensure!(plain.len() as u64 <= LONGEST, "it is longer than {LONGEST} bytes");
        plain
    } else {
        bytes
    };
    let release: Value = serde_json::from_slice(&bytes).context("no JSON")?;
    let text = |pointer: &str| release.pointer(pointer).and_then(Value::as_str);
    // Istio's charts have the same names.
    if !charts::is_ours(text("/chart/metadata/name").unwrap_or_default(), text("/chart/metadata/description").unwrap_or_default()) {
        return Ok(None);
    }
    let name = text("/name").context("no name")?.to_owned();
    let objects = objects(text("/manifest").unwrap_or_default(), text("/namespace").unwrap_or_default())?;
    Ok(Some(Release { name, objects }))
}

/// The documents of a manifest. What says no namespace is in the release's, unless its kind is in none.
fn objects(manifest: &str, namespace: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    let mut document = String::new();
    for line in manifest.lines().chain(["---"]) {
        if line.trim_end() != "---" {
            document.push_str(line);
            document.push('\n');
            continue;
        }
        let text = std::mem::take(&mut document);
        if text.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        let mut object: Value = serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("its manifest: {error}"))?;
        if Installed::of(&object)?.namespaced && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        objects.push(object);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn packed(release: &Value, is_packed: bool) -> Vec<u8> {
        let mut bytes = release.to_string().into_bytes();
        if is_packed {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&bytes).unwrap();
            bytes = encoder.finish().unwrap();
        }
        BASE64_STANDARD.encode(bytes).into_bytes()
    }

    #[test]
    fn releases_are_read() {
        let manifest = "---\n# Source: gateway/templates/service.yaml\napiVersion: v1\nkind: Service\nmetadata:\n  name: a\n---\n# nothing\n---\n\
                        apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: b}\n";
        let about = "a gateway of the mesh";
        let release = |description: &str| json!({ "name": "out", "namespace": "edge", "manifest": manifest, "chart": { "metadata": { "name": "gateway", "description": description } } });
        for is_packed in [true, false] {
            let found = read(&packed(&release(about), is_packed)).unwrap().unwrap();
            assert_eq!((&*found.name, found.objects.len()), ("out", 2));
            assert_eq!(found.objects[0]["metadata"], json!({ "name": "a", "namespace": "edge" }));
            assert_eq!(found.objects[1]["metadata"], json!({ "name": "b" }));
            assert!(found.has(&json!({ "metadata": { "annotations": { "meta.helm.sh/release-name": "out" } } })));
            assert!(!found.has(&json!({ "metadata": { "annotations": { "meta.helm.sh/release-name": "in" } } })) && !found.has(&json!({})));
        }
        assert_eq!(read(&packed(&release("Helm chart for deploying Istio gateways"), true)).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let large = format!("\"{}\"", "a".repeat(usize::try_from(LONGEST).unwrap()));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(large.as_bytes()).unwrap();
        let bomb = BASE64_STANDARD.encode(encoder.finish().unwrap());
        let other = json!({
            "name": "a", "manifest": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
            "chart": { "metadata": { "name": "gateway", "description": "a gateway of the mesh" } },
        });
        for (bytes, why) in [
            (b"%".to_vec(), "no base64"),
            (BASE64_STANDARD.encode([0x1f_u8, 0x8b, 0x08, 0x00]).into_bytes(), "no gzip"),
            (BASE64_STANDARD.encode("{").into_bytes(), "no JSON"),
            (bomb.into_bytes(), "it is longer than"),
            (packed(&other, true), "Pod is no kind of an installation"),
        ] {
            let error = format!("{:#}", read(&bytes).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
