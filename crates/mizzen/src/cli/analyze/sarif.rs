//! Messages as SARIF 2.1.0, which code hosts show beside the lines.

use std::collections::BTreeMap;

use mizzen_analyze::{Code, Level, Message};
use serde_json::{Value, json};

use super::{explain, print::page};

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// One run with its rules, those that say something, and its results.
pub(crate) fn report(messages: &[&Message]) -> Value {
    let mut rules: BTreeMap<&str, &Message> = BTreeMap::new();
    for message in messages {
        rules.entry(message.code.id).or_insert(message);
    }
    let index: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(number, id)| (*id, number)).collect();
    let results: Vec<Value> = messages.iter().map(|message| result(message, index.get(message.code.id).copied())).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "mizzen analyze",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.values().map(|message| rule(message)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn level(code: &Code) -> &'static str {
    match code.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "note",
    }
}

fn rule(message: &Message) -> Value {
    let code = message.code;
    let mut rule = json!({
        "id": code.id,
        "name": code.name,
        "shortDescription": {"text": code.name},
        "fullDescription": {"text": explain::text(code)},
        "defaultConfiguration": {"level": level(code)},
    });
    if let Some(page) = page(message) {
        rule["helpUri"] = page.into();
    }
    rule
}

fn result(message: &Message, rule: Option<usize>) -> Value {
    let mut place = json!({
        "logicalLocations": [{"name": message.id.name, "fullyQualifiedName": message.id.to_string(), "kind": "resource"}],
    });
    let pos = &message.pos;
    if !pos.file.is_empty() {
        place["physicalLocation"] = json!({"artifactLocation": {"uri": uri(&pos.file)}});
        if pos.line > 0 {
            place["physicalLocation"]["region"] = json!({"startLine": pos.line, "startColumn": pos.column.max(1)});
        }
    }
    json!({
        "ruleId": message.code.id,
        "ruleIndex": rule,
        "level": level(message.code),
        "message": {"text": message.text},
        "locations": [place],
        // The same finding in another line is the same one.
        "partialFingerprints": {"finding/v1": format!("{} {} {} {}", message.code.id, message.id, message.field, message.text)},
    })
}

/// A path as a URI reference.
fn uri(path: &str) -> String {
    let mut uri = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.strip_prefix("./").unwrap_or(path).bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(byte.into()),
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::{super::select::tests::message, *};

    #[test]
    fn what_the_standard_requires() {
        let (first, mut second) = (message("IST0118", "Service", "shop", "a"), message("IST0101", "VirtualService", "shop", "b"));
        second.pos = Default::default();
        let all = report(&[&second, &first, &second]);
        assert_eq!(all["version"], "2.1.0");
        assert_eq!(all["runs"].as_array().map(Vec::len), Some(1));
        let (driver, results) = (&all["runs"][0]["tool"]["driver"], &all["runs"][0]["results"]);
        assert!(driver["name"].is_string());
        let rules = driver["rules"].as_array().expect("rules");
        assert_eq!(rules.iter().map(|rule| rule["id"].as_str()).collect::<Vec<_>>(), [Some("IST0101"), Some("IST0118")]);
        for rule in rules {
            assert!(rule["shortDescription"]["text"].is_string() && rule["fullDescription"]["text"].is_string(), "{rule}");
        }
        let results = results.as_array().expect("results");
        assert_eq!(results.len(), 3);
        for result in results {
            assert!(result["message"]["text"].is_string(), "{result}");
            let rule = &rules[result["ruleIndex"].as_u64().expect("a number") as usize];
            assert_eq!(rule["id"], result["ruleId"]);
        }
        let places = [&results[0]["locations"][0], &results[1]["locations"][0]];
        assert!(places[0].get("physicalLocation").is_none(), "of an object that is in no file");
        assert_eq!(places[1]["physicalLocation"]["artifactLocation"]["uri"], "a.yaml");
        assert_eq!(places[1]["physicalLocation"]["region"], json!({"startLine": 7, "startColumn": 3}));
        assert_eq!(places[1]["logicalLocations"][0]["fullyQualifiedName"], "Service shop/a");
        assert_eq!((&results[1]["level"], &results[0]["level"]), (&json!("note"), &json!("error")));
        assert_eq!(report(&[])["runs"][0]["results"], json!([]));
    }

    #[test]
    fn paths() {
        for (path, expected) in [("./a b/c.yaml", "a%20b/c.yaml"), ("/x/ü.yaml", "file:///x/%C3%BC.yaml"), ("-", "-")] {
            assert_eq!(uri(path), expected);
        }
    }
}
