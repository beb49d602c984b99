//! Messages as lines, JSON and YAML.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use mizzen_analyze::{Level, Message};
use serde_json::{Value, json};

/// How lines look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    /// With colours.
    pub(crate) colour: bool,
    /// On a terminal that is so many columns wide: lines are wrapped, and the lines that are spoken of stand below.
    pub(crate) width: Option<usize>,
}

/// Texts of files, by the names that messages have for them.
pub(crate) type Texts = BTreeMap<Arc<str>, String>;

/// What a line that goes on is indented by.
const INDENT: usize = 4;
/// Nothing is wrapped in a narrower terminal.
const NARROW: usize = 40;

/// One line for each message, as istioctl has it; on a terminal with what it is about.
pub(crate) fn lines(messages: &[&Message], look: Look, texts: &Texts) -> String {
    let mut all = String::new();
    for message in messages {
        let line = message.to_string();
        let line = match look.width {
            Some(width) => wrap(&line, width),
            None => line,
        };
        let level = message.code.level;
        let rest = line.strip_prefix(level.name()).unwrap_or(&line);
        let (before, after) = if look.colour { colours(level) } else { ("", "") };
        _ = writeln!(all, "{before}{level}{after}{rest}");
        if let Some(width) = look.width
            && let Some(text) = texts.get(&message.pos.file)
        {
            all += &excerpt(text, message.pos.line, message.pos.column, width, look.colour);
        }
    }
    all
}

/// Those of istioctl.
fn colours(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::Error => ("\u{1b}[1;31m", "\u{1b}[0m"),
        Level::Warning => ("\u{1b}[33m", "\u{1b}[0m"),
        Level::Info => ("", ""),
    }
}

/// Breaks a line between words; what is no word of its own (a path) is not broken.
fn wrap(line: &str, width: usize) -> String {
    if width < NARROW {
        return line.to_owned();
    }
    let (mut wrapped, mut used) = (String::new(), 0);
    for word in line.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            wrapped += "\n";
            wrapped += &" ".repeat(INDENT);
            used = INDENT;
        } else if used > 0 {
            wrapped.push(' ');
            used += 1;
        }
        wrapped += word;
        used += length;
    }
    wrapped
}

/// The line of a file, and a mark below its column.
fn excerpt(text: &str, line: u32, column: u32, width: usize, colour: bool) -> String {
    let Some(found) = line.checked_sub(1).and_then(|line| text.lines().nth(line as usize)) else { return String::new() };
    let number = format!("{line:>5} | ");
    let room = width.saturating_sub(number.len()).max(1);
    // What a terminal would act on is not shown to it.
    let shown: Vec<char> = found.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let cut: String = match shown.len() > room {
        true => shown.iter().take(room - 1).chain(['…'].iter()).collect(),
        false => shown.iter().collect(),
    };
    let mut all = format!("{number}{cut}\n");
    let at = column.saturating_sub(1) as usize;
    if column > 0 && at < room && at < shown.len() {
        let word = shown[at..].iter().take_while(|c| !c.is_whitespace()).count();
        let word = if shown[at..].get(word.saturating_sub(1)) == Some(&':') { word - 1 } else { word };
        let marks = "^".repeat(word.clamp(1, room - at));
        let (before, after) = if colour { ("\u{1b}[36m", "\u{1b}[0m") } else { ("", "") };
        _ = writeln!(all, "      | {}{before}{marks}{after}", " ".repeat(at));
    }
    all
}

/// Where Istio says more of its codes.
const PAGES: &str = "https://istio.io/latest/docs/reference/config/analysis";

/// The page of a code of Istio; those of this project have none.
pub(crate) fn page(message: &Message) -> Option<String> {
    let id = message.code.id;
    id.starts_with("IST").then(|| format!("{PAGES}/{}/", id.to_lowercase()))
}

/// A list with istioctl's fields, in its order.
pub(crate) fn value(messages: &[&Message]) -> Value {
    let one = |message: &&Message| {
        let mut fields = vec![("code", json!(message.code.id))];
        fields.extend(page(message).map(|page| ("documentationUrl", json!(page))));
        fields.push(("level", json!(message.code.level.name())));
        fields.push(("message", json!(message.text)));
        fields.push(("origin", json!(message.id.to_string())));
        if !message.pos.file.is_empty() {
            fields.push(("reference", json!(message.pos.to_string())));
        }
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<serde_json::Map<_, _>>().into()
    };
    messages.iter().map(one).collect::<Vec<Value>>().into()
}

#[cfg(test)]
mod tests {
    use super::{super::select::tests::message, *};

    #[test]
    fn on_a_terminal() {
        let text = "1\n2\n3\n4\n5\n6\n  hosts: revews # a\u{7}nd more of the line than there is room for\n";
        let texts = Texts::from([("a.yaml".into(), text.to_owned())]);
        let mut one = message("IST0101", "VirtualService", "shop", "reviews");
        one.text = "there is no host that is called so by anybody".into();
        let check = |look: Look, expected: &str| assert_eq!(lines(&[&one], look, &texts), expected, "{look:?}");
        let plain = "Error [IST0101] (VirtualService shop/reviews a.yaml:7) there is no host that is called so by anybody\n";
        check(Look::default(), plain);
        check(Look { colour: true, width: None }, &plain.replace("Error", "\u{1b}[1;31mError\u{1b}[0m"));
        check(
            Look { colour: false, width: Some(46) },
            "\
Error [IST0101] (VirtualService shop/reviews
    a.yaml:7) there is no host that is called
    so by anybody
    7 |   hosts: revews # a nd more of the li…
      |   ^^^^^
",
        );
        one.pos.column = 10;
        assert!(lines(&[&one], Look { colour: false, width: Some(80) }, &texts).ends_with("      |          ^^^^^^\n"));
        for (line, column) in [(0, 0), (8, 1), (900, 3)] {
            (one.pos.line, one.pos.column) = (line, column);
            assert_eq!(lines(&[&one], Look { colour: false, width: Some(200) }, &texts).lines().count(), 1, "{line}:{column}");
        }
    }

    #[test]
    fn for_programs() {
        let (mut istio, mut own) = (message("IST0101", "VirtualService", "shop", "reviews"), message("MZ0108", "Namespace", "", "shop"));
        own.pos = Default::default();
        istio.text = "it is \"wrong\"".into();
        let expected = json!([
            {
                "code": "IST0101",
                "documentationUrl": "https://istio.io/latest/docs/reference/config/analysis/ist0101/",
                "level": "Error",
                "message": "it is \"wrong\"",
                "origin": "VirtualService shop/reviews",
                "reference": "a.yaml:7",
            },
            {"code": "MZ0108", "level": "Info", "message": "it is wrong", "origin": "Namespace shop"},
        ]);
        assert_eq!(value(&[&istio, &own]), expected);
        assert_eq!(value(&[]), json!([]));
    }
}
