//! What is wrong in the folder is refused by one clear line each, and the mesh goes on with what was good.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mizzen_testkit::{Mesh, Options, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

fn bookshop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookshop")
}

/// What `up` has said since it had said `before`, without the folder's path.
fn since(mesh: &Mesh, before: usize) -> String {
    let folder = format!("{}/", fs::canonicalize(&mesh.folder).expect("the folder").display());
    mesh.said()[before..].replace(&folder, "")
}

/// Waits until `up` has said this since then.
fn said(mesh: &Mesh, before: usize, text: &str) {
    eventually(&format!("said: {text}"), || if since(mesh, before).contains(text) { Ok(()) } else { Err(since(mesh, before)) });
}

/// The lines since then that refuse something.
fn refusals(mesh: &Mesh, before: usize) -> BTreeSet<String> {
    since(mesh, before).lines().filter_map(|line| line.strip_prefix("refused: ")).map(str::to_owned).collect()
}

/// The books that the storefront shows.
fn books(mesh: &Mesh) -> Result<Vec<Value>, String> {
    let (status, body) = mesh.get("/api/books", &[])?;
    let page: Value = serde_json::from_str(&body).map_err(|_| format!("{status}: {body}"))?;
    page["books"]["Ok"].as_array().filter(|books| books.len() == 3).cloned().ok_or(body)
}

/// Waits until the reviews of all books come from this version.
fn version(mesh: &Mesh, expected: &str) {
    eventually(&format!("reviews {expected}"), || {
        // Each of several replicas would be asked sooner or later.
        for _ in 0..5 {
            let books = books(mesh)?;
            if !books.iter().all(|book| book["reviews"]["Ok"]["version"] == expected) {
                return Err(format!("{books:?}\n{}", mesh.said()));
            }
        }
        Ok(())
    });
}

/// A VirtualService that sends all calls of `reviews` to one version, from line 1 of its file on.
fn routing(version: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: shop
spec:
  hosts:
  - reviews
  http:
  - route:
    - destination:
        host: reviews
        subset: {version}
      weight: 100
"
    )
}

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
";

/// Bad files, and the lines that refuse them.
const BAD: &[(&str, &[&str])] = &[
    ("apiVersion: v1\nkind: Service\nmetadata: {name: x\n", &["bad.yaml:3: Service default/x: unclosed bracket '{'"]),
    ("apiVersion: v1\nkind: Servce\nmetadata: {name: x}\n", &["bad.yaml:2: kind: unknown kind `Servce`, did you mean Service?"]),
    (
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  nmae: x\n",
        &["bad.yaml:4: metadata.nmae: unknown field, did you mean `name`?", "bad.yaml:3: metadata.name: is required"],
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\nspec:\n  selectr: {app: x}\n  ports:\n  - port: '80'\n",
        &[
            "bad.yaml:5: Service shop/x: spec.selectr: unknown field, did you mean `selector`?",
            "bad.yaml:7: Service shop/x: spec.ports[0].port: must be a whole number, is `80`",
        ],
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\nspec:\n  ports:\n  - port: 70000\n",
        &["bad.yaml:6: Service shop/x: spec.ports[0].port: must be between 1 and 65535, is 70000"],
    ),
    (
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: visitor\n  namespace: shop\n",
        &["bad.yaml:1: ServiceAccount shop/visitor: metadata.name: is declared at visitor.yaml:2 already"],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: shop}\nspec:\n  hosts: [reviews]\n  http:\n  - \
         route: [{destination: {host: reviews}}]\n    mirror: {host: ratings}\n",
        &["bad.yaml:8: VirtualService shop/x: spec.http[0].mirror: is not supported yet, and ignoring it could change where traffic goes"],
    ),
    (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: shop}\nspec: {}\n",
        &["bad.yaml:1: Pod shop/x: pods are not started here: write a Deployment"],
    ),
    ("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x}\n", &["bad.yaml:2: kind: StatefulSet is not supported yet"]),
];

