//! `mizzen analyze`, `mizzen validate` and `mizzen netpol` by the built binary: what they say, where, and with which exit code.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mizzen_testkit::{Mesh, eventually};
use serde_json::Value;
use tempfile::TempDir;

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// A folder with files, in which no mesh runs.
struct Folder(TempDir);

struct Output {
    code: i32,
    out: String,
    err: String,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        fs::create_dir(folder.path("run")).expect("a folder");
        for (name, text) in files {
            let path = folder.path(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a file")
    }

    fn run_as(&self, program: &Path, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(program)
            .args(args)
            .current_dir(self.0.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program");
        let mut stdin = child.stdin.take().expect("a pipe");
        // Who does not read it may have ended.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("an end");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Output { code: output.status.code().expect("an exit code"), out: text(output.stdout), err: text(output.stderr) }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_as(Path::new(MIZZEN), args, "")
    }
}

/// An AuthorizationPolicy with a field that does not exist, in line 5.
fn bad(metadata: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {metadata}\nspec:\n  actoin: DENY\n")
}

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  a: b\n";

#[test]
fn lines_and_exit_codes() {
    let files = [("bad.yaml", &*bad("{name: p, namespace: shop}")), ("none.yaml", &*bad("{name: q}")), ("good.yaml", CONFIG_MAP)];
    let folder = Folder::new(&files);
    folder.path("deep");
    fs::create_dir(folder.path("deep")).expect("a folder");
    fs::write(folder.path("deep/more.yaml"), bad("{name: deep}")).expect("a file");
    let line = |file: &str, id: &str| {
        format!("Error [IST0106] (AuthorizationPolicy {id} {file}:5) spec.actoin: unknown field, did you mean `action`?")
    };
    let check = |args: &[&str], code: i32, lines: &[String]| {
        // That there are no workloads here is another matter.
        let output = folder.run(&[&["analyze", "-S", "IST0127=*"], args].concat());
        let told: Vec<&str> = output.out.lines().filter(|line| !line.starts_with("Info ")).collect();
        assert_eq!((told, output.code), (lines.iter().map(String::as_str).collect(), code), "{args:?}\n{}", output.err);
        assert!(!output.out.contains('\u{1b}') && !output.err.contains('\u{1b}'), "no colours without a terminal");
        let says = |text: &str| output.err.contains(text);
        assert_eq!(says("✔ No validation issues found when analyzing "), lines.is_empty(), "{args:?}: {}", output.err);
        assert_eq!(says("Error: Analyzers found issues when analyzing "), code == 79, "{args:?}: {}", output.err);
        assert_eq!(says("\nSee "), code == 79, "{args:?}: {}", output.err);
    };
    let (shop, default) = (line("bad.yaml", "shop/p"), line("none.yaml", "default/q"));
    check(&["bad.yaml"], 79, std::slice::from_ref(&shop));
    check(&["--use-kube=false", "bad.yaml", "none.yaml"], 79, &[default.clone(), shop.clone()]);
    check(&["good.yaml"], 0, &[]);
    check(&["-n", "shop", "bad.yaml", "none.yaml"], 79, &[shop.clone(), line("none.yaml", "shop/q")]);
    check(&["-n", "other", "bad.yaml"], 0, &[]);
    check(&["-n", "other", "-A", "bad.yaml"], 79, std::slice::from_ref(&shop));
    check(&["-S", "IST0106=AuthorizationPolicy *.shop", "bad.yaml", "none.yaml"], 79, std::slice::from_ref(&default));
    check(&["-S", "IST0106=AuthorizationPolicy *.shop", "--suppress", "IST0106=* default/q", "bad.yaml", "none.yaml"], 0, &[]);
    check(&["--output-threshold", "error", "bad.yaml"], 79, std::slice::from_ref(&shop));
    check(&["--analyzer", "service.PortNameAnalyzer", "bad.yaml"], 0, &[]);
    check(&["--analyzer", "schema.ValidationAnalyzer", "bad.yaml"], 79, std::slice::from_ref(&shop));
    check(&["--analyzer", "IST0106", "bad.yaml", "bad.yaml"], 79, std::slice::from_ref(&shop));
    check(&["deep"], 79, &[line("deep/more.yaml", "default/deep")]);
    let recursive = [line("./deep/more.yaml", "default/deep"), line("./none.yaml", "default/q"), line("./bad.yaml", "shop/p")];
    check(&["."], 79, &recursive[1..]);
    check(&["-R", "."], 79, &recursive);
}

#[test]
fn what_is_not_understood() {
    let folder =
        Folder::new(&[("good.yaml", CONFIG_MAP), ("notes.txt", "x"), ("values.yaml", "replicas: 3\n"), ("broken.yaml", "kind: [\n")]);
    let check = |args: &[&str], code: i32, expected: &str| {
        let output = folder.run(&[&["analyze"], args].concat());
        assert_eq!(output.code, code, "{args:?}\n{}{}", output.out, output.err);
        assert!(output.err.contains(expected), "{args:?}\n{}", output.err);
    };
    check(&["missing.yaml"], 1, "missing.yaml: there is no such file or folder");
    check(&[], 1, "name files or folders to analyze them, or start a mesh with `mizzen up DIR`");
    check(&["-k", "good.yaml"], 1, "no mesh is running here");
    check(&["notes.txt"], 1, "there is no file that ends in .json, .yaml or .yml");
    check(&["notes.txt", "good.yaml"], 0, "notes.txt is left out");
    check(&["-o", "xml", "good.yaml"], 64, "xml");
    check(&["--no-such-flag"], 64, "--no-such-flag");
    check(&["--failure-threshold", "Fatal", "good.yaml"], 64, "`Fatal` is no level");
    check(&["--write", "good.yaml"], 64, "--fix");
    check(&["--fix"], 1, "--fix mends files");
    check(&["-S", "IST0106", "good.yaml"], 1, "is not of the form CODE=");
    check(&["-S", "IST9999=Pod a.b", "good.yaml"], 0, "Warning: --suppress: there is no code `IST9999`");
    check(&["--analyzer", "x.Y", "good.yaml"], 1, "there is no analyzer `x.Y`");
    check(&["--meshConfigFile", "none.yaml", "good.yaml"], 1, "--meshConfigFile none.yaml: cannot be read");
    check(&["values.yaml"], 65, "--ignore-unknown passes over them");
    check(&["broken.yaml", "good.yaml"], 65, "--ignore-unknown passes over them");
    check(&["--ignore-unknown", "values.yaml", "broken.yaml", "good.yaml"], 0, "✔ No validation issues found");
}

#[test]
fn forms() {
    let folder = Folder::new(&[("bad.yaml", &bad("{name: p, namespace: shop}")), ("good.yaml", CONFIG_MAP)]);
    let run = |args: &[&str], code: i32| {
        let output = folder.run(&[&["analyze"], args].concat());
        assert_eq!(output.code, code, "{args:?}\n{}{}", output.out, output.err);
        output.out
    };
    let json: Value = serde_json::from_str(&run(&["-o", "json", "bad.yaml"], 79)).expect("JSON");
    let fields: Vec<&String> = json[0].as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["code", "documentationUrl", "level", "message", "origin", "reference"]);
    assert_eq!((&json[0]["code"], &json[0]["level"]), (&"IST0106".into(), &"Error".into()));
    assert_eq!((&json[0]["origin"], &json[0]["reference"]), (&"AuthorizationPolicy shop/p".into(), &"bad.yaml:5".into()));
    let yaml: Value = serde_saphyr::from_str(&run(&["-o", "YAML", "bad.yaml"], 79)).expect("YAML");
    assert_eq!(yaml, json);
    let sarif: Value = serde_json::from_str(&run(&["--output=sarif", "bad.yaml"], 79)).expect("SARIF");
    assert_eq!(sarif["version"], "2.1.0");
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&"IST0106".into(), &"error".into()));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!((&place["artifactLocation"]["uri"], &place["region"]["startLine"]), (&"bad.yaml".into(), &5.into()));
    for (form, empty) in [("json", "[]\n"), ("yaml", "[]\n")] {
        assert_eq!(run(&["-o", form, "good.yaml"], 0), empty);
    }
    let colours = run(&["--color", "bad.yaml"], 79);
    assert!(colours.starts_with("\u{1b}[1;31mError\u{1b}[0m [IST0106] "), "{colours:?}");
    assert!(!run(&["--color=false", "bad.yaml"], 79).contains('\u{1b}'));
}

