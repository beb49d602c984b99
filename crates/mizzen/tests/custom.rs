//! CUSTOM policies: a program of the mesh is asked about requests to another one, and decides.

use mizzen_testkit::{Mesh, eventually, folder, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs of the mesh are this very executable, told by the variable `WORKLOAD` what to be.
#[test]
#[ignore = "a workload of the mesh that the other test starts"]
fn run() {
    match std::env::var(workload::VARIABLE).as_deref() {
        Ok("authz") => workload::serve(8000, decide),
        Ok("echo") => workload::serve(8080, workload::echo),
        _ => {}
    }
}

/// Lets those go on who say the word, and tells the program who that is.
fn decide(head: &str) -> workload::Answer {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let word = head.lines().any(|line| line == "x-word: sesame");
    if word && head.contains("x-asked-by: the mesh") && path.starts_with("/check/private") {
        ("200 OK", format!("x-user: ali\r\nx-secret: {path}\r\n"), String::new())
    } else {
        ("401 Unauthorized", "x-why: no word\r\n".to_owned(), format!("{path} is not for you\n"))
    }
}

const ECHO: &str = "
kind: Service
apiVersion: v1
metadata: {name: echo, namespace: cave}
spec: {selector: {app: echo}, ports: [{name: http, port: 8080}]}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: echo, namespace: cave}
spec: {hosts: ['*'], gateways: [cave], http: [{route: [{destination: {host: echo}}]}]}
---
kind: PeerAuthentication
apiVersion: security.istio.io/v1
metadata: {name: all, namespace: cave}
spec: {mtls: {mode: STRICT}}
---
kind: Service
apiVersion: v1
metadata: {name: authz, namespace: cave}
spec: {selector: {app: authz}, ports: [{name: http, port: 8000}]}
---
";

fn deployment(name: &str, port: u16) -> String {
    workload::deployment("cave", name, port)
}

fn providers(more: &str) -> String {
    format!(
        "
kind: ConfigMap
apiVersion: v1
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - name: keeper
      envoyExtAuthzHttp:
        service: cave/authz.cave.svc.cluster.local
        port: 8000
        pathPrefix: /check
        includeRequestHeadersInCheck: [x-word]
        includeAdditionalHeadersInCheck: {{x-asked-by: the mesh}}
        headersToUpstreamOnAllow: [x-user]
        {more}
"
    )
}

fn policy(provider: &str) -> String {
    format!(
        "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {{name: ask, namespace: cave}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  action: CUSTOM
  provider: {{name: {provider}}}
  rules: [{{to: [{{operation: {{paths: ['/private*']}}}}]}}]
"
    )
}

const WORD: &[&str] = &["x-word: sesame"];

/// Waits until a path answers so; the body is what the program behind, the provider or the proxy wrote.
#[track_caller]
fn check(mesh: &Mesh, path: &str, headers: &[&str], status: u16, parts: &[&str]) -> String {
    mesh.wait_for(path, headers, &format!("{status} with {parts:?}"), |found, body| {
        found == status && parts.iter().all(|part| body.contains(part))
    })
}

#[test]
fn a_program_of_the_mesh_decides() {
    let files = [
        ("echo.yaml", workload::gateway("cave") + ECHO + &deployment("echo", 8080)),
        ("authz.yaml", deployment("authz", 8000)),
        ("providers.yaml", providers("")),
        ("policy.yaml", policy("keeper")),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mesh = Mesh::start(MIZZEN, folder(&files).path());

    // Allowed: the program sees what the provider says, and only what of it is listed.
    let seen = check(&mesh, "/private/door?a=b", WORD, 200, &["get /private/door?a=b", "x-user: ali"]);
    assert!(!seen.contains("x-secret"), "{seen}");
    // Refused in the provider's own words, and not asked about at all.
    check(&mesh, "/private/door", &["x-word: please"], 401, &["/check/private/door is not for you"]);
    let seen = check(&mesh, "/public", &["x-user: mallory"], 200, &["get /public"]);
    assert!(seen.contains("x-user: mallory"), "no rule matches, so that nobody is asked: {seen}");
    // What a caller says of itself is replaced where somebody is asked.
    let seen = check(&mesh, "/private", &["x-word: sesame", "x-user: mallory"], 200, &["x-user: ali"]);
    assert!(!seen.contains("mallory"), "{seen}");

    // The provider is away: refused, with a status of one's choice, or let in where that is asked for.
    mesh.remove("authz.yaml");
    check(&mesh, "/private", WORD, 403, &[]);
    mesh.save("providers.yaml", &providers("statusOnError: '429'"));
    check(&mesh, "/private", WORD, 429, &[]);
    check(&mesh, "/public", &[], 200, &["get /public"]);
    mesh.save("providers.yaml", &providers("failOpen: true"));
    check(&mesh, "/private", &[], 200, &["get /private"]);
    mesh.save("authz.yaml", &deployment("authz", 8000));
    check(&mesh, "/private", &[], 401, &["/check/private is not for you"]);

    // Nobody of that name: what would be asked about is refused, and said.
    mesh.save("policy.yaml", &policy("nobody"));
    check(&mesh, "/private", WORD, 403, &["RBAC: access denied"]);
    check(&mesh, "/public", WORD, 200, &["get /public"]);
    let warning =
        "spec.provider.name: MeshConfig has no extension provider `nobody`: the workloads that are selected refuse what the rules match";
    let log = mesh.run_dir().join("mizzend/log");
    eventually("a warning", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains(warning) { Ok(()) } else { Err(text) }
    });
    mesh.save("policy.yaml", &policy("keeper"));
    check(&mesh, "/private", WORD, 200, &["x-user: ali"]);
}
