//! The source on a real disk.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

fn account(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, labels: {{a: {label}}}}}\n")
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(objects: &[Arc<Object>]) -> Vec<String> {
    objects.iter().map(|object| object.meta().name.to_string()).collect()
}

#[test]
fn once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "b.yaml", &account("b", "x"));
    write(at, "sub/a.yml", &account("a", "x"));
    write(at, "sub/deep/j.json", "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"ServiceAccount\",\n\t\"metadata\": {\"name\": \"j\"}\n}\n");
    for name in [".b.yaml", "b.yaml~", "b.yaml.swp", "#b.yaml#", "4913", ".git/c.yaml", "README.md"] {
        write(at, name, "x: [");
    }
    write(at, "bad.yaml", "kind: Service\n");
    fs::write(at.join("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
    // A circle of links, and a link to nowhere.
    symlink(at, at.join("sub/up")).unwrap();
    symlink(at.join("nowhere"), at.join("none.yaml")).unwrap();
    let loaded = load_once(&[at.to_owned()]);
    assert_eq!(names(&loaded.objects), ["b", "a", "j"]);
    let problems: Vec<_> = loaded.problems.iter().map(|p| p.to_string().replace(at.to_str().unwrap(), "AT")).collect();
    assert_eq!(problems, ["AT/bad.yaml:1: apiVersion: is required", "AT/binary.yaml: is not UTF-8 text, from byte 0 on",]);
    let missing = load_once(&[at.join("missing")]);
    assert_eq!((missing.objects.len(), missing.problems.len()), (0, 1));
    assert_eq!(names(&load_once(&[at.join("b.yaml")]).objects), ["b"]);
}

/// Takes events until one is as asked for.
async fn until(files: &mut Files, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    let all = async {
        while let Some(event) = files.next().await {
            let last = wanted(&event);
            events.push(event);
            if last {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("the event");
    events
}

fn applies(name: &'static str, label: &'static str) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Apply(object) if &*object.meta().name == name && object.meta().labels["a"] == label)
}

#[tokio::test]
async fn follows() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "a.yaml", &account("a", "x"));
    let mut files =
        Files::follow(Options { delete_after: Duration::from_millis(50), ..Options::new(vec![at.to_owned(), at.join("../later")]) });
    until(&mut files, |event| *event == Event::InitDone).await;
    // Written in place, by renaming, in a new folder; then removed.
    write(at, "a.yaml", &account("a", "written"));
    until(&mut files, applies("a", "written")).await;
    write(at, ".a.yaml.new", &account("a", "renamed"));
    fs::rename(at.join(".a.yaml.new"), at.join("a.yaml")).unwrap();
    until(&mut files, applies("a", "renamed")).await;
    write(at, "sub/b.yaml", &account("b", "x"));
    until(&mut files, applies("b", "x")).await;
    fs::rename(at.join("sub"), at.join("other")).unwrap();
    let moved = until(&mut files, applies("b", "x")).await;
    assert!(!moved.iter().any(|event| matches!(event, Event::Delete(_))), "{moved:?}");
    fs::remove_dir_all(at.join("other")).unwrap();
    until(&mut files, |event| matches!(event, Event::Delete(key) if &*key.name == "b")).await;
    write(at, "a.yaml", "x: [");
    let broken = until(&mut files, |event| matches!(event, Event::Refused(refused) if refused.kept)).await;
    assert_eq!(broken.len(), 1);
}

#[tokio::test]
async fn what_a_link_leads_to_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (at, outside) = (folder.path().join("config"), folder.path().join("outside.yaml"));
    fs::create_dir(&at).unwrap();
    write(folder.path(), "outside.yaml", &account("a", "x"));
    symlink(&outside, at.join("a.yaml")).unwrap();
    let mut files = Files::follow(Options::new(vec![at.clone()]));
    until(&mut files, |event| *event == Event::InitDone).await;
    // The kernel says nothing of this.
    write(folder.path(), "outside.yaml", &account("a", "changed"));
    until(&mut files, applies("a", "changed")).await;
    // Another folder under the same name.
    fs::create_dir(folder.path().join("new")).unwrap();
    write(&folder.path().join("new"), "a.yaml", &account("a", "other"));
    fs::rename(&at, folder.path().join("old")).unwrap();
    fs::rename(folder.path().join("new"), &at).unwrap();
    until(&mut files, applies("a", "other")).await;
}

