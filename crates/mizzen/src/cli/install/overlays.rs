//! Changes of single fields of what is installed: `k8s.overlays` of IstioOperator, by Istio's paths. What would change nothing is an error.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::manifest::{STATE, title, word};

/// What is changed of one object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Overlay {
    /// Its place in the settings, for people.
    at: String,
    /// If it is said.
    version: Option<String>,
    kind: String,
    name: String,
    patches: Vec<Patch>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
struct Patch {
    /// The path as it was said, with its place in the settings.
    at: String,
    /// To what is changed.
    way: Vec<Step>,
    /// What is changed there.
    last: Step,
    /// What stands there then; `None` if nothing does.
    value: Option<Value>,
}

/// A step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A field of a map: `name`.
    Field(String),
    /// An element of a list by its number: `[0]`.
    Element(usize),
    /// What comes after all elements of a list: `[-1]`.
    Next,
    /// The element of a list that has a field of this value: `[name:discovery]`.
    With(String, String),
    /// The element of a list that is this value: `[:value]`.
    Is(String),
}

/// The overlays of a place of the settings.
///
/// # Errors
/// One line that names what is not known, or not good.
pub(super) fn read(at: &str, said: &Value) -> Result<Vec<Overlay>> {
    list(at, said)?.iter().enumerate().map(|(n, said)| overlay(format!("{at}[{n}]"), said)).collect()
}

fn overlay(at: String, said: &Value) -> Result<Overlay> {
    let fields = map(&at, said, &["apiVersion", "kind", "name", "patches"])?;
    let (kind, name) = (text(&at, fields, "kind")?, text(&at, fields, "name")?);
    ensure!(kind != "ConfigMap" || name != STATE, "{at}: {STATE} is the installer's own");
    let version = fields.get("apiVersion").filter(|version| !version.is_null());
    let version = version.map(|_| text(&at, fields, "apiVersion")).transpose()?;
    let patches = list(&format!("{at}.patches"), &said["patches"])?;
    ensure!(!patches.is_empty(), "{at}.patches: must be a list of paths and values");
    let patches = patches.iter().enumerate().map(|(n, said)| patch(&format!("{at}.patches[{n}]"), said)).collect::<Result<_>>()?;
    Ok(Overlay { at, version, kind, name, patches })
}

fn patch(at: &str, said: &Value) -> Result<Patch> {
    let fields = map(at, said, &["path", "value"])?;
    let path = text(at, fields, "path")?;
    let at = format!("{at}.path: {path}");
    let mut way = steps(&path).with_context(|| at.clone())?;
    let last = way.pop().with_context(|| at.clone())?;
    let value = fields.get("value").filter(|value| !value.is_null()).cloned();
    ensure!(value.is_some() || last != Step::Next, "{at}: must have a value: there is nothing to be taken away");
    Ok(Patch { at, way, last, value })
}

fn list<'a>(at: &str, said: &'a Value) -> Result<&'a [Value]> {
    match said {
        Value::Null => Ok(&[]),
        said => said.as_array().map(Vec::as_slice).with_context(|| format!("{at}: must be a list")),
    }
}

/// A map of no other fields than these.
fn map<'a>(at: &str, said: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>> {
    let fields = said.as_object().with_context(|| format!("{at}: must be a map with {}", known.join(", ")))?;
    let other = fields.keys().find(|field| !known.contains(&field.as_str()));
    if let Some(other) = other {
        bail!("{at}.{other} is not supported: must be {}", known.join(" or "));
    }
    Ok(fields)
}

fn text(at: &str, fields: &Map<String, Value>, field: &str) -> Result<String> {
    let text = fields.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned).with_context(|| format!("{at}.{field}: must be a text"))
}

/// A part of a path.
struct Part {
    text: String,
    in_brackets: bool,
}

/// Splits a path at its dots and brackets. Within brackets a dot is a dot, and behind `\` everything is what it is.
fn parts(path: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    // What has begun: a name at the begin and behind a dot, nothing behind a bracket.
    let mut open = Some(Part { text: String::new(), in_brackets: false });
    let mut rest = path.chars();
    while let Some(c) = rest.next() {
        let is_inside = open.as_ref().is_some_and(|part| part.in_brackets);
        match c {
            '[' if !is_inside => {
                // `a.[0]` is `a[0]`.
                parts.extend(open.take().filter(|part| !part.text.is_empty()));
                open = Some(Part { text: String::new(), in_brackets: true });
            }
            ']' if is_inside => parts.extend(open.take()),
            '.' if !is_inside => parts.extend(open.replace(Part { text: String::new(), in_brackets: false })),
            c => {
                let part = open.as_mut().with_context(|| format!("{c} follows a bracket: must be a dot or a bracket"))?;
                part.text.push(if c == '\\' { rest.next().context("it ends with \\")? } else { c });
            }
        }
    }
    ensure!(open.as_ref().is_none_or(|part| !part.in_brackets), "a bracket is not closed");
    parts.extend(open);
    Ok(parts)
}

