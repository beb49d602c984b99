//! `mizzen up --https` as a browser has it: who trusts the authority as `up` advises sees the bookshop over HTTP/2, and who does not sees nothing.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use mizzen_testkit::{Options, eventually, peer};

use crate::world::{World, has_peers};

/// The gateway's log tells by which protocol a browser came.
const LOG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: TEXT
    accessLogFormat: 'seen %PROTOCOL% %DOWNSTREAM_TLS_VERSION% %RESPONSE_CODE% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(USER-AGENT)%'
";

/// A person with a folder of his own.
struct Person {
    home: tempfile::TempDir,
    /// More arguments of the browser.
    args: Vec<String>,
}

impl Person {
    fn new() -> Person {
        Person { home: tempfile::tempdir().expect("a folder"), args: Vec::new() }
    }

    /// One who trusts the authority: by the browser's own database, as `up` advises; without that program by its key, which says less.
    fn who_trusts(root: &Path) -> Person {
        let mut person = Person::new();
        let database = format!("sql:{}", person.home.path().join(".pki/nssdb").display());
        match peer("certutil", "libnss3-tools") {
            Some(certutil) => {
                std::fs::create_dir_all(person.home.path().join(".pki/nssdb")).expect("a folder");
                let root = root.display().to_string();
                for args in [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "mizzen", "-i", &root]] {
                    let output =
                        Command::new(&certutil).args(["-d", &database]).args(args).stdin(Stdio::null()).output().expect("certutil");
                    assert!(output.status.success(), "{args:?}: {output:?}");
                }
            }
            None => person.args.push(format!("--ignore-certificate-errors-spki-list={}", key_hash(root))),
        }
        person
    }

    /// What the page is to a browser, once it has run its scripts; nothing where there is no page.
    fn page(&self, chromium: &Path, url: &str) -> String {
        let mut command = Command::new("timeout");
        command.arg("60").arg(chromium).env("HOME", self.home.path()).current_dir(self.home.path());
        // No sandbox of its own, which root has none of: nothing is visited but this mesh.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]);
        command
            .args(["--no-first-run", "--timeout=30000", "--dump-dom"])
            .arg(format!("--user-data-dir={}/profile", self.home.path().display()));
        let output = command.args(&self.args).arg(url).stdin(Stdio::null()).stderr(Stdio::null()).output().expect("timeout");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// SHA-256 of the public key of a certificate, as base64.
fn key_hash(root: &Path) -> String {
    let script = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";
    let output = Command::new("sh").args(["-c", script]).arg(root).stdin(Stdio::null()).output().expect("a shell");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn https_in_a_browser() {
    let Some(chromium) = peer("chromium", "chromium").filter(|_| has_peers()) else { return };
    let data = tempfile::tempdir().expect("a folder");
    let env = vec![("XDG_DATA_HOME".to_owned(), data.path().to_string_lossy().into_owned())];
    let mut world = World::start(Options { args: vec!["--https".to_owned()], env, ..Options::default() });
    let root = Path::new(world.mesh.description["https_root"].as_str().unwrap_or_default()).to_owned();
    assert!(world.mesh.said().contains("certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n mizzen -i"), "{}", world.mesh.said());
    world.mesh.save("log.yaml", LOG);
    let port = eventually("the port", || match world.port(443) {
        0 => Err(world.mesh.logs()),
        port => Ok(port),
    });
    let url = format!("https://localhost:{port}/");

    let stranger = Person::new().page(&chromium, &url);
    assert!(!stranger.contains("bookshop"), "who does not trust the authority sees nothing: {stranger}");

    let person = Person::who_trusts(&root);
    let page = eventually("the page in a browser", || match person.page(&chromium, &url) {
        page if page.contains("</article>") => Ok(page),
        page => Err(format!("{page}\n{}", world.mesh.logs())),
    });
    assert!(page.contains("<h1>The bookshop</h1>") && page.contains("The Voyage of the Beagle"), "{page}");
    assert_eq!((page.matches("<article>").count(), page.matches(" in stock</p>").count()), (3, 3), "{page}");
    // As often as it takes: the log's own form may come after the first visit.
    eventually("the protocol in the gateway's log", || {
        let log = world.mesh.cli(&["logs", "istio-ingressgateway", "-n", "istio-system", "--proxy"]).out;
        let is_it = |line: &str| line.starts_with("seen HTTP/2 TLSv1.3 200 / localhost:") && line.contains("Chrome/");
        if log.lines().any(is_it) {
            return Ok(());
        }
        person.page(&chromium, &url);
        Err(log)
    });
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}
