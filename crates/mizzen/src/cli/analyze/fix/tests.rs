use mizzen_analyze::Code;

use super::*;

fn set(path: &str, value: &str) -> Fix {
    Fix::Set { path: path.to_owned(), value: value.to_owned() }
}

fn remove(path: &str) -> Fix {
    Fix::Remove { path: path.to_owned() }
}

fn rename(path: &str, key: &str) -> Fix {
    Fix::Rename { path: path.to_owned(), key: key.to_owned() }
}

fn file(text: &str) -> File {
    File { name: "a.yaml".into(), path: None, text: text.to_owned() }
}

/// Messages of the text's objects, the numbered one of them each.
fn messages(text: &str, fixes: &[(usize, Fix)]) -> Vec<Message> {
    let mut ids = Vec::new();
    items(text, &"a.yaml".into(), "default", &mut |item| ids.push((item.id.clone(), item.pos.clone())));
    let code = Code::named("IST0133").expect("a code");
    let message = |(number, fix): &(usize, Fix)| {
        let (id, pos) = ids[*number].clone();
        Message { code, id, pos, field: String::new(), text: String::new(), fix: Some(fix.clone()) }
    };
    fixes.iter().map(message).collect()
}

/// What becomes of a text, and why changes of it are left.
fn changed(text: &str, fixes: &[(usize, Fix)]) -> (String, Vec<String>) {
    let messages = messages(text, fixes);
    let plan = plan(&[file(text)], "default", &messages.iter().collect::<Vec<_>>());
    let new = plan.texts().next().map_or_else(|| text.to_owned(), |(_, text)| text);
    (new, plan.left.into_iter().map(|(_, why)| why).collect())
}

const OBJECT: &str = "\
# What it is for.
apiVersion: v1
kind: Service
metadata:
  name: web   # its name
  annotations:
    a: \"1\"   # why

    # of the next
    b/c: 'it''s'
  labels:
spec:
  hosts:
  - one   # the first
  # between
  - two
  text: |
    a: 2
  http:
  - name: x
    # about the timeout
    timeout: 1s
  - timeout: 2s
  flow: {a: 1, b: [1, 2]}
  anchor: &it
    deep: 1
  alias: *it
";

#[test]
fn lines_change_and_nothing_else() {
    let check = |fix: Fix, old: &str, new: &str| {
        assert!(OBJECT.contains(old), "{old}");
        let (text, left) = changed(OBJECT, &[(0, fix.clone())]);
        assert_eq!((text, left), (OBJECT.replacen(old, new, 1), vec![]), "{fix:?}");
    };
    check(rename("metadata.name", "nom"), "  name: web ", "  nom: web ");
    check(rename("metadata.annotations[\"b/c\"]", "b/d"), "b/c: 'it", "b/d: 'it");
    check(set("metadata.name", "shop"), "name: web   # its", "name: shop   # its");
    check(set("metadata.annotations.a", "\"2\""), "a: \"1\"   # why", "a: \"2\"   # why");
    check(set("metadata.annotations[\"b/c\"]", "x"), "'it''s'", "x");
    check(set("spec.hosts[0]", "three"), "- one   #", "- three   #");
    check(set("spec.http[1].timeout", "5s"), "- timeout: 2s", "- timeout: 5s");
    check(set("spec.http[0].retries.attempts", "3"), "timeout: 1s\n", "timeout: 1s\n    retries:\n      attempts: 3\n");
    check(set("metadata.labels.app", "web"), "  labels:\n", "  labels:\n    app: web\n");
    check(set("metadata.namespace", "shop"), "  labels:\n", "  labels:\n  namespace: shop\n");
    check(remove("metadata.annotations.a"), "    a: \"1\"   # why\n", "");
    check(remove("metadata.annotations"), &OBJECT[OBJECT.find("  annotations").unwrap()..OBJECT.find("  labels").unwrap()], "");
    check(remove("spec.hosts[1]"), "  - two\n", "");
    check(remove("spec.text"), "  text: |\n    a: 2\n", "");
    check(
        remove("spec.http[0].name"),
        "  - name: x\n    # about the timeout\n    timeout: 1s\n",
        "    # about the timeout\n  - timeout: 1s\n",
    );
    check(remove("spec.http[1].timeout"), "  - timeout: 2s\n", "");
}

#[test]
fn what_is_left() {
    let check = |fix: Fix, why: &str| {
        let (text, left) = changed(OBJECT, &[(0, fix.clone())]);
        assert_eq!(text, OBJECT, "{fix:?}");
        assert!(left.len() == 1 && left[0].contains(why), "{fix:?}: {left:?}");
    };
    check(set("spec.flow.a", "2"), "braces or brackets");
    check(rename("spec.flow.b", "c"), "braces or brackets");
    check(remove("spec.flow.b[0]"), "braces or brackets");
    check(set("spec.flow", "2"), "no scalar");
    check(set("spec.text", "2"), "several lines");
    check(set("spec.anchor.deep", "2"), "");
    check(set("spec.alias.deep", "2"), "");
    check(set("spec.none[3].x", "2"), "cannot be found");
    check(remove("spec.none"), "cannot be found");
    check(rename("spec.text", "hosts"), "");
    check(set("", "2"), "cannot be found");
    let (_, left) = changed("kind: Service\n", &[(0, remove("kind"))]);
    assert_eq!(left, ["nothing of the object would be left"]);
}

#[test]
fn several_objects_and_changes() {
    let text = "\
kind: Service
apiVersion: v1
metadata: {name: flow}
---
# the second
kind: Service
apiVersion: v1
metadata:
  name: b\r
  labels:\r
    x: 1\r
...
--- # the list
kind: List
apiVersion: v1
items:
- kind: Service
  apiVersion: v1
  metadata:
    name: c
- kind: Service
  apiVersion: v1
  metadata:
    name: d";
    let fixes = [
        (0, set("metadata.name", "x")),
        (1, set("metadata.labels.y", "2")),
        (1, set("metadata.labels.y", "2")),
        (1, remove("metadata.labels.x")),
        (3, set("metadata.namespace", "shop")),
        (2, rename("metadata.name", "nom")),
    ];
    let (new, left) = changed(text, &fixes);
    assert_eq!(left, ["it is written in braces or brackets"]);
    let expected = text.replace("    x: 1\r\n", "    y: 2\r\n").replace("    name: c", "    nom: c") + "\n    namespace: shop\n";
    assert_eq!(new, expected);
    let (again, left) = changed(&new, &[(1, set("metadata.labels.y", "2"))]);
    assert_eq!((again, left.len()), (new, 0));
    let all = messages(text, &fixes);
    let plan = plan(&[file(text)], "default", &all.iter().collect::<Vec<_>>());
    assert_eq!(plan.summary("made", ""), "4 changes in one file made; one finding left.");
    assert!(plan.diff().starts_with("--- a/a.yaml\n+++ b/a.yaml\n@@ "), "{}", plan.diff());
    assert_eq!(plan.write().expect_err("no file").to_string(), "--write: standard input cannot be changed");
}

#[test]
fn files_are_replaced_whole() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().expect("a folder");
    let (path, link) = (folder.path().join("a.yaml"), folder.path().join("link.yaml"));
    fs::write(&path, "old\n").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("rights");
    symlink(&path, &link).expect("a link");
    replace(&link, "old\n", "new\n").expect("a change");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "new\n");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    assert!(replace(&path, "old\n", "newer\n").expect_err("a fault").to_string().contains("has changed since"));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "nothing else is left there");
}
