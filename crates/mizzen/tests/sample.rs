//! The sample and its steps, each with a call that must work and one that must not: with Mizzen's own proxies, and with Envoys in their place.

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mizzen_testkit::{Mesh, Options, Output, envoy, eventually, is_root};
use serde_json::Value;

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")
}

fn step(name: &str) -> PathBuf {
    samples().join("bookshop-steps").join(name)
}

/// The books as the storefront shows them.
fn books(mesh: &Mesh, headers: &[&str]) -> Result<Value, String> {
    let (status, body) = mesh.get("/api/books", headers)?;
    if status != 200 {
        return Err(format!("{status}: {body}"));
    }
    serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))
}

/// The version of the reviews that each book of one page shows.
fn versions(page: &Value) -> Vec<String> {
    let books = page["books"]["Ok"].as_array().cloned().unwrap_or_default();
    books.iter().filter_map(|b| b["reviews"]["Ok"]["version"].as_str().map(str::to_owned)).collect()
}

/// Whether every part of the page could be had.
fn whole(page: &Value) -> Result<(), String> {
    let books = page["books"]["Ok"].as_array().ok_or_else(|| page.to_string())?;
    for book in books {
        let parts = [&book["book"]["stock"], &book["reviews"]];
        let stars = &book["reviews"]["Ok"]["stars"];
        if parts.iter().any(|part| part.get("Ok").is_none()) || stars.get("Err").is_some() {
            return Err(book.to_string());
        }
    }
    if books.len() == 3 { Ok(()) } else { Err(format!("{} books", books.len())) }
}

/// An outside of the mesh: a web server for example.com, and a DNS server that knows it. Returns the arguments of `up` that make them reachable.
fn outside() -> Vec<String> {
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let names = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let args = [
        "--outside".to_owned(),
        format!("192.0.2.80:80={}", web.local_addr().expect("an address")),
        "--name-server".to_owned(),
        names.local_addr().expect("an address").to_string(),
    ];
    std::thread::spawn(move || {
        for stream in web.incoming().flatten() {
            let mut stream = stream;
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\noutside\n");
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = names.recv_from(&mut buffer) {
            let _ = names.send_to(&answer(&buffer[..length]), from);
        }
    });
    args.into()
}

/// The address of example.com to a question for it, and no such name to any other.
fn answer(question: &[u8]) -> Vec<u8> {
    // After the header: the name, its end, type and class (RFC 1035, section 4.1).
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
    let is_address = question[end - 3] == 1;
    let known = question[12..].starts_with(b"\x07example\x03com\0");
    let (count, code) = (u8::from(known && is_address), if known { 0 } else { 3 });
    let mut reply = vec![question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    reply.extend_from_slice(&question[12..end]);
    if count == 1 {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 80]);
    }
    reply
}

const REVIEWS: &str = "http://reviews:9080/reviews/1";

