//! No text makes the reader panic, and every document is an object or says what is wrong with it.

use mizzen_api::{parse_documents, parse_mesh_config};
use proptest::prelude::*;

fn check(text: &str) {
    let file = "a.yaml".into();
    for object in parse_documents(text, &file).objects {
        match object {
            Ok(object) => {
                let again = parse_documents(&object.meta().source.to_json(), &file);
                if !matches!(object, mizzen_api::Object::MeshConfig(_)) {
                    assert_eq!(again.good().next(), Some(&object), "{:?}", again.problems().collect::<Vec<_>>());
                }
            }
            Err(refusal) => assert!(!refusal.problems.is_empty() && refusal.problems.iter().all(|p| !p.to_string().contains('\n'))),
        }
    }
    let _ = parse_mesh_config(text, &file);
    // The library reads what has a tab in a comment. It and our own reading of plain documents know the same objects.
    if text.ends_with('\n') {
        let library = parse_documents(&format!("{}#\t\n", text.replace("\n---\n", "\n#\t\n---\n")), &file);
        let good: Vec<_> = parse_documents(text, &file).objects.into_iter().filter_map(Result::ok).collect();
        assert_eq!(good, library.good().cloned().collect::<Vec<_>>(), "{text}");
    }
}

/// Words that lead deep into the readers.
const WORDS: &[&str] = &[
    "apiVersion: ",
    "kind: ",
    "metadata: ",
    "spec: ",
    "name: ",
    "hosts: ",
    "http: ",
    "route: ",
    "rules: ",
    "from: ",
    "source: ",
    "principals: ",
    "ports: ",
    "AuthorizationPolicy",
    "VirtualService",
    "ServiceEntry",
    "Service",
    "Deployment",
    "ConfigMap",
    "v1",
    "apps/v1",
    "networking.istio.io/v1",
    "security.istio.io/v1",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "<<: ",
    "'",
    "\"",
    "| ",
    "---\n",
    "1",
    "1s",
    "*",
    "null",
    "!!binary ",
    "? ",
    "é",
];

/// A line's end in the name of a field is none in what is said of it.
#[test]
fn a_line_is_one_line() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{\"b\\nc\": 1, port: 1}]}}";
    let all = parse_documents(text, &"a.yaml".into());
    let said: Vec<String> =
        all.objects.iter().filter_map(|object| object.as_ref().err()).flat_map(|r| r.problems.iter().map(ToString::to_string)).collect();
    assert_eq!(said, ["a.yaml:1: Service default/a: spec.ports[0].b\\nc: unknown field"]);
    check(text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn words(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60)) {
        check(&words.concat());
    }

    /// A good text with one stretch of it replaced.
    #[test]
    fn damaged(start in 0_usize..4000, length in 0_usize..40, middle in ".{0,12}") {
        let text = include_str!("good.yaml");
        let at = |n: usize| (n.min(text.len())..=text.len()).find(|n| text.is_char_boundary(*n)).unwrap_or(text.len());
        let (start, end) = (at(start % text.len()), at(start % text.len() + length));
        check(&format!("{}{middle}{}", &text[..start], &text[end..]));
    }
}
