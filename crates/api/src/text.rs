//! Where documents begin and end in a text, and what one that is no YAML was probably meant to be.

use std::borrow::Cow;

/// One document of a text.
pub(crate) struct Document<'a> {
    /// How many lines of the text stand before it.
    pub(crate) line: u32,
    pub(crate) text: Cow<'a, str>,
}

/// The documents that hold more than comments. A marker at the start of a line ends a document wherever it stands (YAML 1.2, 9.1.2), so
/// that a fault in one document leaves the others alone.
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        match marker(line) {
            Some(Marker::Start(rest)) => {
                push(&mut found, &text[start..at], start_line);
                (start, start_line) = if rest { (at, number) } else { (at + line.len(), number + 1) };
            }
            Some(Marker::End) => {
                push(&mut found, &text[start..at], start_line);
                (start, start_line) = (at + line.len(), number + 1);
            }
            None => {}
        }
        at += line.len();
    }
    push(&mut found, &text[start..], start_line);
    found
}

enum Marker {
    /// `---`; `true` if something other than a comment follows in the line.
    Start(bool),
    /// `...`
    End,
}

fn marker(line: &str) -> Option<Marker> {
    let rest = |marker| line.strip_prefix(marker).filter(|rest: &&str| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
    if let Some(rest) = rest("---") {
        let rest = rest.trim();
        return Some(Marker::Start(!rest.is_empty() && !rest.starts_with('#')));
    }
    rest("...").map(|_| Marker::End)
}

fn push<'a>(found: &mut Vec<Document<'a>>, text: &'a str, line: u32) {
    let idle = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%');
    if text.lines().all(idle) {
        return;
    }
    // The marker's width is kept, for the columns.
    let text = text.strip_prefix("---").map_or(Cow::Borrowed(text), |rest| Cow::Owned(format!("   {rest}")));
    found.push(Document { line, text });
}

/// What the lines of a broken document say that it is.
#[derive(Default)]
pub(crate) struct Guess<'a> {
    pub(crate) api_version: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: Option<&'a str>,
}

/// Looks for `kind:`, and for `name:` and `namespace:` directly below `metadata:`, in block style, in flow style and in JSON.
pub(crate) fn guess(text: &str) -> Guess<'_> {
    let mut guess = Guess { namespace: crate::metadata::DEFAULT_NAMESPACE, ..Guess::default() };
    let mut in_metadata = false;
    let mut indent = None;
    for line in text.lines() {
        if line.trim_start().starts_with(['{', '"']) {
            flow(line, &mut in_metadata, &mut guess);
            continue;
        }
        let depth = line.len() - line.trim_start_matches([' ', '\t']).len();
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        if key.starts_with('#') {
            continue;
        }
        if depth == 0 {
            (in_metadata, indent) = (key == "metadata", None);
            match key {
                "kind" => guess.kind = scalar(value),
                "apiVersion" => guess.api_version = scalar(value),
                "metadata" => flow(line, &mut false, &mut guess),
                _ => {}
            }
        } else if in_metadata && depth == *indent.get_or_insert(depth) {
            of_metadata(key, value, &mut guess);
        }
    }
    guess
}

/// The entries of a line in flow style, as far as its commas and braces tell them; what is nested below `metadata` is not told apart from it.
fn flow<'a>(line: &'a str, in_metadata: &mut bool, guess: &mut Guess<'a>) {
    for part in line.split([',', '{', '}']) {
        let Some((key, value)) = part.split_once(':') else { continue };
        match scalar(key) {
            "metadata" => *in_metadata = true,
            "spec" => *in_metadata = false,
            "kind" => guess.kind = scalar(value),
            "apiVersion" => guess.api_version = scalar(value),
            key if *in_metadata => of_metadata(key, value, guess),
            _ => {}
        }
    }
}

fn of_metadata<'a>(key: &str, value: &'a str, guess: &mut Guess<'a>) {
    match (key, scalar(value)) {
        (_, "") => {}
        ("name", value) => guess.name = Some(value),
        ("namespace", value) => guess.namespace = value,
        _ => {}
    }
}

fn scalar(text: &str) -> &str {
    text.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split() {
        for (text, expected) in [
            ("", vec![]),
            ("# only\n---\n---\n...\n", vec![]),
            ("a: 1", vec![(0, "a: 1")]),
            ("a: 1\n---\nb: 2\n", vec![(0, "a: 1\n"), (2, "b: 2\n")]),
            ("%YAML 1.2\n---\nb: 2\n", vec![(2, "b: 2\n")]),
            ("a: 1\n--- # c\nb: 2\n...\n", vec![(0, "a: 1\n"), (2, "b: 2\n")]),
            ("--- {a: 1}\n--- x\r\n", vec![(0, "    {a: 1}\n"), (1, "    x\r\n")]),
            ("a: |\n  ---\n  b\n----\n", vec![(0, "a: |\n  ---\n  b\n----\n")]),
            ("\u{feff}a: 1\r\n---\r\nb: 2", vec![(0, "a: 1\r\n"), (2, "b: 2")]),
        ] {
            let found: Vec<_> = documents(text).into_iter().map(|d| (d.line, d.text.into_owned())).collect();
            let expected: Vec<_> = expected.into_iter().map(|(line, text): (u32, &str)| (line, text.to_owned())).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn guesses() {
        let text = "kind: Service\nmetadata:\n  labels:\n    name: no\n  name: \"reviews\" # yes\n  namespace: shop\nspec:\n  name: no\n  broken: [\n";
        let found = guess(text);
        assert_eq!((found.kind, found.namespace, found.name), ("Service", "shop", Some("reviews")));
        assert_eq!(guess("x").name, None);
        for text in [
            "kind: Service\nmetadata: {labels: {app: x}, name: reviews, namespace: shop} # here\nspec: {name: no, broken: [\n",
            "{\"kind\": \"Service\", \"metadata\": {\"name\": \"reviews\", \"namespace\": \"shop\"}, \"spec\": {\"name\": \"no\", [}}",
            "{\n  \"kind\": \"Service\",\n  \"metadata\": {\n    \"name\": \"reviews\",\n    \"namespace\": \"shop\"\n  },\n  \"spec\": {\"name\": \"no\", [\n}",
            "\"kind\": Service\n\"metadata\":\n  \"name\": reviews\n  \"namespace\": shop\n\"spec\": [\n",
            "kind: Service\nmetadata:\n\tname: reviews\n\tnamespace: shop\nspec: [\n",
        ] {
            let found = guess(text);
            assert_eq!((found.kind, found.namespace, found.name), ("Service", "shop", Some("reviews")), "{text}");
        }
    }
}