/// Reads all, and ends once the thread has ended too.
async fn start(options: &Options) -> Vec<Event> {
    let mut files = Files::follow(options.clone());
    let mut events = until(&mut files, |event| *event == Event::InitDone).await;
    files.stop();
    while let Some(event) = files.next().await {
        events.push(event);
    }
    events
}

fn objects(events: &[Event]) -> Vec<Arc<Object>> {
    let apply = |event: &Event| match event {
        Event::Apply(object) if !matches!(**object, Object::Secret(_)) => Some(object.clone()),
        _ => None,
    };
    let mut objects: Vec<_> = events.iter().filter_map(apply).collect();
    objects.sort_by_key(|object| object.key());
    objects
}

#[tokio::test]
async fn remembers() {
    let folder = tempfile::tempdir().unwrap();
    let (at, kept) = (folder.path().join("config"), folder.path().join("last-good"));
    let mesh =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    trustDomain: a.example\n";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: unwritten}\n";
    // As long as Kubernetes allows.
    let long = ["a"; 4].map(|letter| letter.repeat(62)).join(".");
    write(&at, "a.yaml", &format!("{}---\n{}---\n{mesh}---\n{secret}", account("a", "x"), account(&long, "x")));
    // Beside a secret, in a list and in a comment.
    let item = |text: &str| format!("- {}", text.trim_end().replace('\n', "\n  "));
    write(&at, "list.yaml", &format!("apiVersion: v1\nkind: List\nitems:\n{}\n{}\n", item(secret), item(&account("listed", "x"))));
    write(&at, "comment.yaml", &format!("# stringData: {{a: unwritten}}\n{}", account("commented", "x")));
    let options = Options { last_good: Some(kept.clone()), ..Options::new(vec![at.clone()]) };
    let first = start(&options).await;
    let log = |text: &str| fs::read_to_string(kept.join("last-good.log")).unwrap().matches(text).count();
    assert_eq!((objects(&first).len(), log("unwritten"), log("ServiceAccount\",\"namespace")), (6, 0, 4));
    // Nothing is written again that is there already.
    let written = || (fs::metadata(kept.join("last-good.log")).unwrap().modified().unwrap(), log(""));
    let before = written();
    assert_eq!(start(&options).await, first);
    assert_eq!(written(), before);
    for file in ["a.yaml", "list.yaml", "comment.yaml"] {
        write(&at, file, "x: [");
    }
    let second = start(&options).await;
    assert_eq!(objects(&first), objects(&second));
    let origins = |events: &[Event]| objects(events).iter().map(|object| object.meta().origin.line).collect::<Vec<_>>();
    assert_eq!(origins(&first), origins(&second));
    let place =
        |events: &[Event]| objects(events).iter().find(|object| *object.meta().name == *long).unwrap().meta().position("metadata.labels.a");
    assert_eq!(place(&first), place(&second));
}

#[tokio::test]
async fn what_is_kept_follows_what_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let (at, kept) = (folder.path().join("config"), folder.path().join("last-good"));
    let options = Options { last_good: Some(kept.clone()), delete_after: Duration::ZERO, ..Options::new(vec![at.clone()]) };
    let names = |events: &[Event]| {
        objects(events).iter().map(|object| format!("{}={}", object.meta().name, object.meta().labels["a"])).collect::<Vec<_>>()
    };
    write(&at, "a.yaml", &format!("{}---\n{}", account("a", "x"), account("b", "x")));
    write(&at, "c.yaml", &account("c", "x"));
    write(&at, "d.yaml", &account("d", "x"));
    start(&options).await;
    let log = kept.join("last-good.log");
    let whole = fs::read(&log).unwrap();
    // Changed while it runs, moved, deleted.
    let mut files = Files::follow(options.clone());
    until(&mut files, |event| *event == Event::InitDone).await;
    write(&at, "a.yaml", &account("a", "z"));
    until(&mut files, |event| matches!(event, Event::Delete(key) if &*key.name == "b")).await;
    fs::rename(at.join("c.yaml"), at.join("moved.yaml")).unwrap();
    fs::remove_file(at.join("d.yaml")).unwrap();
    until(&mut files, |event| matches!(event, Event::Delete(key) if &*key.name == "d")).await;
    drop(files);
    start(&options).await;
    for file in ["a.yaml", "c.yaml", "d.yaml", "moved.yaml"] {
        write(&at, file, "x: [");
    }
    assert_eq!(names(&start(&options).await), ["a=z", "c=x"]);
    // A record that was not written to its end is none; what is before it counts.
    fs::write(&log, [&whole[..], &whole[..whole.len() / 2 - 3]].concat()).unwrap();
    assert_eq!(names(&start(&options).await), ["a=x", "b=x", "c=x", "d=x"]);
    assert!(fs::read(&log).unwrap().starts_with(&whole));
    fs::write(&log, [0xff; 100]).unwrap();
    assert_eq!(names(&start(&options).await), Vec::<String>::new());
}

