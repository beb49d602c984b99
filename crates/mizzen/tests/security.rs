//! A mesh that starts closed, and the commands that say who may call whom: `explain`, `x authz check`, `authz replay`, `authz suggest`, `admin log`.

use std::path::{Path, PathBuf};

use mizzen_testkit::{Mesh, Options, eventually};
use serde_json::Value;

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");
const REVIEWS: &str = "http://reviews:9080/reviews/1";

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")
}

fn step(name: &str) -> PathBuf {
    samples().join("bookshop-steps").join(name)
}

/// Whether every part of the page could be had.
fn whole(mesh: &Mesh, headers: &[&str]) -> Result<(), String> {
    let (status, body) = mesh.get("/api/books", headers)?;
    let page: Value = serde_json::from_str(&body).map_err(|error| format!("{status}: {error}: {body}"))?;
    let books = page["books"]["Ok"].as_array().cloned().unwrap_or_default();
    let is_whole = |book: &Value| book["book"]["stock"].get("Ok").is_some() && book["reviews"]["Ok"]["stars"].get("Err").is_none();
    if books.len() == 3 && books.iter().all(is_whole) { Ok(()) } else { Err(body) }
}

#[test]
fn a_mesh_that_starts_closed() {
    let options = Options { args: ["--secure", "--denial-header", "x-why"].map(str::to_owned).into(), ..Options::default() };
    let mut mesh = Mesh::start_with(MIZZEN, &samples().join("bookshop"), options);
    let visit = |path: &str| mesh.run("shop", "visitor", &["curl", "-s", "-S", "-m", "10", "-w", " %{http_code}", path]);
    assert_eq!(mesh.get("/", &[]), Ok((403, "RBAC: access denied".to_owned())), "the gateway is closed too");
    assert_eq!(visit(REVIEWS).ok(), "RBAC: access denied 403");
    assert!(visit("http://192.0.2.80/").out.ends_with(" 000"), "nothing leaves the mesh");

    mesh.apply(&step("02-allow"));
    eventually("what the policies allow works", || whole(&mesh, &[]));
    assert_eq!(visit(REVIEWS).ok(), "RBAC: access denied 403", "nobody allowed the visitor");
    let told = mesh.run("shop", "visitor", &["curl", "-s", "-S", "-m", "10", "-o", "/dev/null", "-D", "-", REVIEWS]).ok();
    let why = "x-why: no policy allows it; nearest is ns[shop]-policy[reviews-from-storefront]-rule[0]: principal is ";
    assert!(told.contains(why), "who is refused is told why, if that is asked for: {told}");

    by_another_name(&mesh);
    explained(&mesh);
    what_is_enforced(&mesh);
    seen(&mesh);
    asked(&mesh);
    tried(&mesh);
    known(&mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// A service of type ExternalName is called as what it names: over mutual TLS, and its policies decide.
fn by_another_name(mesh: &Mesh) {
    let alias = |name: &str, target: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{type: ExternalName, externalName: {target}}}}}\n"
        )
    };
    mesh.save("aliases.yaml", &(alias("critics", "reviews.shop.svc.cluster.local") + &alias("press", "critics.shop.svc.cluster.local")));
    let call = |account: &str, host: &str| {
        let url = format!("http://{host}:9080/reviews/1");
        mesh.run("shop", account, &["curl", "-s", "-S", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", &url]).out
    };
    eventually("the name is known", || match call("storefront", "critics").as_str() {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!([call("storefront", "press.shop"), call("visitor", "critics")], ["200", "403"]);
}

fn explained(mesh: &Mesh) {
    let explain = |words: &str| mesh.cli(&[&["explain"], &words.split(' ').collect::<Vec<_>>()[..]].concat());
    let allowed = explain("--from storefront --to reviews --path /reviews/1");
    assert_eq!(allowed.code, 0, "{allowed:?}");
    // The storefront has called reviews, and so its proxy holds the way.
    assert!(allowed.out.contains("[held]") && !allowed.out.contains("not held"), "{}", allowed.out);
    let refused = explain("--from ratings --to reviews --path /reviews/1");
    assert_eq!(refused.code, 1, "{refused:?}");
    for part in [
        "REFUSED: no policy allows it",
        "AuthorizationPolicy shop/reviews-from-storefront, rule[0] at ",
        "allow.yaml:",
        "lacks principal",
        "not held",
    ] {
        assert!(refused.out.contains(part), "{part} is not in\n{}", refused.out);
    }
    let outside = explain("--from storefront --to example.com -o json");
    let said: Value = serde_json::from_str(&outside.out).expect("JSON");
    assert_eq!((outside.code, &said["verdict"]["result"]), (1, &Value::from("closed")), "{said}");
    assert_eq!(explain("--from ingress --to example.com --path /api/books").code, 0);
    let nobody = explain("--from storefrnt --to reviews");
    assert!(nobody.code == 3 && nobody.err.contains("did you mean `storefront`?"), "{nobody:?}");
    // Files alone say the same.
    let folder = mesh.folder.to_string_lossy().into_owned();
    let files = explain(&format!("--from ratings --to reviews --path /reviews/1 -f {folder}"));
    assert_eq!(files.code, 1, "{files:?}");
}

fn what_is_enforced(mesh: &Mesh) {
    let shown = mesh.cli(&["x", "authz", "check", "reviews-v1"]).ok();
    let rows: Vec<String> = shown.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows, ["ACTION AuthorizationPolicy RULES", "ALLOW reviews-from-storefront.shop 1"]);
    // What is said of policies is said once, and rule by rule if that is asked for.
    let lines = || mesh.cli(&["logs", "mizzend"]).ok().lines().filter(|line| line.contains("authz")).map(str::to_owned).collect::<Vec<_>>();
    let of_reviews = lines().into_iter().filter(|line| line.contains("reviews-from-storefront")).count();
    assert_eq!(of_reviews, 3, "one line for each of the three: {:#?}", lines());
    let shown = mesh.cli(&["admin", "log", "--level", "authorization:debug"]).ok();
    assert!(shown.lines().any(|row| row.starts_with("authorization ") && row.trim_end().ends_with(" debug")), "{shown}");
    let text = std::fs::read_to_string(step("02-allow").join("allow.yaml")).expect("the step");
    mesh.save("allow.yaml", &text.replace("/reviews/*", "/reviews*"));
    eventually("rules are logged", || {
        let said = lines();
        if said.iter().any(|line| line.contains("authz: rule") && line.contains("/reviews*")) { Ok(()) } else { Err(format!("{said:#?}")) }
    });
    let wrong = mesh.cli(&["admin", "log", "--level", "authorisation:debug"]);
    assert!(wrong.code == 1 && wrong.err.contains("did you mean `authorization`?"), "{wrong:?}");
    mesh.cli(&["admin", "log", "--reset"]).ok();
    mesh.save("allow.yaml", &text);
    eventually("the shop goes on", || whole(mesh, &[]));
}

/// From the traffic that the mesh has seen.
fn seen(mesh: &Mesh) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    };
    let suggested = mesh.cli(&["authz", "suggest", "--deny-rest", "--paths", "prefix"]);
    assert_eq!(suggested.code, 0, "{suggested:?}");
    // Which of the three was called is chance.
    for part in ["name: \"reviews-v", "cluster.local/ns/shop/sa/storefront", "/reviews/", "ports: [\"7070\"]", "allow-nothing"] {
        assert!(suggested.out.contains(part), "{part} is not in\n{}", suggested.out);
    }
    assert!(!suggested.out.contains("visitor"), "what was refused is not suggested: {}", suggested.out);
    let policies = file("suggested.yaml", &suggested.out);
    let same = mesh.cli(&["authz", "replay", "--replace", "--policy", &policies, "-o", "json"]);
    let report: Value = serde_json::from_str(&same.out).unwrap_or_else(|error| panic!("{error}: {same:?}"));
    assert_eq!((same.code, &report["wouldBeRefused"], &report["unknownOfAllowed"]), (0, &0.into(), &0.into()), "{report:#}");
    assert!(report["stillAllowed"].as_u64() > Some(0) && report["stillRefused"].as_u64() > Some(0), "{report:#}");
    let deny = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: stop, namespace: shop}, \
                spec: {selector: {matchLabels: {app: ratings}}, action: DENY, rules: [{}]}}";
    let deny = file("deny.yaml", deny);
    let lost = mesh.cli(&["authz", "replay", "--policy", &deny]);
    assert!(lost.code == 1 && lost.out.contains("ns[shop]-policy[stop]-rule[0]"), "{lost:?}");
    let bad = file("bad.yaml", "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: bad}, spec: {rulez: []}}");
    let bad = mesh.cli(&["authz", "replay", "--policy", &bad]);
    assert!(bad.code == 3 && bad.err.contains("did you mean `rules`?"), "{bad:?}");
}