#[test]
fn one_line_each_and_the_mesh_goes_on() {
    let mut mesh = Mesh::start(MIZZEN, &bookshop());
    for (text, expected) in BAD {
        let before = mesh.said().len();
        mesh.save("bad.yaml", text);
        for line in *expected {
            said(&mesh, before, line);
        }
        assert!(books(&mesh).is_ok(), "{text}");
        mesh.remove("bad.yaml");
        said(&mesh, before, "is in order again");
        let lines = refusals(&mesh, before);
        assert!(
            lines.len() == expected.len() && lines.iter().zip(expected.iter().collect::<BTreeSet<_>>()).all(|(l, e)| l.starts_with(e)),
            "{lines:#?}"
        );
    }
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// Texts that are no configuration at all, each a single fault.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    // Each level repeats the one before nine times.
    let bomb = (0..12)
        .fold("a0: &a0 [x]\n".to_owned(), |text, n| format!("{text}a{}: &a{} [{}]\n", n + 1, n + 1, vec![format!("*a{n}"); 9].join(", ")));
    let mut random = 1_u32;
    let noise = (0..50_000).map(|_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random.to_be_bytes()[0]
    });
    vec![
        ("no text", noise.collect()),
        ("a zero byte", b"apiVersion: v1\nkind: Names\0pace\n".to_vec()),
        ("aliases that grow", bomb.into_bytes()),
        ("lists in lists", "[".repeat(100_000).into_bytes()),
        ("maps in maps", "{a: ".repeat(100_000).into_bytes()),
        ("indentation", (0..3_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>().into_bytes()),
        ("a very long line", format!("apiVersion: {}\n", "x".repeat(1 << 20)).into_bytes()),
        ("a very large file", "- x\n".repeat(8 << 20).into_bytes()),
        ("a tab", b"apiVersion: v1\nkind: Namespace\nmetadata:\n\tname: x\n".to_vec()),
        ("an unknown tag", b"apiVersion: !!python/object v1\nkind: Namespce\nmetadata: {name: x}\n".to_vec()),
    ]
}

