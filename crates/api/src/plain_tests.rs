//! Held against the library.

use proptest::prelude::*;

use super::*;

/// All of a node on one line, places included.
fn show(node: &Node) -> String {
    let value = match &node.value {
        Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entry = |entry: &Entry| format!("{}:{} {:?}: {}", entry.line, entry.column, entry.key, show(&entry.value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    };
    format!("{}:{} {value}", node.line, node.column)
}

/// What is read here is what the library reads, places included; whether it was.
#[track_caller]
fn is_plain(text: &str) -> bool {
    let Some(node) = parse(text, 7) else { return false };
    match Node::parse_any(text, 7, false) {
        Ok(other) => assert_eq!(show(&node), show(&other), "{text}"),
        Err(error) => panic!("{text}: the library says {}", error.message),
    }
    true
}

#[test]
fn is_read_as_the_library_reads_it() {
    for text in [
        "a: 1",
        "a: 1\nb:\n  c: d\n  e:\n  - f\n  - g: h\n    i: j\nk: l # m\n",
        "# c\n\n  a:\n   - b\n   -   c: d\n       e: f\n   - - g\n     - h\n  i:\n  j:\n",
        "- a\n- b:\n  c:\n-\n  d: e\n- # f\n  g: h\n",
        "a:\n- b\n- c\nd:\n\n# x\n  # y\n- e\n",
        "a: {b: c, d: [e, {f: 1}], \"g\": 'h'} # i\nj: []\nk: {}\n",
        "{\n  \"a\": [\n    1,\n    2 # b\n  ],\n  \"c\":{\"d\":\"e\\\"\\n\\u00e4\"},\n  \"f\": null\n}\n",
        "a: [\n  b,\n  c\n]\nd: {\n  e: f\n  }\n",
        "a:\n  b: [c,\n    d]\n",
        "a: |\n  one\n    two\n\n  # three\n\n\nb: |-\n  x\nc:\n- |\n d\n- e: |-\n     f\n  g: h\n",
        "a: it's\nb: 'it''s'\nc: \"it's\"\nd: 'say \"x\"'\ne: a\\b\nf: 'a\\b'\n\"g h\": 'i: # j'\n'k': \"\"\nl: ''\n",
        "a: b:c\nd: http://e/f?g=h#i\nj: k#l\nm: n, [o] {p} \"q\" 'r' & * ! | > % @ `\ns t : u\n",
        "[10.0.0.1:8080, a/b, a:b, http://c, /, _, $a, (b), ^c$]",
        "é: ü\nb: [ä, ö] # ß\nc: x ö\nd: \"€\"\n",
        "a: yes\nb: No\nc: on\nd: OFF\ne: y\nf: N\ng: true\nh: False\ni: null\nj: NULL\nk: ~\nl: nan\nm: inf\nn: Infinity\no: nil\n",
        "yes: 1\n12: 2\n1.5: 3\ntrue: 4\n0: 5\n",
        "a: 0\nb: -1\nc: 12345678\nd: 999999999999999999\ne: 10.0.0.1\nf: 5xx\ng: 10s\nh: 100Mi\ni: 0.5\nj: 12.25\nk: 1h30m\nl: 10:30\nm: 10/8\nn: 2026-01-31T12:00:00Z\n",
        "a: -x\nb: [--port, -v, --x=1]\n",
        "a: ./b\nc: .d\ne: f.\ng: ~h\ni: null-x\n",
        "a\n",
        "[]",
        "\n\n  [a]\n\n# b",
        "a:   # b\n  c: d\n",
        "a: \"b\"   \nc: 'd' # e\n",
    ] {
        assert!(is_plain(text), "{text}");
    }
    for text in [include_str!("../tests/good.yaml"), include_str!("../../../samples/bookshop/catalogue.yaml")] {
        let documents = crate::text::documents(text);
        for document in documents.iter().filter(|document| !document.text.contains("0o400")) {
            assert!(is_plain(&document.text), "{}", document.text);
        }
    }
}

#[test]
fn is_left_to_the_library() {
    for text in [
        "",
        "# only\n",
        "a: &b c",
        "a: *b",
        "a: !!str b",
        "<<: {a: b}",
        "? a\n: b",
        "a: b\n  c",
        "a: \"b\n  c\"",
        "a: >\n  b\n",
        "a: |+\n  b\n",
        "a: |2\n  b\n",
        "a: |\n  b",
        "a: |\nb: c\n",
        "a: |\n    b\n  c\n",
        "a: 1\na: 2\n",
        "a: {b: 1, b: 2}",
        "a: b: c",
        "a: [b: c]",
        "a: {b}",
        "a: {b:1}",
        "a: [b, ]",
        "a: [b c\n d]",
        "a: [b",
        "a:\n\t- b",
        "a: b\tc",
        "a: b\r\nc: d\r\n",
        "a: b\n c: d\n",
        "  a: b\nc: d\n",
        "- a\nb: c\n",
        "a: - b",
        "- a\n-\n- b\n",
        "- \n",
        "a: \"b\" c",
        "a: \"\\x41\"",
        "a: \"\\ud83d\\ude00\"",
        "\"a\":b",
        "{a: b}: c",
        "null: a",
        "~: a",
        ": a",
        "a: 012",
        "a: 0x1f",
        "a: 1_000",
        "a: 1e5",
        "a: +1",
        "a: -.5",
        "a: -.inf",
        "--- a",
        "a: .5",
        "a: .inf",
        "a: 99999999999999999999",
        "...\na: b",
        "%YAML 1.2\na: b\n",
        "a: @b",
        "a: b\u{2028}c",
        "a: \u{feff}",
        &"[".repeat(60),
        &format!("{}: a", "x".repeat(2000)),
    ] {
        assert!(parse(text, 0).is_none(), "{text}");
    }
}

/// What this module knows, and what it must not take for that.
const PARTS: &[&str] = &[
    "a", "b: ", "c:", "d: e", "- ", "-", "[", "]", "{", "}", ", ", ",", ": ", ":", "'", "\"", "\\", "\\n", "\\\"", "|\n", "|-\n", ">\n",
    "#", " #", "# x\n", "\n", "\n", "\n ", "\n  ", "\n    ", "\n- ", "\n  - ", " ", "  ", "1", "-1", "1.5", ".", "..", "/", "~", "--x",
    "null", "yes", "0", "x y", "&a ", "*a", "!t ", "? ", "<<: ", "%", "@", "`", "é", "=", "+", "\"q\"", "'r'", "\"k\": ", "{m: n}",
    "[o, p]", "\n...\n",
];

/// A line of a document, below others.
fn line() -> impl Strategy<Value = String> {
    const SCALARS: &[&str] = &[
        "x",
        "1",
        "true",
        "~",
        "'q'",
        "\"d\"",
        "[1, a]",
        "{k: v}",
        "10.0.0.1",
        "|\n      lit\n       eral",
        "a: b",
        "",
        "# c",
        "[a,\n  b]",
        "{a: b,\n c: d}",
    ];
    const KEYS: &[&str] = &["", "a: ", "b: ", "c:", "\"d\": ", "- ", "- a: ", "-  b: ", "- - ", "- c:"];
    const AFTER: &[&str] = &["\n", " # c\n", "\n\n", " \n", "\n# x\n", "\n   # y\n"];
    (0_usize..5, prop::sample::select(KEYS), prop::sample::select(SCALARS), prop::sample::select(AFTER))
        .prop_map(|(indent, key, scalar, after)| format!("{}{key}{scalar}{after}", " ".repeat(indent)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts(parts in prop::collection::vec(prop::sample::select(PARTS), 0..14)) {
        is_plain(&parts.concat());
    }

    #[test]
    fn lines(lines in prop::collection::vec(line(), 0..6)) {
        is_plain(&lines.concat());
    }

    /// A good text in which a few characters are others.
    #[test]
    fn damaged(document in any::<prop::sample::Index>(), damages in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..6, prop::sample::select(PARTS)), 1..4)) {
        let documents = crate::text::documents(include_str!("../tests/good.yaml"));
        let mut text = document.get(&documents).text.to_string();
        for (at, length, part) in damages {
            let at = at.index(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary((at + length).min(text.len())) {
                text.replace_range(at..(at + length).min(text.len()), part);
            }
        }
        is_plain(&text);
    }
}