fn steps(path: &str) -> Result<Vec<Step>> {
    let step = |Part { text, in_brackets }: Part| {
        ensure!(!text.is_empty(), "a name is empty");
        if !in_brackets {
            return Ok(Step::Field(text));
        }
        match text.split_once(':') {
            Some(("", value)) => Ok(Step::Is(value.to_owned())),
            Some((key, value)) => Ok(Step::With(key.to_owned(), value.to_owned())),
            None if text == "-1" => Ok(Step::Next),
            None => {
                let number = text.parse().ok();
                number
                    .map(Step::Element)
                    .with_context(|| format!("[{text}]: must be a number, key:value, :value, or -1 for what comes after all"))
            }
        }
    };
    parts(path)?.into_iter().map(step).collect()
}

impl Step {
    /// Which element of a list it is.
    fn index(&self, list: &[Value]) -> Option<usize> {
        match self {
            Step::Field(_) | Step::Next => None,
            Step::Element(n) => Some(*n).filter(|n| *n < list.len()),
            Step::With(key, value) => list.iter().position(|element| element.get(key).is_some_and(|found| word(found) == *value)),
            Step::Is(value) => list.iter().position(|element| word(element) == *value),
        }
    }
}

impl Overlay {
    /// Whether it is one of this object.
    pub(super) fn is_of(&self, object: &Value) -> bool {
        object["kind"] == *self.kind
            && object["metadata"]["name"] == *self.name
            && self.version.as_ref().is_none_or(|version| object["apiVersion"] == **version)
    }
}

impl Patch {
    /// Changes an object. Whether it had a place for that.
    fn apply(&self, object: &mut Value) -> bool {
        let mut at = object;
        for (n, step) in self.way.iter().enumerate() {
            let Some(next) = self.enter(at, step, self.way.get(n + 1).unwrap_or(&self.last)) else { return false };
            at = next;
        }
        match (&self.last, at, &self.value) {
            (Step::Field(name), Value::Object(fields), Some(value)) => drop(fields.insert(name.clone(), value.clone())),
            // In their order.
            (Step::Field(name), Value::Object(fields), None) => return fields.shift_remove(name).is_some(),
            (Step::Next, Value::Array(list), Some(value)) => list.push(value.clone()),
            (step, Value::Array(list), value) => match (step.index(list), value) {
                (Some(n), Some(value)) => list[n] = value.clone(),
                (Some(n), None) => drop(list.remove(n)),
                (None, _) => return false,
            },
            _ => return false,
        }
        true
    }

    /// Where a step leads. A map or a list that is missing is made for what is to stand in it.
    fn enter<'a>(&self, at: &'a mut Value, step: &Step, next: &Step) -> Option<&'a mut Value> {
        match (step, at) {
            (Step::Field(name), Value::Object(fields)) => {
                if self.value.is_some() && fields.get(name).is_none_or(Value::is_null) {
                    fields.insert(name.clone(), if *next == Step::Next { json!([]) } else { json!({}) });
                }
                fields.get_mut(name)
            }
            (step, Value::Array(list)) => {
                let n = step.index(list)?;
                list.get_mut(n)
            }
            _ => None,
        }
    }
}