#[test]
fn hostile_files_harm_nobody() {
    let mut mesh = Mesh::start(MIZZEN, &bookshop());
    for (what, bytes) in hostile() {
        let (before, start) = (mesh.said().len(), Instant::now());
        fs::write(mesh.folder.join(".hostile"), bytes).expect("write a file");
        fs::rename(mesh.folder.join(".hostile"), mesh.folder.join("hostile.yaml")).expect("save a file");
        said(&mesh, before, "refused: hostile.yaml");
        println!("{what}: refused after {:?}: {}", start.elapsed(), since(&mesh, before).lines().next().unwrap_or_default());
        assert!(books(&mesh).is_ok(), "{what}");
        let lines: Vec<usize> = refusals(&mesh, before).iter().map(String::len).collect();
        assert!(lines.len() <= 3 && lines.iter().all(|length| *length < 500), "{what}: lines of {lines:?} letters");
        mesh.remove("hostile.yaml");
        said(&mesh, before, "is in order again");
    }
    assert!(![" ended (", " ended, "].iter().any(|end| mesh.said().contains(end)), "{}", mesh.said());
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn the_last_good_version_stays() {
    let mut mesh = Mesh::start(MIZZEN, &bookshop());
    mesh.save("subsets.yaml", SUBSETS);
    mesh.save("routing.yaml", &routing("v1"));
    version(&mesh, "v1");

    // The other object of the same save applies.
    let deny = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-me, namespace: shop}
spec:
  selector: {matchLabels: {app: storefront}}
  action: DENY
  rules:
  - when: [{key: 'request.headers[x-user]', values: [nobody]}]
";
    let before = mesh.said().len();
    mesh.save("routing.yaml", &format!("{}{deny}", routing("v2").replace("weight: 100", "weight: many")));
    mesh.wait_for("/", &["x-user: nobody"], "the other object of the file", |status, _| status == 403);
    let line = "routing.yaml:14: VirtualService shop/reviews: spec.http[0].route[0].weight: must be a whole number, is `many` (its last good \
                version stays in force)";
    said(&mesh, before, "weight");
    assert_eq!(refusals(&mesh, before), [line.to_owned()].into());
    version(&mesh, "v1");
    mesh.save("routing.yaml", &routing("v2"));
    version(&mesh, "v2");
    said(&mesh, before, "VirtualService shop/reviews is in order again");
    said(&mesh, before, "AuthorizationPolicy shop/not-me is gone");
    mesh.wait_for("/", &["x-user: nobody"], "what left the file is gone", |status, _| status == 200);

    // Of two declarations the first one holds, until it goes.
    let before = mesh.said().len();
    mesh.save("again.yaml", &routing("v3"));
    said(&mesh, before, "again.yaml:1: VirtualService shop/reviews: metadata.name: is declared at ");
    version(&mesh, "v2");
    mesh.remove("routing.yaml");
    version(&mesh, "v3");

    // A save may pass through an empty file, or none. Something else that is gone tells when the half second is over.
    for vanish in [false, true] {
        let before = mesh.said().len();
        mesh.save("other.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: other, namespace: shop}\n");
        said(&mesh, before, "ServiceAccount shop/other changed");
        if vanish {
            mesh.remove("again.yaml");
        } else {
            mesh.save("again.yaml", "");
        }
        mesh.remove("other.yaml");
        mesh.save("again.yaml", &routing("v3"));
        said(&mesh, before, "ServiceAccount shop/other is gone");
        assert!(!since(&mesh, before).contains("VirtualService"), "{}", since(&mesh, before));
    }
    let (before, start) = (mesh.said().len(), Instant::now());
    mesh.save("again.yaml", "");
    said(&mesh, before, "VirtualService shop/reviews is gone");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(500), "deleted after {took:?}");
    eventually("all versions are seen", || {
        let seen: BTreeSet<String> =
            (0..5).flat_map(|_| books(&mesh)).flatten().map(|b| b["reviews"]["Ok"]["version"].to_string()).collect();
        if seen.len() == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn a_broken_first_start_ends_with_all_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    for (at, (text, _)) in BAD.iter().enumerate().filter(|(at, _)| *at != 5) {
        fs::write(folder.path().join(format!("{at}.yaml")), text).expect("write a file");
    }
    fs::write(folder.path().join("good.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").expect("write a file");
    let mut mesh = Mesh::launch(MIZZEN, folder.path(), Options::default());
    assert_eq!(mesh.ended(), 1);
    eventually("the last line", || if mesh.said().contains("error: ") { Ok(()) } else { Err(mesh.said()) });
    let lines = refusals(&mesh, 0);
    for (at, (_, expected)) in BAD.iter().enumerate().filter(|(at, _)| *at != 5) {
        for line in *expected {
            let line = line.replace("bad.yaml", &format!("{at}.yaml"));
            assert!(lines.iter().any(|l| l.starts_with(&line)), "{line} in\n{}", mesh.said());
        }
    }
    assert!(mesh.said().contains(&format!("{} problems", lines.len())), "{}", mesh.said());
    let left = mesh.cli(&["proxy-status"]);
    assert!(left.code == 1 && left.err.contains("no mesh is running"), "{left:?}");
}

#[test]
fn a_refused_policy_closes_what_it_selects() {
    let mut mesh = Mesh::start(MIZZEN, &bookshop());
    // Whether reviews and the rest of the page can be had.
    let open = |reviews: bool| {
        eventually(&format!("reviews are {}", if reviews { "open" } else { "closed" }), || {
            let books = books(&mesh)?;
            let right = |book: &Value| match book["reviews"]["Err"].as_str() {
                Some(error) => !reviews && error == "403: RBAC: access denied",
                None => reviews,
            };
            if books.iter().all(|book| right(book) && book["book"]["stock"]["Ok"].is_number()) { Ok(()) } else { Err(format!("{books:?}")) }
        });
    };
    let policy = |action: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: reviews, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  action: {action}
  rules: [{{}}]
"
        )
    };
    open(true);
    for mend in [true, false] {
        let before = mesh.said().len();
        mesh.save("policy.yaml", &policy("NONE"));
        open(false);
        let line = "policy.yaml:6: AuthorizationPolicy shop/reviews: spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is `NONE`";
        said(&mesh, before, "has no last good version");
        assert_eq!(refusals(&mesh, before), [line.to_owned()].into());
        if mend {
            mesh.save("policy.yaml", &policy("ALLOW"));
            open(true);
            said(&mesh, before, "AuthorizationPolicy shop/reviews is in order again");
            // With a last good version nothing is closed.
            mesh.save("policy.yaml", &policy("NONE"));
            said(&mesh, before, "is `NONE` (its last good version stays in force)");
            open(true);
        }
        mesh.remove("policy.yaml");
        said(&mesh, before, if mend { "AuthorizationPolicy shop/reviews is gone" } else { "is in order again" });
        open(true);
        // The control plane follows the folder for itself: a policy that it still has would be a last good version of the next one.
        eventually("the policy is nowhere", || {
            let listeners = mesh.cli(&["proxy-config", "listener", "reviews-v1", "-o", "json"]).ok();
            if listeners.contains("policy[reviews]") { Err(listeners) } else { Ok(()) }
        });
    }
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn a_restart_of_the_control_plane_forgets_nothing() {
    let mut mesh = Mesh::start(MIZZEN, &bookshop());
    // Whether how many of a book there are can be had, over TCP.
    let stock = |open: bool| {
        eventually(&format!("the stock is {}", if open { "open" } else { "closed" }), || {
            let books = books(&mesh)?;
            let right = books.iter().all(|book| book["book"]["stock"]["Ok"].is_number() == open);
            if right { Ok(()) } else { Err(format!("{books:?}")) }
        });
    };
    let policy = |action: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: stock, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: stock}}}}, action: {action}, rules: [{{}}]}}
