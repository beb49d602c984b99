//! Certificates for OpenSSL: a workload's own, and such as nobody in the mesh should believe.

use std::{fs, path::Path, process::Command};

use hyper_util::rt::TokioIo;
use mizzen_protos::envoy::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, secret},
    service::{discovery::v3::DiscoveryRequest, secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient},
};
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

/// A chain, its key and the roots that its owner believes in, as PEM.
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) roots: String,
}

/// The files that hold an [`Identity`].
pub(crate) struct Files {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) roots: String,
}

impl Identity {
    /// What the agent of a pod gives to its proxy: whoever runs the mesh may ask for it as well, as no workload can.
    pub(crate) fn of_pod(dir: &Path) -> Identity {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let secrets = runtime.block_on(fetch(dir.join("SDS")));
        let mut identity = Identity { chain: String::new(), key: String::new(), roots: String::new() };
        for secret in secrets {
            match secret.r#type {
                Some(secret::Type::TlsCertificate(own)) => {
                    identity.chain = text(own.certificate_chain);
                    identity.key = text(own.private_key);
                }
                Some(secret::Type::ValidationContext(roots)) => identity.roots = text(roots.trusted_ca),
                other => panic!("{other:?}"),
            }
        }
        identity
    }

    /// Writes `NAME.pem`, `NAME.key`, `NAME.roots`, and `NAME.ready` when those are there.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Files {
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        for (ending, text) in [("pem", &self.chain), ("key", &self.key), ("roots", &self.roots), ("ready", &String::new())] {
            fs::write(path(ending), text).expect("write a file");
        }
        let text = |ending: &str| path(ending).display().to_string();
        Files { chain: text("pem"), key: text("key"), roots: text("roots") }
    }
}

async fn fetch(socket: std::path::PathBuf) -> Vec<Secret> {
    let connect = move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    let channel =
        Endpoint::from_static("http://agent").connect_with_connector(tower::service_fn(connect)).await.expect("the agent's socket");
    let names = vec!["default".to_owned(), "ROOTCA".to_owned()];
    let request = DiscoveryRequest { resource_names: names, ..Default::default() };
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut answers = SecretDiscoveryServiceClient::new(channel).stream_secrets(requests).await.expect("a stream").into_inner();
    let answer = answers.message().await.expect("an answer").expect("an answer");
    answer.resources.iter().map(|any| Secret::decode(&*any.value).expect("a secret")).collect()
}

fn text(source: Option<DataSource>) -> String {
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).expect("PEM"),
        Some(Specifier::InlineString(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// A certificate with this name by an authority that calls itself `authority`, and of which the mesh knows nothing.
pub(crate) fn foreign(uri: &str, authority: &str) -> Identity {
    let folder = tempfile::tempdir().expect("a folder");
    let extensions =
        format!("subjectAltName=critical,URI:{uri}\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n");
    fs::write(folder.path().join("ext"), extensions).expect("a file");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for line in [
        format!("req -x509 {key} -keyout ca.key -out ca.pem -days 1 -subj /O={authority}"),
        format!("req {key} -keyout key -out csr -subj /"),
        "x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -days 1 -out leaf.pem".to_owned(),
    ] {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(folder.path()).output().expect("openssl");
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a file");
    Identity { chain: read("leaf.pem"), key: read("key"), roots: read("ca.pem") }
}

/// The names in the first certificate of a text, as OpenSSL prints them. A name that is no URI is returned too, with its kind.
pub(crate) fn uris(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let Some(begin) = text.find("-----BEGIN CERTIFICATE-----") else { return Vec::new() };
    let Some(length) = text[begin..].find(END) else { return Vec::new() };
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &text[begin..begin + length + END.len()]).expect("a file");
    let output =
        Command::new("openssl").args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(file.path()).output().expect("openssl");
    let shown = String::from_utf8_lossy(&output.stdout);
    let names = shown.lines().filter(|line| !line.contains("Subject Alternative Name")).flat_map(|line| line.split(", "));
    names.map(|name| name.trim().trim_start_matches("URI:").to_owned()).filter(|name| !name.is_empty()).collect()
}