/// Changes objects as they are told to be.
///
/// # Errors
/// One line that names an overlay of no object, a path that leads nowhere, and a change of what an object is.
pub(super) fn apply(overlays: &[Overlay], objects: &mut [Value]) -> Result<()> {
    let identity = |object: &Value| ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"].map(|at| object.pointer(at).cloned());
    for overlay in overlays {
        let Overlay { at, version, kind, name, patches } = overlay;
        let mut found = objects.iter_mut().filter(|object| overlay.is_of(object)).peekable();
        let of = version.as_ref().map_or_else(String::new, |version| format!("{version} "));
        ensure!(found.peek().is_some(), "{at}: {of}{kind} {name} is no object of this component");
        for object in found {
            let (what, before) = (title(object), identity(object));
            for patch in patches {
                ensure!(patch.apply(object), "{}: leads to nothing in {what}", patch.at);
                ensure!(identity(object) == before, "{}: must leave {what} its apiVersion, kind, name and namespace", patch.at);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Value {
        json!({
            "apiVersion": "v1", "kind": "A", "metadata": { "name": "a", "namespace": "ns" },
            "spec": {
                "list": [{ "name": "x", "ports": [{ "port": 80 }, { "port": 443 }] }, { "name": "y.z" }],
                "args": ["--one", "--two=a.b"],
                "map": { "dotted.name": 1 },
            },
        })
    }

    fn overlays(patches: &Value) -> Result<Vec<Overlay>> {
        read("o", &json!([{ "apiVersion": "v1", "kind": "A", "name": "a", "patches": patches }]))
    }

    #[test]
    fn what_is_changed() {
        let check = |path: &str, value: Value, pointer: &str, expected: Value| {
            let mut objects = [json!({ "kind": "A", "metadata": { "name": "other" } }), object()];
            let read = overlays(&json!([{ "path": path, "value": value }])).unwrap();
            apply(&read, &mut objects).unwrap();
            assert_eq!(objects[1].pointer(pointer).cloned().unwrap_or_default(), expected, "{path}");
            assert_ne!(objects[1], object(), "{path}");
            assert_eq!(objects[0], json!({ "kind": "A", "metadata": { "name": "other" } }), "{path}");
        };
        check("spec.map", json!({ "b": 2 }), "/spec/map", json!({ "b": 2 }));
        check("spec.map.new", json!("text"), "/spec/map", json!({ "dotted.name": 1, "new": "text" }));
        check("spec.map.dotted\\.name", json!(2), "/spec/map", json!({ "dotted.name": 2 }));
        check("spec.map.dotted\\.name", Value::Null, "/spec/map", json!({}));
        check("spec.list.[name:x].ports.[port:443].port", json!(8443), "/spec/list/0/ports/1/port", json!(8443));
        check("spec.list[name:y.z].more", json!([1]), "/spec/list/1/more", json!([1]));
        check("spec.list[0].ports[1]", Value::Null, "/spec/list/0/ports", json!([{ "port": 80 }]));
        check("spec.list.[name:x]", Value::Null, "/spec/list", json!([{ "name": "y.z" }]));
        check("spec.list.[-1]", json!({ "name": "n" }), "/spec/list/2", json!({ "name": "n" }));
        check("spec.args.[:--two=a.b]", json!("--two=c"), "/spec/args", json!(["--one", "--two=c"]));
        check("spec.args.[:--one]", Value::Null, "/spec/args", json!(["--two=a.b"]));
        check("metadata.annotations.example\\.com/a", json!("b"), "/metadata/annotations", json!({ "example.com/a": "b" }));
        check("spec.tolerations.[-1]", json!({ "operator": "Exists" }), "/spec/tolerations", json!([{ "operator": "Exists" }]));
    }

    #[test]
    fn what_is_refused() {
        let check = |said: Value, why: &str| {
            let told = read("o", &said).and_then(|read| apply(&read, &mut [object()])).err().map(|error| format!("{error:#}"));
            assert!(told.as_ref().is_some_and(|told| told.starts_with(why)), "{said}: {told:?}");
        };
        check(json!({}), "o: must be a list");
        check(json!(["x"]), "o[0]: must be a map with apiVersion, kind, name, patches");
        check(json!([{ "kind": "A", "name": "a", "path": "x" }]), "o[0].path is not supported: must be apiVersion or kind");
        check(json!([{ "name": "a", "patches": [] }]), "o[0].kind: must be a text");
        check(json!([{ "kind": "A", "patches": [] }]), "o[0].name: must be a text");
        check(json!([{ "kind": "A", "name": "a" }]), "o[0].patches: must be a list of paths and values");
        check(json!([{ "kind": "ConfigMap", "name": STATE, "patches": [] }]), "o[0]: mizzen-installed-state is the installer's own");
        let patches = json!([{ "path": "spec.map.a", "value": 1 }]);
        check(json!([{ "kind": "B", "name": "a", "patches": patches }]), "o[0]: B a is no object of this component");
        check(json!([{ "apiVersion": "v2", "kind": "A", "name": "a", "patches": patches }]), "o[0]: v2 A a is no object of this component");
        for (path, value, why) in [
            ("", json!(1), ".path: must be a text"),
            ("a..b", json!(1), ".path: a..b: a name is empty"),
            ("a.[b", json!(1), ".path: a.[b: a bracket is not closed"),
            ("a.[0]b", json!(1), ".path: a.[0]b: b follows a bracket"),
            ("a.[b]", json!(1), ".path: a.[b]: [b]: must be a number, key:value, :value"),
            ("a.[]", json!(1), ".path: a.[]: a name is empty"),
            ("a\\", json!(1), ".path: a\\: it ends with \\"),
            ("spec.args.[-1]", Value::Null, ".path: spec.args.[-1]: must have a value"),
            ("spec.args.[2]", json!(1), ".path: spec.args.[2]: leads to nothing in A ns/a"),
            ("spec.list.[name:none].a", json!(1), ".path: spec.list.[name:none].a: leads to nothing"),
            ("spec.none", Value::Null, ".path: spec.none: leads to nothing"),
            ("spec.none.[0]", json!(1), ".path: spec.none.[0]: leads to nothing"),
            ("spec.args.name", json!(1), ".path: spec.args.name: leads to nothing"),
            ("metadata.name", json!("b"), ".path: metadata.name: must leave A ns/a its apiVersion, kind, name"),
            ("metadata", json!({}), ".path: metadata: must leave A ns/a"),
            ("kind", Value::Null, ".path: kind: must leave A ns/a"),
        ] {
            let said = json!([{ "kind": "A", "name": "a", "patches": [{ "path": path, "value": value }] }]);
            check(said, &format!("o[0].patches[0]{why}"));
        }
    }
}