"
        )
    };
    mesh.save("subsets.yaml", SUBSETS);
    mesh.save("routing.yaml", &routing("v1"));
    version(&mesh, "v1");
    let before = mesh.said().len();
    mesh.save("routing.yaml", &routing("v2").replace("weight", "wieght"));
    mesh.save("policy.yaml", &policy("NONE"));
    said(&mesh, before, "routing.yaml:14: ");
    stock(false);
    let pid = mesh.running("mizzend");
    let pid = pid.first().expect("a control plane");
    kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("kill the control plane");
    eventually("all proxies are back", || {
        let status = mesh.cli(&["proxy-status"]);
        let back = status.code == 0 && status.out.lines().filter(|line| is_synced(line)).count() == 8;
        if back && mesh.running("mizzend").first() != Some(pid) { Ok(()) } else { Err(format!("{status:?}")) }
    });
    version(&mesh, "v1");
    stock(false);
    mesh.save("routing.yaml", &routing("v2"));
    mesh.save("policy.yaml", &policy("ALLOW"));
    version(&mesh, "v2");
    stock(true);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn what_is_not_acted_on_is_warned_of_once() {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  type: NodePort\n  ports: [{{port: 80}}]\n"
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let folder = mizzen_testkit::folder(&[("shop.yaml", namespace), ("first.yaml", &service("first"))]);
    let mut mesh = Mesh::start(MIZZEN, folder.path());
    mesh.save("second.yaml", &service("second"));
    said(&mesh, 0, "second.yaml:5: ");
    mesh.save("third.yaml", &service("third").replace("  type: NodePort\n", ""));
    said(&mesh, 0, "Service shop/third changed");
    let all = since(&mesh, 0);
    let warnings: Vec<&str> = all.lines().filter(|line| line.starts_with("warning: ")).collect();
    let expected =
        ["first", "second"].map(|name| format!("warning: {name}.yaml:5: Service shop/{name}: spec.type: is treated as ClusterIP"));
    assert_eq!(warnings, expected, "{all}");
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// All proxies, as `proxy-status` names them.
fn proxies(mesh: &Mesh) -> Vec<String> {
    let status: Value = serde_json::from_str(&mesh.cli(&["proxy-status", "-o", "json"]).ok()).expect("JSON");
    status["proxies"].as_array().into_iter().flatten().filter_map(|p| p["proxy"].as_str().map(str::to_owned)).collect()
}

#[test]
fn edits_are_live_in_all_proxies() {
    let mut mesh = Mesh::start(MIZZEN, &bookshop());
    mesh.save("subsets.yaml", SUBSETS);
    eventually("a page", || books(&mesh));
    // Those that call the reviews hold their routes.
    let calls = |name: &String| mesh.cli(&["proxy-config", "on-demand", name]).ok().contains("9080/reviews.shop");
    let sidecars: Vec<String> = proxies(&mesh).into_iter().filter(|name| !name.starts_with("istio-ingressgateway")).filter(calls).collect();
    assert_eq!(sidecars.iter().map(|name| name.split('-').next().unwrap_or_default()).collect::<Vec<_>>(), ["storefront"]);
    let mut took = Vec::new();
    for edit in 0..10 {
        let (name, start) = (format!("edit-{edit}"), Instant::now());
        mesh.save("routing.yaml", &routing("v1").replace("  - route:", &format!("  - name: {name}\n    route:")));
        for proxy in &sidecars {
            eventually(&format!("{proxy} has {name}"), || {
                let routes = mesh.cli(&["proxy-config", "route", proxy, "--name", "9080", "-o", "json"]).ok();
                if routes.contains(&format!("\"{name}\"")) { Ok(()) } else { Err(routes) }
            });
        }
        took.push(start.elapsed());
    }
    // The time that it takes to ask all proxies, one after the other, is in it.
    println!("an edit is live in all {} sidecars after {took:?}", sidecars.len());
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// Whether a proxy has taken all that it was sent: who calls nobody yet has asked for no endpoints.
fn is_synced(line: &str) -> bool {
    line.matches("SYNCED").count() + line.matches("NOT SENT").count() == 4
}

#[test]
fn questions_of_the_command_line() {
    let mut mesh = Mesh::start(MIZZEN, &bookshop());
    let status = mesh.cli(&["proxy-status"]).ok();
    let mut lines = status.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["NAME", "CDS", "LDS", "EDS", "RDS", "LAST", "ACK", "VERSION"]);
    assert_eq!(lines.clone().count(), 8, "{status}");
    assert!(lines.all(is_synced), "{status}");
    // What the storefront calls it holds.
    eventually("a page", || books(&mesh));
    eventually("the storefront runs what it should", || {
        let said = mesh.cli(&["ps", "storefront"]).ok();
        let same = ["Clusters Match", "Listeners Match", "Routes Match", "Endpoints Match"];
        if same.iter().all(|line| said.lines().any(|is| is == *line)) { Ok(()) } else { Err(said) }
    });

    for (what, columns, expected) in [
        ("cluster", "SERVICE FQDN", "reviews.shop.svc.cluster.local"),
        ("listener", "ADDRESS", "15006"),
        ("route", "NAME", "9080"),
        ("endpoint", "ENDPOINT", "outbound|9080||reviews.shop.svc.cluster.local"),
        ("secret", "RESOURCE NAME", "ROOTCA"),
    ] {
        let ask = |form: &str| mesh.cli(&["proxy-config", what, "storefront.shop", "-o", form]).ok();
        let table = ask("short");
        assert!(table.starts_with(columns) && table.contains(expected), "{what}: {table}");
        let json: Value = serde_json::from_str(&ask("json")).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(json.as_array().is_some_and(|list| !list.is_empty()), "{what}: {json}");
        let yaml: Value = serde_saphyr::from_str(&ask("yaml")).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(yaml.as_array().map(Vec::len), json.as_array().map(Vec::len), "{what}");
        let text = json.to_string();
        assert!(!text.contains("PRIVATE KEY") && !text.contains(&base64("PRIVATE KEY")), "{what} shows a private key");
    }

    assert!(mesh.cli(&["logs", "storefront"]).ok().contains("listening on"));
    assert!(mesh.cli(&["logs", "storefront", "-n", "shop", "--proxy"]).ok().contains("\"path\""));
    assert_eq!(mesh.cli(&["logs", "storefront.shop", "--proxy", "--tail", "2"]).ok().lines().count(), 2);
    let versions: Value = serde_json::from_str(&mesh.cli(&["version", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(versions["dataPlane"]["proxies"], 8, "{versions}");

    let run = |args: &[&str]| mesh.run("shop", "visitor", args);
    assert_eq!(run(&["sh", "-c", "echo out; echo err >&2; exit 7"]).code, 7);
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).code, 137);
    for (args, expected) in [
        (&["proxy-config", "cluster", "nobody"][..], "there is no workload nobody; there are: "),
        (&["proxy-config", "cluster", "storefront.nowhere"], "there is no workload storefront.nowhere"),
        (&["proxy-config", "cluster", "service/storefronts"], "there is no service storefronts, did you mean `storefront`?"),
        (&["proxy-config", "clutser", "storefront"], "clutser"),
        (&["proxy-status", "nobody"], "there is no workload nobody"),
        (&["logs", "nobody"], "there is no workload nobody"),
        (&["logs", "reviews"], "reviews may be any of reviews-v1-"),
        (&["run", "-n", "nowhere", "--", "true"], "there is no Namespace nowhere: add it to the folder"),
        (&["run", "-n", "shop", "-s", "nobody", "--", "true"], "there is no ServiceAccount shop/nobody: add it to the folder"),
        (&["run", "-n", "shop", "-s", "visitor", "--", "no-such-program"], "no-such-program"),
        (&["--mesh", "other", "proxy-status"], "no mesh"),
    ] {
        let output = mesh.cli(args);
        assert!(output.code != 0 && output.err.contains(expected), "{args:?}: {output:?}");
    }
    assert_eq!((run(&["no-such-program"]).code, run(&["/no/such/program"]).code, run(&["/etc/passwd"]).code), (127, 127, 126));
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
    let output = mesh.cli(&["proxy-status"]);
    assert!(output.code == 1 && output.err.contains("no mesh is running"), "{output:?}");
}

/// The middle of a text in base64, wherever in the encoded text it stands.
fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(&text[..text.len() / 3 * 3])
}