#[test]
fn standard_input_and_settings() {
    let folder = Folder::new(&[("mesh.yaml", "accessLogFile: /dev/stdout\ntrustDomian: x\n")]);
    let output = folder.run_as(Path::new(MIZZEN), &["analyze", "-"], &bad("{name: p}"));
    assert_eq!(output.code, 79, "{}", output.err);
    assert!(output.out.starts_with("Error [IST0106] (AuthorizationPolicy default/p -:5) spec.actoin"), "{}", output.out);
    let output = folder.run_as(Path::new(MIZZEN), &["analyze", "--meshConfigFile", "mesh.yaml", "-"], CONFIG_MAP);
    assert!(output.out.contains(" mesh.yaml:2) trustDomian: unknown field"), "{}\n{}", output.out, output.err);
    assert_eq!(output.code, 79);
}

#[test]
fn what_is_explained() {
    let folder = Folder::new(&[]);
    let output = folder.run(&["analyze", "-L"]);
    assert!(output.code == 0 && output.out.contains("* gateway.SecretAnalyzer:\n    "), "{}", output.out);
    for name in ["IST0101", "ReferencedResourceNotFound", "ist0101"] {
        let output = folder.run(&["analyze", "--explain", name]);
        assert!(output.code == 0 && output.out.contains("IST0101") && output.out.contains("ReferencedResourceNotFound"), "{}", output.out);
    }
    let output = folder.run(&["analyze", "--explain", "IST010l"]);
    assert!(output.code == 1 && output.err.contains("there is no code `IST010l`, did you mean IST010"), "{}", output.err);
}