/// The doorman decides about each request for the page.
fn asked(mesh: &Mesh) {
    mesh.apply(&step("06-external-authorizer"));
    eventually("members get in", || whole(mesh, &["x-member: yes"]));
    mesh.wait_for("/", &[], "nobody else does", |status, body| status == 403 && body == "members only\n");
    let explain = |more: &[&str]| mesh.cli(&[&["explain", "--from", "ingress", "--to", "shop.example", "--path", "/"], more].concat());
    assert_eq!(explain(&[]).code, 2, "only the doorman knows");
    assert_eq!(explain(&["--authorizer", "allow"]).code, 0);
    assert_eq!(explain(&["--authorizer", "deny"]).code, 1);
}

/// What is tried is counted and told, and decides nothing.
fn tried(mesh: &Mesh) {
    mesh.apply(&step("07-audit-and-dry-run"));
    eventually("the proxies have the policies", || {
        let of = |workload: &str| mesh.cli(&["x", "authz", "check", workload]).ok();
        let (reviews, catalogue) = (of("reviews-v1"), of("catalogue"));
        let has = |shown: &str, action: &str| shown.lines().any(|row| row.starts_with(action));
        if has(&reviews, "DENY (dry run)") && has(&catalogue, "AUDIT") { Ok(()) } else { Err(reviews + &catalogue) }
    });
    let metrics = |workload: &str| {
        let address = mesh.pod_address("shop", workload);
        let scrape = ["curl", "-sS", "-m", "10", &format!("http://{address}:15090/stats/prometheus")];
        mesh.outside(&scrape, "").map(|output| output.out)
    };
    eventually("what would be refused is counted", || {
        whole(mesh, &["x-member: yes"])?;
        let Some(all) = ["reviews-v1", "reviews-v2", "reviews-v3"].into_iter().map(metrics).collect::<Option<Vec<_>>>() else {
            return Ok(());
        };
        let counted = |line: &str| {
            line.starts_with("mizzen_authorization_decisions_total{") && line.contains("would_deny") && line.contains("no-second-book")
        };
        if all.iter().flat_map(|text| text.lines()).any(counted) { Ok(()) } else { Err(all.concat()) }
    });
    let explained = mesh.cli(&["explain", "--from", "storefront", "--to", "reviews", "--path", "/reviews/2"]);
    assert!(
        explained.code == 0 && explained.out.contains("not enforced: AuthorizationPolicy shop/no-second-book, rule[0]"),
        "{explained:?}"
    );
}

