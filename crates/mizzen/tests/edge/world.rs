//! A mesh with a gateway, and whoever calls it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mizzen_testkit::{Authority, Credential, Mesh, Options, eventually, peer, secret};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// Whom the test knows.
pub(crate) struct World {
    pub(crate) mesh: Mesh,
    pub(crate) server: Authority,
    pub(crate) clients: Authority,
    pub(crate) files: tempfile::TempDir,
}

/// How a call ended: HTTP's version and status, or curl's exit code.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Http(String),
    Failed(i32),
}

impl Answer {
    /// Whether the handshake failed: at once, or after the client had finished its part (by what curl makes of the alert).
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Answer::Failed(35 | 55 | 56 | 60 | 92 | 98))
    }
}

pub(crate) fn http(version: &str, status: u16) -> Answer {
    Answer::Http(format!("{version} {status}"))
}

impl World {
    pub(crate) fn start(options: Options) -> World {
        let (server, clients) = (Authority::new("servers"), Authority::new("clients"));
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookshop");
        let mesh = Mesh::start_with(MIZZEN, &samples, options);
        let files = tempfile::tempdir().expect("a folder");
        let world = World { mesh, server, clients, files };
        world.file("root.pem", &world.server.root);
        world
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Writes what a client shows.
    pub(crate) fn client(&self, name: &str, credential: &Credential) {
        self.file(&format!("{name}.pem"), &format!("{}{}", credential.certificate, credential.key));
    }

    /// The port of this host that leads to one of the gateway's.
    pub(crate) fn port(&self, of: u16) -> u16 {
        self.mesh.gateway_port(of).1
    }

    /// Calls a host over HTTPS with curl, whose root is the servers' authority.
    pub(crate) fn curl(&self, host: &str, more: &[&str]) -> Answer {
        let (answer, _) = self.curl_with(host, more);
        answer
    }

    pub(crate) fn curl_with(&self, host: &str, more: &[&str]) -> (Answer, String) {
        let port = self.port(443);
        let to = format!("{host}:{port}:127.0.0.1");
        let mut curl = Command::new("curl");
        curl.current_dir(self.files.path());
        curl.args(["-s", "-S", "-m", "20", "-o", "body", "-w", "%{http_version} %{http_code}", "--cacert", "root.pem", "--resolve", &to]);
        curl.args(more).arg(format!("https://{host}:{port}/"));
        let output = curl.stdin(Stdio::null()).output().expect("curl");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => (Answer::Http(String::from_utf8_lossy(&output.stdout).into_owned()), said),
            code => (Answer::Failed(code.unwrap_or(-1)), said),
        }
    }

    #[track_caller]
    pub(crate) fn check(&self, host: &str, more: &[&str], expected: &Answer) {
        let (answer, said) = self.curl_with(host, more);
        assert_eq!(&answer, expected, "{host} {more:?}: {said}\n{}\n{}", self.mesh.said(), self.mesh.logs());
    }

    #[track_caller]
    pub(crate) fn eventually(&self, host: &str, more: &[&str], expected: &Answer) {
        eventually(&format!("{host} {more:?}"), || {
            let (answer, said) = self.curl_with(host, more);
            if answer == *expected { Ok(()) } else { Err(format!("{answer:?}: {said}\n{}", self.mesh.logs())) }
        });
    }

    /// What OpenSSL's client says of a connection.
    pub(crate) fn openssl(&self, name: &str, more: &[&str]) -> String {
        let at = format!("127.0.0.1:{}", self.port(443));
        let mut command = Command::new("openssl");
        command.current_dir(self.files.path()).args(["s_client", "-connect", &at, "-servername", name, "-CAfile", "root.pem"]).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
        // A client that is refused at once may have ended before it reads.
        let _ = child.stdin.take().expect("its input").write_all(b"Q\n");
        let output = child.wait_with_output().expect("openssl");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// A credential with a key of RSA.
    pub(crate) fn rsa(&self, name: &str) -> Credential {
        let key =
            Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output().expect("openssl");
        self.server.issue_with(&[name], &String::from_utf8(key.stdout).expect("PEM"))
    }

    /// The gateway's credentials, into the folder.
    pub(crate) fn secrets(&self) {
        let issue = |names: &[&str]| self.server.issue(names);
        let roots = self.clients.root.as_str();
        let generic = issue(&["*.optional.example"]);
        let all = [
            issue(&["mutual.example", "named.example"]).secret("istio-system", "mutual", &[("ca.crt", "of no use beside the companion")]),
            secret("istio-system", "optional", &[("cert", &generic.certificate), ("key", &generic.key), ("cacert", roots)]),
            self.rsa("two.example").secret("istio-system", "two-rsa", &[]),
            issue(&["two.example"]).secret("istio-system", "two-ecdsa", &[]),
            // In another namespace than the gateway.
            issue(&["missing.example"]).secret("shop", "of-the-shop", &[]),
        ];
        self.mesh.save("secrets.yaml", &all.concat());
        // What tests replace stands alone.
        self.mesh.save("simple.yaml", &issue(&["simple.example", "old.example", "new.example"]).secret("istio-system", "simple", &[]));
        self.mesh.save("mutual-cacert.yaml", &secret("istio-system", "mutual-cacert", &[("ca.crt", roots)]));
    }
}

/// Whether those programs are there.
pub(crate) fn has_peers() -> bool {
    peer("curl", "curl").is_some() && peer("openssl", "openssl").is_some()
}

/// The first certificate of what OpenSSL shows.
pub(crate) fn leaf(said: &str) -> String {
    let from = said.find("-----BEGIN CERTIFICATE-----").unwrap_or_default();
    let end = "-----END CERTIFICATE-----";
    let to = said[from..].find(end).map_or(said.len(), |at| from + at + end.len());
    said[from..to].to_owned()
}

/// A Gateway with a server on 443 for each host (its name, and its `tls`), and the route from all of them to the shop.
pub(crate) fn servers(name: &str, hosts: impl IntoIterator<Item = (String, String)>) -> String {
    let server = |(host, tls): (String, String)| {
        let port = host.replace('.', "-");
        format!("  - {{port: {{number: 443, name: {port}, protocol: HTTPS}}, hosts: [{host}], tls: {{{tls}}}}}\n")
    };
    let servers: String = hosts.into_iter().map(server).collect();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
{servers}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: ['*']
  gateways: [{name}]
  http: [{{route: [{{destination: {{host: storefront, port: {{number: 8080}}}}}}]}}]
"
    )
}