/// The large configurations of crate `analyze`, of which nothing is said but overviews.
#[test]
fn clean_configurations() {
    let folder = Folder::new(&[]);
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../analyze/cases/clean");
    let mut count = 0;
    for case in fs::read_dir(cases).expect("a folder") {
        let path = case.expect("an entry").path();
        let output = folder.run(&["analyze", "--failure-threshold", "info", path.to_str().expect("a path")]);
        assert!(output.code == 0, "{}\n{}", output.out, output.err);
        assert!(output.err.contains("✔ No validation issues found"), "overviews are no issues: {}", output.err);
        count += 1;
    }
    assert!(count > 3, "{count}");
}

#[test]
fn objects_by_themselves() {
    let folder = Folder::new(&[
        ("all/good.yaml", CONFIG_MAP),
        ("all/deep/also.json", r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}"#),
        ("bad.yaml", &bad("{name: p}")),
        ("widget.yaml", "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}\n"),
    ]);
    let check = |args: &[&str], input: &str, code: i32, out: &str, err: &[&str]| {
        let output = folder.run_as(Path::new(MIZZEN), &[&["validate"], args].concat(), input);
        assert_eq!((output.code, &*output.out), (code, out), "{args:?}\n{}", output.err);
        assert_eq!(output.err.lines().count(), err.len(), "{args:?}\n{}", output.err);
        for (line, start) in output.err.lines().zip(err) {
            assert!(line.starts_with(start), "{args:?}: {line}");
        }
    };
    let all = "all/deep/also.json is valid: one object\nall/good.yaml is valid: one object\n";
    check(&["-f", "all"], "", 0, all, &[]);
    check(&["all/deep", "all"], "", 0, all, &[]);
    let problem = "refused: bad.yaml:5: AuthorizationPolicy default/p: spec.actoin: unknown field";
    check(&["-f", "bad.yaml,all/good.yaml"], "", 1, "all/good.yaml is valid: one object\n", &[problem]);
    check(&["-f", "-"], CONFIG_MAP, 0, "standard input is valid: one object\n", &[]);
    check(&["-"], &bad("{name: p}"), 1, "", &["refused: -:5: AuthorizationPolicy default/p: spec.actoin"]);
    check(&["widget.yaml"], "", 0, "widget.yaml is valid: one object\n", &["warning: widget.yaml:2: kind: "]);
    check(&[], "", 1, "", &["mizzen: no files are named"]);
    check(&["-f", "none.yaml"], "", 1, "", &["mizzen: none.yaml: there is no such file or folder"]);
}