/// The shop's data is for those who have a token.
fn known(mesh: &Mesh) {
    let file = samples().join("bookshop-tokens/ann.jwt");
    let ann = std::fs::read_to_string(&file).expect("a token");
    let bearer = |token: &str| format!("authorization: Bearer {}", token.trim());
    let (ann, broken) = (bearer(&ann), bearer(&ann.trim().replace("ey", "eY")));
    mesh.apply(&step("08-end-user-tokens"));
    mesh.wait_for("/api/books", &["x-member: yes"], "nobody without a token", |status, _| status == 403);
    eventually("with one the data is there", || whole(mesh, &["x-member: yes", &ann]));
    mesh.wait_for("/", &["x-member: yes"], "the page is for all members", |status, _| status == 200);
    mesh.wait_for("/", &["x-member: yes", &broken], "a broken token is refused everywhere", |status, body| {
        status == 401 && body.starts_with("Jwt ")
    });
    let explain = |more: &[&str]| {
        let call = ["explain", "--from", "ingress", "--to", "shop.example", "--path", "/api/books", "--authorizer", "allow"];
        mesh.cli(&[&call[..], more].concat())
    };
    let without = explain(&[]);
    assert!(without.code == 1 && without.out.contains("data-for-readers"), "{without:?}");
    assert_eq!(explain(&["--jwt", &file.to_string_lossy()]).code, 0);
}