#[test]
fn what_the_sample_holds_has_an_effect() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookshop");
    let loaded = load_once(&[sample]);
    assert!(!loaded.objects.is_empty() && loaded.problems.is_empty());
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[test]
fn links_and_names_that_lead_nowhere_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: r, namespace: shop}, \
                 spec: {hosts: [a], http: [{redirect: {uri: /}}]}}";
    write(folder.path(), "rules.yaml", rules);
    symlink("nowhere", folder.path().join("link.yaml")).unwrap();
    let loaded = load_once(&[folder.path().to_owned()]);
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let at = folder.path().display();
    let link = format!("{at}/link.yaml: is a link that leads nowhere: what it should hold is not in force");
    let host = format!("{at}/rules.yaml:1: VirtualService shop/r: spec.hosts[0]: there is no service a.shop.svc.cluster.local");
    assert_eq!(warnings, [link, host]);
}

#[test]
fn each_source_remembers_for_itself() {
    let at = |followed: &str| files::last_good_of(Path::new("/kept"), Path::new(followed)).display().to_string();
    for (followed, expected) in [
        ("/etc/mesh", "/kept/%2Fetc%2Fmesh"),
        ("mesh", "/kept/mesh"),
        ("a%2Fb", "/kept/a%252Fb"),
        (".", "/kept/%."),
        ("..", "/kept/%.."),
        ("./mesh", "/kept/%.%2Fmesh"),
        ("", "/kept/%"),
    ] {
        assert_eq!(at(followed), expected);
    }
    let (long, longer) = (at(&"a/".repeat(100)), at(&"a/".repeat(101)));
    assert!(long != longer && long.len() == "/kept/0123456789abcdef".len(), "{long} {longer}");
}

/// What is renamed into its place does not wait for files to be quiet.
#[tokio::test]
async fn a_rename_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("mesh");
    write(&at, "a.yaml", &account("a", "x"));
    // Longer than the test would wait.
    let mut files = Files::follow(Options { settle: Duration::from_secs(600), ..Options::new(vec![at.clone()]) });
    until(&mut files, |event| matches!(event, Event::InitDone)).await;
    write(&at, ".a.yaml.new", &account("a", "z"));
    fs::rename(at.join(".a.yaml.new"), at.join("a.yaml")).unwrap();
    until(&mut files, |event| matches!(event, Event::Apply(object) if object.meta().labels["a"] == "z")).await;
}

/// One reading of what a control plane that follows the folders has in force.
#[tokio::test]
async fn as_a_control_plane_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = ["first", "second"].map(|name| folder.path().join(name));
    let kept = folder.path().join("kept");
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {rulez: []}}";
    write(&dirs[0], "a.yaml", &account("a", "first"));
    write(&dirs[1], "a.yaml", &account("a", "second"));
    write(&dirs[1], "b.yaml", &account("b", "good"));
    let options = Options { last_good: Some(files::last_good_of(&kept, &dirs[1])), ..Options::new(vec![dirs[1].clone()]) };
    start(&options).await;
    write(&dirs[1], "b.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: b, labels: [broken]}\n");
    write(&dirs[1], "p.yaml", policy);
    let said = |last_good: Option<&Path>| {
        let (changes, problems) = load_state(&dirs, last_good);
        let said = changes.iter().map(|change| match change {
            Change::Apply(object) => format!("{} {}", object.meta().name, object.meta().labels["a"]),
            Change::Close(closed) => format!("{} closed", closed.key.name),
            other => format!("{other:?}"),
        });
        let mut said: Vec<String> = said.collect();
        said.sort();
        (said, problems.len())
    };
    assert_eq!(said(Some(&kept)), (["a first", "b good", "p closed"].map(str::to_owned).to_vec(), 2));
    assert_eq!(said(None), (["a first", "p closed"].map(str::to_owned).to_vec(), 2));
}