/// Scripts that were written for Istio's program find its words under its name.
#[test]
fn policies_of_the_network() {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  rules:\n  - to:\n    - operation: \
                  {methods: [GET]}\n    from:\n    - source: {namespaces: [front]}\n";
    let folder = Folder::new(&[("a.yaml", policy), ("good.yaml", CONFIG_MAP), ("deep/b.yaml", policy)]);
    let check = |args: &[&str], code: i32, out: &[&str], err: &str| {
        let output = folder.run(&[&["netpol"], args].concat());
        assert_eq!(output.code, code, "{args:?}\n{}{}", output.out, output.err);
        assert!(out.iter().all(|part| output.out.contains(part)), "{args:?}\n{}", output.out);
        assert!(output.err.contains(err), "{args:?}\n{}", output.err);
        output.out
    };
    let told = "a.yaml:6: AuthorizationPolicy default/p: spec.rules[0]: L4 does not show to[0].operation.methods";
    let yaml = check(&["a.yaml"], 0, &["kind: NetworkPolicy", "name: mizzen-allow.p", "kubernetes.io/metadata.name: front"], told);
    assert_eq!(yaml, check(&["--use-kube=false", "a.yaml"], 0, &[], ""));
    check(&["-n", "shop", "a.yaml"], 0, &["namespace: shop"], "AuthorizationPolicy shop/p");
    check(&["-R", "."], 0, &["mizzen-allow.p"], "");
    let list: Value = serde_json::from_str(&check(&["-o", "json", "a.yaml"], 0, &[], "")).expect("JSON");
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&"List".into(), Some(1)));
    assert_eq!(check(&["good.yaml"], 0, &[], "no NetworkPolicy is written"), "");
    check(&["missing.yaml"], 1, &[], "missing.yaml: there is no such file or folder");
    check(&[], 1, &[], "name files or folders to look at them, or start a mesh with `mizzen up DIR`");
    check(&["--egress-through", "x", "a.yaml"], 2, &[], "is not NAMESPACE/LABEL=VALUE, such as istio-system/istio=egressgateway");
}

#[test]
fn as_istioctl() {
    let folder = Folder::new(&[("bad.yaml", &bad("{name: p}")), ("good.yaml", CONFIG_MAP)]);
    let istioctl = folder.path("istioctl");
    symlink(MIZZEN, &istioctl).expect("a link");
    let check = |args: &[&str], code: i32, expected: &str| {
        let output = folder.run_as(&istioctl, args, "");
        assert_eq!(output.code, code, "{args:?}\n{}{}", output.out, output.err);
        assert!((output.out.clone() + &output.err).contains(expected), "{args:?}\n{}{}", output.out, output.err);
    };
    check(&["analyze", "--help"], 0, "Usage: istioctl analyze ");
    check(&["analyze", "--use-kube=false", "bad.yaml"], 79, "Error [IST0106] ");
    check(&["validate", "-f", "good.yaml"], 0, "good.yaml is valid");
    check(&["validate", "-f", "bad.yaml"], 1, "spec.actoin");
    check(&["proxy-status", "--help"], 0, "Usage: istioctl proxy-status ");
    check(&["ps"], 1, "no mesh is running here");
    check(&["x", "authz", "check", "--help"], 0, "Usage: istioctl x authz check ");
    check(&["experimental", "authz", "check", "web"], 1, "no mesh is running here");
    check(&["proxy-config", "cluster", "--help"], 0, "Usage: istioctl proxy-config cluster [OPTIONS] ");
    check(&["completion", "bash"], 0, "_istioctl()");
    check(&["nonsense"], 64, "nonsense");
    let output = folder.run(&["completion", "bash"]);
    assert!(output.out.contains("_mizzen()") && output.out.contains("--failure-threshold"), "completion knows the new verbs");
}

