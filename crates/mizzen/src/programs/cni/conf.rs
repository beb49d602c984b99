//! The configuration of a node's network, with the plugin in it and without. Pure: texts in, texts out.

use serde_json::{Map, Value, json};

use super::PLUGIN;

/// Whether a runtime reads a file of this name as one network, or as a list of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `.conf` or `.json`: one plugin.
    One,
    /// `.conflist`: plugins that are called one after the other.
    List,
}

impl Form {
    /// By the end of a file's name; `None`: no runtime reads it.
    pub(super) fn of(name: &str) -> Option<Form> {
        // Runtimes read files that begin with a dot, too.
        match name.rsplit_once('.')?.1 {
            "conf" | "json" => Some(Form::One),
            "conflist" => Some(Form::List),
            _ => None,
        }
    }
}

/// The name of the list that takes the place of a file.
pub(super) fn list_name(name: &str) -> String {
    match Form::of(name) {
        Some(Form::One) => name.rsplit_once('.').map_or_else(|| name.to_owned(), |(start, _)| format!("{start}.conflist")),
        _ => name.to_owned(),
    }
}

/// A configuration with the plugin as its last; what else stands in it stays.
///
/// # Errors
/// If it is none, or nothing is in it after which a plugin can be chained.
pub(super) fn with(text: &str, form: Form, entry: &Value) -> Result<Value, String> {
    let conf = read(text)?;
    let version = conf.get("cniVersion").and_then(Value::as_str).unwrap_or("0.1.0");
    if version.starts_with("0.1.") || version.starts_with("0.2.") {
        return Err(format!("its cniVersion is {version}, in which no plugins are chained: it must be 0.3.0 or later"));
    }
    let mut conf = match form {
        Form::List => conf,
        Form::One => {
            let name = conf.get("name").cloned().ok_or("it has no name")?;
            let mut one = conf.clone();
            one.remove("name");
            one.remove("cniVersion");
            let list = json!({ "cniVersion": version, "name": name, "plugins": [one] });
            serde_json::from_value(list).map_err(|error| error.to_string())?
        }
    };
    let plugins = conf.get_mut("plugins").and_then(Value::as_array_mut).ok_or("it has no list of plugins")?;
    plugins.retain(|plugin| !is_ours(plugin));
    if !plugins.iter().any(|plugin| plugin["type"].is_string()) {
        return Err("there is no other plugin in it, after which this one could be chained".to_owned());
    }
    plugins.push(entry.clone());
    Ok(Value::Object(conf))
}

/// A list without the plugin; `None` if it is not there.
///
/// # Errors
/// If the text is no configuration.
pub(super) fn without(text: &str) -> Result<Option<Value>, String> {
    let mut conf = read(text)?;
    let Some(plugins) = conf.get_mut("plugins").and_then(Value::as_array_mut) else { return Ok(None) };
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    Ok((plugins.len() != before).then_some(Value::Object(conf)))
}

/// Whether a text, in its form, says what a list says.
pub(super) fn says(text: &str, form: Form, list: &Value) -> bool {
    let Ok(conf) = read(text) else { return false };
    match form {
        Form::List => Value::Object(conf) == *list,
        Form::One => {
            let Some([one]) = list["plugins"].as_array().map(Vec::as_slice) else { return false };
            let mut whole = one.clone();
            for name in ["name", "cniVersion"] {
                if let Some(value) = conf.get(name) {
                    whole[name] = value.clone();
                }
            }
            Value::Object(conf) == whole
        }
    }
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

fn read(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("it is no map in JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"cniVersion":"1.0.0","name":"pods","type":"bridge","ipam":{"type":"host-local"}}"#;
    const LIST: &str = r#"{"cniVersion":"0.3.1","name":"pods","disableCheck":true,"plugins":[{"type":"calico"},{"type":"portmap"}]}"#;

    fn ours() -> Value {
        json!({ "type": PLUGIN, "exclude_namespaces": ["kube-system"] })
    }

    #[test]
    fn forms() {
        let check = |name: &str, form: Option<Form>, list: &str| assert_eq!((Form::of(name), &*list_name(name)), (form, list));
        check("10-a.conf", Some(Form::One), "10-a.conflist");
        check("10-a.b.json", Some(Form::One), "10-a.b.conflist");
        check("10-a.conflist", Some(Form::List), "10-a.conflist");
        check("10-a.conflist.istio-cni-original", None, "10-a.conflist.istio-cni-original");
        check(".10-a.conf", Some(Form::One), ".10-a.conflist");
        check(".10-a.conflist.istio-cni-new", None, ".10-a.conflist.istio-cni-new");
        check("a", None, "a");
    }

    #[test]
    fn put_into_and_taken_out() {
        for (text, form) in [(ONE, Form::One), (LIST, Form::List)] {
            let with_it = with(text, form, &ours()).unwrap();
            let plugins = with_it["plugins"].as_array().unwrap();
            assert_eq!((plugins.last(), plugins.iter().filter(|plugin| is_ours(plugin)).count()), (Some(&ours()), 1));
            // Once more, and nothing changes.
            assert_eq!(with(&with_it.to_string(), Form::List, &ours()), Ok(with_it.clone()));
            let without_it = without(&with_it.to_string()).unwrap().unwrap();
            assert!(says(text, form, &without_it), "{without_it}");
            assert!(!says(text, form, &with_it));
            assert_eq!(without(&without_it.to_string()), Ok(None));
        }
        let list = with(LIST, Form::List, &ours()).unwrap();
        assert_eq!((&list["disableCheck"], &list["cniVersion"]), (&json!(true), &json!("0.3.1")));
        let one = with(ONE, Form::One, &ours()).unwrap();
        assert_eq!(one["plugins"][0], json!({ "type": "bridge", "ipam": { "type": "host-local" } }));
        // Other settings take the place of earlier ones.
        let other = with(&list.to_string(), Form::List, &json!({ "type": PLUGIN })).unwrap();
        assert_eq!(other["plugins"].as_array().unwrap().len(), 3);
        assert_eq!(other["plugins"][2], json!({ "type": PLUGIN }));
        assert_eq!(without(ONE), Ok(None));
    }

    #[test]
    fn what_cannot_be_chained() {
        let check = |text: &str, form: Form, why: &str| {
            let error = with(text, form, &ours()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        };
        check("", Form::List, "it is no map in JSON");
        check("[]", Form::List, "it is no map in JSON");
        check(r#"{"cniVersion":"1.0.0","name":"a"}"#, Form::List, "it has no list of plugins");
        check(r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"istio-cni"}]}"#, Form::List, "no other plugin");
        check(r#"{"name":"a","type":"bridge"}"#, Form::One, "its cniVersion is 0.1.0");
        check(r#"{"cniVersion":"1.0.0","type":"bridge"}"#, Form::One, "it has no name");
    }
}
