//! Programs that nobody here wrote, as workloads and clients of a mesh: curl, nginx, redis, OpenSSL, tonic, hyper.
//!
//! One mesh serves all tests of this file that run at the same time. Its namespace `strict` takes mutual TLS only; `permissive` takes
//! plain text too and has the same programs. Where a script runs in the mesh, all that it prints is compared.

mod grpc;
mod http;
mod tcp;
mod tls;
mod upgrade;
mod workloads;

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use mizzen_testkit::{Mesh, Options, Output, folder, peer};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The mesh, with those of the programs that are installed.
fn mesh() -> Arc<Mesh> {
    static SHARED: Mutex<Weak<Mesh>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mesh) = shared.upgrade() {
        return mesh;
    }
    let mesh = Arc::new(start_with(Options::default()));
    *shared = Arc::downgrade(&mesh);
    mesh
}

/// One more such mesh.
fn start_with(options: Options) -> Mesh {
    let mut files = vec![("namespaces.yaml".to_owned(), include_str!("mesh/namespaces.yaml").to_owned())];
    // Another user may not see where this program lies.
    if !options.as_nobody {
        files.push(("own.yaml".to_owned(), include_str!("mesh/own.yaml").replace("OWN", &workloads::program())));
    }
    if peer("nginx", "nginx").is_some() {
        both(&mut files, "web", include_str!("mesh/web.yaml"));
        if !options.as_nobody {
            files.push(("route.yaml".to_owned(), include_str!("mesh/route.yaml").to_owned()));
        }
    }
    if peer("redis-server", "redis-server").is_some() {
        both(&mut files, "store", include_str!("mesh/store.yaml"));
    }
    if peer("openssl", "openssl").is_some() {
        both(&mut files, "secret", &(certificate() + include_str!("mesh/secret.yaml")));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Mesh::start_with(MIZZEN, folder(&files).path(), options)
}

/// Adds a file for each of the two namespaces.
fn both(files: &mut Vec<(String, String)>, name: &str, text: &str) {
    for namespace in ["strict", "permissive"] {
        let text = text.replace("namespace: strict", &format!("namespace: {namespace}"));
        files.push((format!("{namespace}-{name}.yaml"), text.replace("-plain.strict.", &format!("-plain.{namespace}."))));
    }
}

/// A key and a certificate that nobody but the test trusts, as a ConfigMap.
fn certificate() -> String {
    let dir = folder(&[]);
    let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=secret.test";
    let mut command = Command::new("openssl");
    command.args(words.split(' ')).args(["-addext", "subjectAltName=DNS:secret.test", "-keyout"]).arg(&key).arg("-out").arg(&cert);
    let made = command.output().expect("start openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let block = |path: &Path| std::fs::read_to_string(path).expect("a PEM file").lines().map(|l| format!("    {l}\n")).collect::<String>();
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: pki\n  namespace: strict\ndata:\n";
    format!("{head}  key.pem: |\n{}  cert.pem: |\n{}---\n", block(&key), block(&cert))
}

/// Runs a script of bash in the mesh as `visitor`, and compares all that it prints.
fn check(mesh: &Mesh, script: &str, args: &[&str], expected: &str) {
    let mut command = vec!["bash", "-c", script, "bash"];
    command.extend(args);
    compare(mesh, &args.join(" "), &mesh.run("strict", "visitor", &command), expected);
}

/// Compares all that a script printed.
fn compare(mesh: &Mesh, what: &str, output: &Output, expected: &str) {
    let lines = |text: &str| text.trim().lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n");
    if lines(&output.out) != lines(expected) || output.code != 0 {
        let Output { code, out, err } = output;
        panic!("{what}: exit code {code}\n{out}\n--- expected:\n{}\n--- errors:\n{err}\n{}", lines(expected), mesh.logs());
    }
}