/// Of two rules that are the same, one goes.
const TWICE: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  # who looks
  rules:
  - to:
    - operation: {methods: [GET]}   # only
  - to:
    - operation: {methods: [GET]}
  # and who pays
  - to:
    - operation: {methods: [POST]}
";

#[test]
fn what_can_be_mended() {
    let flow = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: f, namespace: shop}, \
                spec: {rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {methods: [GET]}}]}]}}\n";
    let folder = Folder::new(&[("twice.yaml", TWICE), ("flow.yaml", flow), ("good.yaml", CONFIG_MAP)]);
    let output = folder.run(&["analyze", "--fix", "twice.yaml", "flow.yaml"]);
    let diff = "\
--- a/twice.yaml
+++ b/twice.yaml
@@ -6,8 +6,6 @@
   rules:
   - to:
     - operation: {methods: [GET]}   # only
-  - to:
-    - operation: {methods: [GET]}
   # and who pays
   - to:
     - operation: {methods: [POST]}
";
    assert_eq!(output.out, diff, "{}", output.err);
    assert!(output.err.contains("left: flow.yaml:1 AuthorizationPolicy shop/f MZ0104: it is written in braces"), "{}", output.err);
    assert!(output.err.contains("one change in one file would mend what is found; one finding left"), "{}", output.err);
    assert_eq!((folder.read("twice.yaml"), output.code), (TWICE.to_owned(), 0), "nothing is written");
    let mended = TWICE.replacen("  - to:\n    - operation: {methods: [GET]}\n", "", 1);
    for said in ["one change in one file made", "Nothing is mended"] {
        let output = folder.run(&["analyze", "--fix", "--write", "twice.yaml"]);
        assert!(output.err.contains(said) && !output.out.contains("MZ0104"), "{}\n{}", output.out, output.err);
        assert_eq!(folder.read("twice.yaml"), mended, "what is mended stays so");
    }
    let output = folder.run_as(Path::new(MIZZEN), &["analyze", "--fix", "--write", "-"], TWICE);
    assert!(output.code == 1 && output.err.contains("standard input cannot be changed"), "{}", output.err);
    let output = folder.run_as(Path::new(MIZZEN), &["analyze", "--fix", "-"], TWICE);
    assert_eq!(output.out, diff.replace("twice.yaml", "-"), "{}", output.err);
}

#[test]
fn on_a_running_mesh() {
    let mesh = Mesh::start(MIZZEN, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookshop"));
    let policy = |method: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: lower, namespace: shop}}\nspec:\n  action: DENY\n  \
             rules:\n  - to: [{{operation: {{methods: [{method}]}}}}]\n"
        )
    };
    let is_told = |args: &[&str]| {
        let output = mesh.cli(&[&["analyze", "--failure-threshold=warning"], args].concat());
        let line = output.out.lines().find(|line| line.contains("[MZ0103]") && line.contains("shop/lower")).map(str::to_owned);
        assert!(line.is_none() || output.code == 79, "{}\n{}", output.out, output.err);
        line.ok_or(output.out + &output.err)
    };
    assert!(is_told(&[]).is_err());
    mesh.save("lower.yaml", &policy("delete"));
    eventually("what is wrong is found", || is_told(&[]).and_then(|line| line.contains("lower.yaml:7").then_some(()).ok_or(line)));
    // Files are laid over what there is.
    let folder = Folder::new(&[("lower.yaml", &policy("DELETE")), ("other.yaml", CONFIG_MAP)]);
    let at = |name: &str| folder.path(name).to_str().expect("a path").to_owned();
    assert!(is_told(&[&at("lower.yaml")]).is_err());
    assert!(is_told(&[&at("other.yaml")]).is_ok());
    assert!(is_told(&["--use-kube=false", &at("other.yaml")]).is_err());
    mesh.save("lower.yaml", &policy("DELETE"));
    eventually("what is mended is told no more", || if is_told(&[]).is_err() { Ok(()) } else { Err(mesh.said()) });
}