/// A make of proxies, and where makes differ to whoever looks at them.
struct Plane {
    /// Arguments of `up`.
    args: Vec<String>,
    /// A name and a label of the metric that counts the requests of reviews. Istio's metrics are made by a filter of Istio's own, which an
    /// Envoy does not have: there it is Envoy's own count.
    metric: [&'static str; 2],
    /// The name of its processes.
    processes: &'static str,
}

fn mizzen() -> Plane {
    Plane { args: Vec::new(), metric: ["istio_requests_total{", "reporter=\"destination\""], processes: "mizzen-proxy" }
}

fn envoys(program: &Path) -> Plane {
    Plane {
        args: vec!["--data-plane".to_owned(), format!("envoy={}", program.display())],
        metric: ["envoy_cluster_upstream_rq_total{", "cluster_name=\"inbound|9080||\""],
        processes: "envoy",
    }
}

#[test]
fn the_steps_of_the_sample() {
    steps(mizzen());
}

#[test]
fn the_steps_of_the_sample_with_envoys() {
    if let Some(program) = envoy() {
        steps(envoys(&program));
    }
}

/// Where the mesh's user is nobody in particular, an Envoy's sockets are marked by the one capability that it was left.
#[test]
fn envoys_of_an_ordinary_user() {
    let Some(program) = envoy() else { return };
    if !is_root() {
        return mizzen_testkit::skip("only root can become another user; the other tests are run by an ordinary one already");
    }
    // Where it lies, nobody else may look.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let copy = folder.path().join("envoy");
    let copied = std::process::Command::new("cp").args([&program, &copy]).status().expect("start cp");
    assert!(copied.success(), "cp {}", program.display());
    let options = Options { as_nobody: true, args: envoys(&copy).args, ..Options::default() };
    let mut mesh = Mesh::start_with(MIZZEN, &samples().join("bookshop"), options);
    mesh.apply(&step("01-strict-and-deny"));
    mesh.apply(&step("02-allow"));
    eventually("a whole page", || books(&mesh, &[]).and_then(|page| whole(&page)));
    let output = mesh.run("shop", "visitor", &["curl", "-sS", "-m", "10", "-w", " %{http_code}", REVIEWS]);
    assert_eq!(output.ok(), "RBAC: access denied 403");
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

fn steps(plane: Plane) {
    let args = outside().into_iter().chain(plane.args.clone()).collect();
    let mut mesh = Mesh::start_with(MIZZEN, &samples().join("bookshop"), Options { args, ..Options::default() });
    let page = mesh.get("/", &[]).expect("the page");
    assert_eq!(page.0, 200);
    assert!(page.1.contains("Joshua Slocum"), "{}", page.1);
    eventually("a whole page", || books(&mesh, &[]).and_then(|page| whole(&page)));
    let seen: std::collections::BTreeSet<String> = (0..20).flat_map(|_| versions(&books(&mesh, &[]).expect("a page"))).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["v1", "v2", "v3"], "without routing rules all versions are seen");
    let visit = |path: &str| mesh.run("shop", "visitor", &["curl", "-s", "-S", "-m", "10", "-w", " %{http_code}", path]);
    assert!(visit(REVIEWS).ok().ends_with(" 200"), "a visitor may call before there are policies");

    mesh.apply(&step("01-strict-and-deny"));
    mesh.wait_for("/", &[], "denied by default", |status, body| status == 403 && body == "RBAC: access denied");
    assert_eq!(visit(REVIEWS).ok(), "RBAC: access denied 403");

    mesh.apply(&step("02-allow"));
    eventually("what is allowed works again", || books(&mesh, &[]).and_then(|page| whole(&page)));
    assert_eq!(visit(REVIEWS).ok(), "RBAC: access denied 403", "nobody allowed the visitor");
    let stock = mesh.run("shop", "visitor", &["sh", "-c", "exec 3<>/dev/tcp/stock/7070 2>/dev/null || exit 9; echo 1 >&3; cat <&3"]);
    assert_eq!(stock.out, "", "a denied TCP connection is closed: {stock:?}");

    seen_from_outside(&mesh, &plane);

    mesh.apply(&step("03-canary"));
    // Several in a row: an Envoy takes a route over while a cluster that it names is still getting its endpoints.
    eventually("nobody sees v3", || {
        (0..20).try_for_each(|_| {
            let page = books(&mesh, &[])?;
            if versions(&page).iter().any(|v| v == "v3") { Err(page.to_string()) } else { whole(&page) }
        })
    });
    let seen: Vec<String> = (0..200).flat_map(|_| versions(&books(&mesh, &[]).expect("a page"))).collect();
    let canary = seen.iter().filter(|v| *v == "v2").count();
    // 600 requests, one in ten: the chance to miss this range is below one in a million.
    assert!(seen.len() == 600 && (25..=105).contains(&canary), "{canary} of {}", seen.len());

    mesh.apply(&step("04-header-route"));
    eventually("testers see v2, all others v1", || {
        for (headers, expected) in [(&["x-user: tester"][..], "v2"), (&["x-user: somebody"], "v1"), (&[], "v1")] {
            let page = books(&mesh, headers)?;
            whole(&page)?;
            if versions(&page) != [expected; 3] {
                return Err(format!("{headers:?}: {page}"));
            }
        }
        Ok(())
    });

    assert_eq!(visit("http://example.com/").ok(), "outside\n 200", "what is not known may pass by default");
    mesh.apply(&step("05-external"));
    eventually("only what is registered passes", || match visit("http://192.0.2.80/").out.as_str() {
        out if out.ends_with(" 502") => Ok(()),
        out => Err(out.to_owned()),
    });
    eventually("example.com is registered", || match visit("http://example.com/").out.as_str() {
        "outside\n 200" => Ok(()),
        out => Err(out.to_owned()),
    });
    eventually("the shop goes on", || books(&mesh, &[]).and_then(|page| whole(&page)));
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// The CLI under the name that Istio's scripts call.
fn istioctl(mesh: &Mesh, args: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("istioctl");
    std::os::unix::fs::symlink(MIZZEN, &link).expect("a link");
    let known = mesh.cli_command(args);
    let mut command = Command::new(link);
    command.args(args).current_dir("/").stdin(Stdio::null());
    for (name, value) in known.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.output().expect("start the CLI");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// What istioctl answers of a mesh, under its name too.
fn by_both_names(mesh: &Mesh, plane: &Plane) {
    let (pod, _) = mesh.pods("shop", "storefront").into_iter().next().expect("the storefront");
    let pod = format!("{pod}.shop");
    let pod = pod.as_str();
    let is_mizzen = plane.processes == "mizzen-proxy";
    let reviews = "reviews.shop.svc.cluster.local:9080 OK STRICT ISTIO_MUTUAL ";
    for (args, parts) in [
        (vec!["analyze", "-n", "shop"], vec![]),
        (vec!["analyze", "--all-namespaces"], vec![]),
        (vec!["proxy-config", "cluster", pod, "--fqdn", "reviews.shop"], vec!["reviews.shop.svc.cluster.local 9080 - outbound EDS"]),
        (vec!["proxy-config", "cluster", "deployment/storefront", "-n", "shop"], vec!["reviews.shop.svc.cluster.local"]),
        (vec!["proxy-config", "cluster", "service/storefront", "-n", "shop"], vec!["reviews.shop.svc.cluster.local"]),
        (vec!["proxy-config", "secret", pod], vec!["ROOTCA CA ACTIVE true", "default Cert Chain ACTIVE true"]),
        (vec!["proxy-config", "bootstrap", pod, "-o", "short"], vec![pod]),
        (vec!["proxy-config", "all", pod], vec!["SERVICE FQDN", "ADDRESSES PORT", "ENDPOINT STATUS", "ROOTCA"]),
        (vec!["proxy-config", "listener", pod, "--port", "15006", "--verbose=false"], vec!["0.0.0.0 15006 HTTP+TCP"]),
        (vec!["proxy-config", "eds", pod], vec!["outbound|9080||reviews.shop.svc.cluster.local"]),
        (vec!["proxy-config", "log", pod], vec!["active loggers:"]),
        (vec!["authn", "tls-check", pod], vec![reviews]),
        (vec!["authn", "tls-check", pod, "reviews"], vec![reviews]),
        (vec!["x", "describe", "pod", pod], vec!["Service: storefront.shop", "Workload mTLS mode: STRICT"]),
        (vec!["describe", "service", "reviews.shop"], vec!["Service: reviews.shop", "ALLOW reviews-from-storefront.shop"]),
    ] {
        for answer in [mesh.cli(&args), istioctl(mesh, &args)] {
            assert_eq!(answer.code, 0, "{args:?}: {answer:?}");
            let lines: Vec<String> = answer.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            let has = |part: &&str| lines.iter().any(|line| line.contains(*part));
            assert!(parts.iter().all(has) && !answer.out.contains("Error ["), "{args:?}: {answer:?}");
        }
    }
    for (args, part) in [
        (vec!["authn", "tls-check", "nobody.shop"], "there is no workload nobody.shop"),
        (vec!["authn", "tls-check", pod, "revews"], "did you mean `reviews`?"),
        (vec!["proxy-config", "cluster", "daemonset/reviews"], "there are pod/NAME, deployment/NAME and service/NAME"),
    ] {
        for answer in [mesh.cli(&args), istioctl(mesh, &args)] {
            assert!(answer.code != 0 && answer.err.contains(part), "{args:?}: {answer:?}");
        }
    }
    let json: Value = serde_json::from_str(&mesh.cli(&["proxy-config", "cluster", pod, "-o", "json"]).ok()).expect("JSON");
    assert!(json.as_array().is_some_and(|list| list.iter().any(|one| one["altStatName"].is_string())), "{json}");
    // A dump in a file says the same as the proxy.
    let dump = mesh.cli(&["proxy-config", "all", pod, "-o", "json"]).ok();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump.json");
    std::fs::write(&file, dump).expect("a file");
    let from_file = mesh.cli(&["proxy-config", "cluster", "-f", &file.to_string_lossy()]).ok();
    assert_eq!(from_file, mesh.cli(&["proxy-config", "cluster", pod]).ok());
    if !is_mizzen {
        return;
    }
    eventually("the storefront runs what it should", || {
        let said = mesh.cli(&["proxy-status", pod]).ok();
        if said.contains("Don't Match") || !said.contains("Routes Match") { Err(said) } else { Ok(()) }
    });
    eventually("servers have seen mutual TLS", || {
        let said = mesh.cli(&["authn", "tls-check", pod, "reviews:9080"]).ok();
        if said.contains("mutual_tls") { Ok(()) } else { Err(said) }
    });
    let set = mesh.cli(&["proxy-config", "log", pod, "--level", "engine:debug"]).ok();
    assert!(set.contains("engine: debug"), "{set}");
    let reset = istioctl(mesh, &["proxy-config", "log", pod, "-r"]).ok();
    assert!(!reset.contains("debug"), "{reset}");
}

/// What the CLI, the logs and the metrics show of the proxies.
fn seen_from_outside(mesh: &Mesh, plane: &Plane) {
    // Counted anew each time: a visitor that has just left may still be among them.
    let count = || mesh.pods("shop", "").len() + mesh.pods("istio-system", "").len();
    eventually("one proxy beside each program, and the gateway's", || match (mesh.running(plane.processes).len(), count()) {
        (running, count) if running == count => Ok(()),
        (running, count) => Err(format!("{running} of {count}")),
    });
    eventually("all proxies have the newest configuration", || {
        let status = mesh.cli(&["proxy-status"]).ok();
        let rows: Vec<&str> = status.lines().skip(1).collect();
        // Who calls nobody yet has asked for no endpoints.
        let synced = |row: &&str| row.replace("NOT SENT", "SYNCED").split_whitespace().skip(1).take(4).all(|state| state == "SYNCED");
        if rows.len() == count() && rows.iter().all(synced) { Ok(()) } else { Err(status) }
    });
    for (what, part) in [
        ("cluster", "reviews.shop.svc.cluster.local"),
        ("listener", "15006"),
        ("route", "reviews.shop.svc.cluster.local"),
        ("endpoint", ":9080"),
        ("secret", "ROOTCA"),
    ] {
        let shown = mesh.cli(&["proxy-config", what, "storefront"]).ok();
        assert!(shown.contains(part), "{what}:\n{shown}");
    }
    by_both_names(mesh, plane);
    // Who calls nobody holds no way to others, and can be told what there is.
    let clusters = |more: &[&str]| mesh.cli(&[&["proxy-config", "cluster", "ratings", "--name", "reviews.shop"], more].concat()).ok();
    let all = clusters(&["--all"]);
    let is_on_demand = plane.processes == "mizzen-proxy";
    let held = if is_on_demand { " no" } else { " yes" };
    assert!(all.lines().skip(1).any(|row| row.contains("outbound") && row.trim_end().ends_with(held)), "{all}");
    assert_eq!(clusters(&[]).contains("outbound"), !is_on_demand);
    // Istio's format of the access log, and one way to say who was refused and why.
    eventually("the visitor's call is on record", || {
        let logs: String = (1..=3).map(|n| mesh.cli(&["logs", &format!("reviews-v{n}"), "--proxy"]).out).collect();
        let lines = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_visit = |line: &Value| {
            line["downstream_peer_uri_san"] == "spiffe://cluster.local/ns/shop/sa/visitor"
                && line["response_code"] == 403
                && line["response_code_details"] == "rbac_access_denied_matched_policy[none]"
        };
        if lines.into_iter().any(|line| is_visit(&line)) { Ok(()) } else { Err(logs) }
    });
    eventually("requests are counted", || {
        // From outside of all proxies: an Envoy answers for every address at a port on which it listens itself.
        let address = mesh.pod_address("shop", "reviews-v1");
        let scrape = ["curl", "-sS", "-m", "10", &format!("http://{address}:15090/stats/prometheus")];
        let Some(metrics) = mesh.outside(&scrape, "").map(|output| output.out) else { return Ok(()) };
        if metrics.lines().any(|line| line.starts_with(plane.metric[0]) && line.contains(plane.metric[1])) { Ok(()) } else { Err(metrics) }
    });
}
