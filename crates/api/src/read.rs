//! Reading typed values out of nodes, and gathering everything that is wrong on the way.
//!
//! Readers never stop at a fault: they record it and go on with a default, and whoever started the reading drops the object if anything was
//! recorded. A map is read through [`Fields`]. Of Istio's kinds it knows the table of its fields, and judges by that what is written; of
//! others it knows at its end which fields nobody has asked for.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    ops::RangeInclusive,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use mizzen_types::Hostname;

use crate::{
    Key, Pos, Problem,
    duration::parse_duration,
    labels::Known,
    source::{Entry, Node, Value, child_path},
    table::{Class, Least, Message, Row, Type},
    words::camel,
};

pub(crate) use crate::{
    table::Why,
    words::{nearest, quoted},
};

/// What one document's reading gathers.
pub(crate) struct Context<'a> {
    pub(crate) file: &'a Arc<str>,
    pub(crate) object: Option<Key>,
    /// Protojson's liberties: snake case, enums by number, numbers in quotes.
    pub(crate) proto: bool,
    /// Of Kubernetes' kinds: the paths that their schema does not know. What it knows and nobody has asked for is harmless.
    pub(crate) unknown: Option<BTreeSet<String>>,
    pub(crate) problems: RefCell<Vec<Problem>>,
    /// The paths of values of a wrong type: what else does not hold of them follows from that, and is not told.
    wrong: RefCell<BTreeSet<String>>,
    pub(crate) warnings: RefCell<Vec<Problem>>,
    /// Labels that were read before.
    pub(crate) known: Known,
}

impl<'a> Context<'a> {
    pub(crate) fn new(file: &'a Arc<str>, object: Option<Key>, proto: bool) -> Self {
        Context {
            file,
            object,
            proto,
            unknown: None,
            problems: RefCell::default(),
            wrong: RefCell::default(),
            warnings: RefCell::default(),
            known: Known::default(),
        }
    }

    pub(crate) fn problem(&self, place: (u32, u32), field: &str, message: impl Into<String>) -> Problem {
        Problem {
            pos: Pos { file: self.file.clone(), line: place.0, column: place.1 },
            object: self.object.clone(),
            field: field.to_owned(),
            message: message.into(),
        }
    }

    /// Whether the value at a path is of a wrong type, which is told.
    pub(crate) fn is_wrong(&self, path: &str) -> bool {
        self.wrong.borrow().contains(path)
    }

    pub(crate) fn failed(&self) -> bool {
        !self.problems.borrow().is_empty()
    }
}

/// A value with its path, being read.
#[derive(Clone)]
pub(crate) struct At<'a> {
    pub(crate) cx: &'a Context<'a>,
    pub(crate) path: String,
    pub(crate) node: &'a Node,
    /// Of the key, if it has one: that is where a reader looks.
    pub(crate) place: (u32, u32),
    /// What the value should be, if a table says so.
    of: Option<&'static Type>,
}

impl<'a> At<'a> {
    pub(crate) fn root(cx: &'a Context<'a>, node: &'a Node) -> Self {
        At { cx, path: String::new(), node, place: (node.line, node.column), of: None }
    }

    /// This value, to be read by a table.
    pub(crate) fn by(self, of: &'static Type) -> Self {
        At { of: Some(of), ..self }
    }

    pub(crate) fn fail(&self, message: impl Into<String>) {
        if self.cx.is_wrong(&self.path) {
            return;
        }
        self.cx.problems.borrow_mut().push(self.cx.problem(self.place, &self.path, message));
    }

    pub(crate) fn warn(&self, message: impl Into<String>) {
        let mut warnings = self.cx.warnings.borrow_mut();
        // What a table says comes before what a reader says, so that only their places put them in order.
        let after = if self.of.is_some() {
            warnings.partition_point(|other| (other.pos.line, other.pos.column) <= self.place)
        } else {
            warnings.len()
        };
        warnings.insert(after, self.cx.problem(self.place, &self.path, message));
    }

    /// A reader and its table, if it has one, are of one mind about what the value is; tests trip over it if not.
    fn agree(&self, read: &str, fits: impl FnOnce(&Type) -> bool) {
        debug_assert!(self.of.is_none_or(fits), "{} is read as {read}, its table says {:?}", self.path, self.of);
    }

    pub(crate) fn expected(&self, what: &str) {
        self.fail(format!("must be {what}, is {}", self.node.value.describe()));
    }

    /// Reads a map; fields that `read` has not asked for are unknown.
    pub(crate) fn fields<T>(&self, read: impl FnOnce(&Fields<'a>) -> T) -> T {
        let fields = Fields::new(self.clone());
        let value = read(&fields);
        fields.done();
        value
    }

    /// The items of a list; a null item is a fault.
    pub(crate) fn list(&self) -> Vec<At<'a>> {
        self.agree("a list", |of| matches!(of, Type::List(_)));
        let Value::List(items) = &self.node.value else {
            self.expected("a list");
            return Vec::new();
        };
        let of = self.of.and_then(Type::inner);
        let at = |(i, node): (usize, &'a Node)| {
            let path = format!("{}[{i}]", self.path);
            At { path, node, place: (node.line, node.column), of, ..*self }
        };
        let mut list: Vec<_> = items.iter().enumerate().map(at).collect();
        list.retain(|item| {
            let empty = matches!(item.node.value, Value::Null);
            if empty {
                item.fail("is empty");
            }
            !empty
        });
        list
    }

    pub(crate) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// The entries of a map whose keys are names of their own.
    pub(crate) fn entries(&self) -> Vec<(&'a str, At<'a>)> {
        self.agree("a map", |of| matches!(of, Type::Map(_)));
        let Value::Map(entries) = &self.node.value else {
            self.expected("a map");
            return Vec::new();
        };
        let of = self.of.and_then(Type::inner);
        entries.iter().map(|entry| (&*entry.key, self.below(entry, of))).collect()
    }

    fn below(&self, entry: &'a Entry, of: Option<&'static Type>) -> At<'a> {
        At { path: child_path(&self.path, &entry.key), node: &entry.value, place: (entry.line, entry.column), of, ..*self }
    }

    pub(crate) fn text(&self) -> String {
        self.str().to_owned()
    }

    /// A text, as it stands in the tree.
    pub(crate) fn str(&self) -> &'a str {
        self.agree("a text", |of| matches!(of, Type::Text | Type::Short(_) | Type::Duration(_)));
        match &self.node.value {
            Value::Text(text) => return text,
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                self.fail(format!("must be a text, is {}: put it in quotes", self.node.value.describe()));
            }
            _ => self.expected("a text"),
        }
        self.cx.wrong.borrow_mut().insert(self.path.clone());
        ""
    }

    /// A text that is not empty.
    pub(crate) fn word(&self) -> String {
        let text = self.text();
        if matches!(&self.node.value, Value::Text(t) if t.is_empty()) {
            self.fail("must not be empty");
        }
        text
    }

    pub(crate) fn flag(&self) -> bool {
        self.agree("true or false", |of| matches!(of, Type::Bool));
        match &self.node.value {
            Value::Bool(value) => *value,
            Value::Text(text) if self.cx.proto && matches!(&**text, "true" | "false") => &**text == "true",
            _ => {
                self.expected("true or false");
                false
            }
        }
    }

    /// A number within the table's range.
    pub(crate) fn number(&self) -> f64 {
        self.agree("a number", |of| matches!(of, Type::Number(..)));
        let range = if let Some(&Type::Number(least, most)) = self.of { least..=most } else { f64::MIN..=f64::MAX };
        let number = match &self.node.value {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Text(text) if self.cx.proto => text.parse().ok(),
            _ => None,
        };
        number.filter(|n| range.contains(n)).unwrap_or_else(|| {
            self.expected(&format!("a number from {} to {}", range.start(), range.end()));
            *range.start()
        })
    }

    /// A whole number within the table's range.
    pub(crate) fn whole(&self) -> i64 {
        debug_assert!(self.of.is_some(), "{} has a range, and no table", self.path);
        self.int(i64::MIN..=i64::MAX)
    }

    /// A whole number within the table's range; if there is no table, within this one.
    pub(crate) fn int(&self, range: RangeInclusive<i64>) -> i64 {
        self.agree("a whole number", |of| matches!(of, Type::Int(..)));
        let range = if let Some(&Type::Int(least, most)) = self.of { least..=most } else { range };
        let number = match &self.node.value {
            Value::Int(value) => Some(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(*value as i64),
            Value::Text(text) if self.cx.proto => text.parse().ok(),
            _ => None,
        };
        match number {
            None => self.expected("a whole number"),
            Some(number) if !range.contains(&number) => {
                self.fail(format!("must be between {} and {}, is {number}", range.start(), range.end()));
            }
            Some(number) => return number,
        }
        *range.start()
    }

    /// A whole number that is not negative.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.whole()).unwrap_or_default()
    }

    /// An unsigned number. Kubernetes keeps it in a signed 32-bit field; so does Istio, or a table says otherwise.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.int(0..=i64::from(i32::MAX))).unwrap_or_default()
    }

    pub(crate) fn port(&self) -> u16 {
        u16::try_from(self.int(1..=65535)).unwrap_or_default()
    }

    /// A duration, not shorter than the table says: `1h30m`, `1.5s`.
    pub(crate) fn duration(&self) -> Duration {
        self.agree("a duration", |of| matches!(of, Type::Duration(_)));
        let text = self.text();
        if !matches!(self.node.value, Value::Text(_)) {
            return Duration::ZERO;
        }
        let duration = match parse_duration(&text) {
            Ok(duration) => duration,
            Err(message) => {
                self.fail(message);
                return Duration::ZERO;
            }
        };
        let least = if let Some(&Type::Duration(least)) = self.of { least } else { Least::Zero };
        let short = duration < Duration::from_millis(1);
        match least {
            Least::MillisecondOrZero if short && !duration.is_zero() => self.fail("must be at least 1ms"),
            Least::Millisecond if short => self.fail("must be at least 1ms"),
            Least::Second if duration < Duration::from_secs(1) => self.fail("must be at least 1s"),
            Least::Second if duration.subsec_nanos() > 0 => self.fail("is counted in whole seconds"),
            _ => {}
        }
        duration
    }

    /// A text of some form.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&self) -> Option<T> {
        let text = self.text();
        if !matches!(self.node.value, Value::Text(_)) {
            return None;
        }
        text.parse().map_err(|error: T::Err| self.fail(error.to_string())).ok()
    }

    pub(crate) fn hostname(&self) -> Hostname {
        self.parse().unwrap_or_else(any_host)
    }

    /// One of these names, or by protojson their numbers. Names that stand for nothing are known and not supported.
    pub(crate) fn enumeration<T: Copy>(&self, names: &[(&str, i64, Option<T>)], why: Why) -> Option<T> {
        let found = match &self.node.value {
            Value::Text(text) => names.iter().find(|(name, ..)| *name == &**text),
            Value::Int(number) if self.cx.proto => names.iter().find(|(_, value, _)| value == number),
            _ => None,
        };
        match found {
            Some((_, _, Some(value))) => return Some(*value),
            Some((name, _, None)) => self.fail(format!("{name} {}", why.text())),
            None => {
                let all: Vec<_> = names.iter().map(|(name, ..)| *name).collect();
                self.expected(&format!("one of {}", all.join(", ")));
            }
        }
        None
    }

    /// One of these names, which are those of the table.
    pub(crate) fn choice<T: Copy>(&self, names: &[(&str, i64, Option<T>)]) -> Option<T> {
        self.agree("an enumeration", |of| matches!(of, Type::Enum(table) if table.are(names)));
        debug_assert!(self.of.is_some(), "{} has names, and no table", self.path);
        let why = if let Some(Type::Enum(table)) = self.of { table.why } else { Why::Who };
        self.enumeration(names, why)
    }

    pub(crate) fn text_list(&self) -> Vec<String> {
        self.list().iter().map(At::text).collect()
    }

    pub(crate) fn text_map(&self) -> BTreeMap<String, String> {
        self.entries().into_iter().map(|(key, value)| (key.to_owned(), value.text())).collect()
    }
}

/// A placeholder where a fault has been recorded.
pub(crate) fn any_host() -> Hostname {
    #[expect(clippy::unwrap_used, reason = "a constant that parses")]
    "*".parse().unwrap()
}

/// A map, being read.
pub(crate) struct Fields<'a> {
    pub(crate) at: At<'a>,
    table: Option<&'static Message>,
    entries: Vec<(Cow<'a, str>, &'a Entry)>,
    asked: RefCell<BTreeSet<&'static str>>,
    rest: Cell<bool>,
}

static EMPTY: Node = Node { value: Value::Null, line: 0, column: 0 };

impl<'a> Fields<'a> {
    fn new(at: At<'a>) -> Self {
        at.agree("a message", |of| matches!(of, Type::Message(_)));
        let table = if let Some(&Type::Message(table)) = at.of { Some(table) } else { None };
        let mut entries: Vec<(Cow<'a, str>, &'a Entry)> = Vec::new();
        match &at.node.value {
            Value::Map(written) => {
                entries.reserve_exact(written.len());
                for entry in written {
                    let name = if at.cx.proto { camel(&entry.key) } else { (*entry.key).into() };
                    if let Some((_, first)) = entries.iter().find(|(other, _)| *other == name) {
                        let again = At { path: child_path(&at.path, &entry.key), place: (entry.line, entry.column), ..at.clone() };
                        again.fail(format!("is the same field as `{}` in line {}", first.key, first.line));
                    }
                    entries.push((name, entry));
                }
            }
            Value::Null => {}
            _ => at.expected("a map"),
        }
        let fields = Fields { at, table, entries, asked: RefCell::default(), rest: Cell::new(false) };
        fields.judge();
        fields
    }

    /// Warns of what is written and harmless by the table, and refuses what it refuses.
    fn judge(&self) {
        let Some(table) = self.table else { return };
        for (name, entry) in self.entries.iter().filter(|(_, entry)| !matches!(entry.value.value, Value::Null)) {
            match table.row(name) {
                Some(Row { class: Class::Harmless, warning, .. }) => self.child(name, entry).warn(*warning),
                Some(Row { class: Class::Refused(why), .. }) => self.child(name, entry).fail(why.text()),
                _ => {}
            }
        }
    }

    fn asks(&self, name: &'static str) {
        let Some(table) = self.table else {
            self.asked.borrow_mut().insert(name);
            return;
        };
        debug_assert!(
            table.row(name).is_some_and(|row| !matches!(row.class, Class::Refused(_))),
            "{name} is read, and is not in the table of {} or refused there",
            table.name
        );
        #[cfg(test)]
        crate::table::tests::note(table, name);
    }

    /// A field that is written and not null.
    pub(crate) fn get(&self, name: &'static str) -> Option<At<'a>> {
        self.asks(name);
        let (_, entry) = self.entries.iter().find(|(other, _)| other == name)?;
        (!matches!(entry.value.value, Value::Null)).then(|| self.child(name, entry))
    }

    fn child(&self, name: &str, entry: &'a Entry) -> At<'a> {
        self.at.below(entry, self.of(name))
    }

    /// What the table says that a field is.
    fn of(&self, name: &str) -> Option<&'static Type> {
        self.table.and_then(|table| table.row(name)).map(|row| &row.of)
    }

    /// The place of a field that is null, empty or missing.
    pub(crate) fn slot(&self, name: &str) -> At<'a> {
        match self.entries.iter().find(|(other, _)| other == name) {
            Some((_, entry)) => At { node: &EMPTY, ..self.child(name, entry) },
            None => At { path: child_path(&self.at.path, name), node: &EMPTY, of: self.of(name), ..self.at.clone() },
        }
    }

    /// Records that a field is missing.
    pub(crate) fn missing(&self, name: &str) {
        self.slot(name).fail("is required");
    }

    /// A field that must be there.
    pub(crate) fn need(&self, name: &'static str) -> Option<At<'a>> {
        debug_assert!(
            self.table.and_then(|table| table.row(name)).is_none_or(|row| row.required),
            "{name} is needed, and its table does not say so"
        );
        let found = self.get(name);
        // Of what is no map at all it is told that it is none.
        if found.is_none() && matches!(self.at.node.value, Value::Map(_) | Value::Null) {
            self.missing(name);
        }
        found
    }

    /// Reads `spec` by its table, or an empty one if it is not written.
    pub(crate) fn spec<T>(&self, of: &'static Type, read: impl FnOnce(&Fields<'a>) -> T) -> T {
        self.get("spec").unwrap_or_else(|| self.slot("spec")).by(of).fields(read)
    }

    /// Reads a map, or an empty one if it is not written.
    pub(crate) fn sub<T>(&self, name: &'static str, read: impl FnOnce(&Fields<'a>) -> T) -> T {
        self.get(name).unwrap_or_else(|| self.slot(name)).fields(read)
    }

    /// Reads a map, if it is written.
    pub(crate) fn opt_sub<T>(&self, name: &'static str, read: impl FnOnce(&Fields<'a>) -> T) -> Option<T> {
        self.get(name).map(|at| at.fields(read))
    }

    /// Whether a field is written, null or not.
    pub(crate) fn written(&self, name: &'static str) -> bool {
        self.entries.iter().any(|(other, _)| other == name)
    }

    /// Whether nothing is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes all further fields as they are.
    pub(crate) fn ignore_rest(&self) {
        self.rest.set(true);
    }

    /// The one field of these that is written.
    pub(crate) fn one_of(&self, names: &[&'static str]) -> Option<(&'static str, At<'a>)> {
        debug_assert!(
            self.table.is_none_or(|table| table.one_of.contains(&names)),
            "one of {names:?} is read, and its table does not say so"
        );
        let mut found = names.iter().filter_map(|name| Some((*name, self.get(name)?)));
        let first = found.next();
        if let (Some((one, _)), Some((_, at))) = (&first, found.next()) {
            at.fail(format!("excludes `{one}`: only one of {} may be written", names.join(", ")));
        }
        first
    }

    pub(crate) fn text(&self, name: &'static str) -> String {
        self.get(name).map(|at| at.text()).unwrap_or_default()
    }

    pub(crate) fn opt_text(&self, name: &'static str) -> Option<String> {
        self.get(name).map(|at| at.text()).filter(|text| !text.is_empty())
    }

    pub(crate) fn flag(&self, name: &'static str) -> bool {
        self.get(name).is_some_and(|at| at.flag())
    }

    pub(crate) fn duration(&self, name: &'static str) -> Option<Duration> {
        self.get(name).map(|at| at.duration())
    }

    pub(crate) fn port(&self, name: &'static str) -> Option<u16> {
        self.get(name).map(|at| at.port())
    }

    pub(crate) fn count(&self, name: &'static str) -> Option<u32> {
        self.get(name).map(|at| at.count())
    }

    pub(crate) fn list(&self, name: &'static str) -> Vec<At<'a>> {
        self.get(name).map(|at| at.list()).unwrap_or_default()
    }

    pub(crate) fn text_list(&self, name: &'static str) -> Vec<String> {
        self.get(name).map(|at| at.text_list()).unwrap_or_default()
    }

    pub(crate) fn text_map(&self, name: &'static str) -> BTreeMap<String, String> {
        self.get(name).map(|at| at.text_map()).unwrap_or_default()
    }

    pub(crate) fn parse_list<T: FromStr<Err: Display>>(&self, name: &'static str) -> Vec<T> {
        self.list(name).iter().filter_map(At::parse).collect()
    }

    /// Fields that change nothing here.
    pub(crate) fn ignore(&self, names: &[&'static str]) {
        self.asked.borrow_mut().extend(names);
    }

    /// Fields that are not acted on, which is harmless.
    pub(crate) fn harmless(&self, names: &[&'static str]) {
        for name in names {
            if let Some(at) = self.get(name) {
                at.warn("is not acted on yet");
            }
        }
    }

    /// Fields that are not acted on, which matters.
    pub(crate) fn refuse(&self, why: Why, names: &[&'static str]) {
        for name in names {
            if let Some(at) = self.get(name) {
                at.fail(why.text());
            }
        }
    }

    /// A switch that is refused if it is on.
    pub(crate) fn refuse_true(&self, why: Why, name: &'static str) {
        if let Some(at) = self.get(name).filter(|at| at.flag()) {
            at.fail(why.text());
        }
    }

    fn done(self) {
        if self.rest.get() {
            return;
        }
        let asked = self.asked.borrow();
        let known = |name: &str| self.table.map_or_else(|| asked.contains(name), |table| table.row(name).is_some());
        for (name, entry) in self.entries.iter().filter(|(name, _)| !known(name)) {
            let child = self.child(name, entry);
            if matches!(&self.at.cx.unknown, Some(unknown) if !unknown.contains(&child.path)) {
                child.warn("is not acted on yet");
                continue;
            }
            let near = match self.table {
                Some(table) => nearest(name, table.names()),
                None => nearest(name, asked.iter().copied()),
            };
            match near {
                Some(near) => child.fail(format!("unknown field, did you mean `{near}`?")),
                None => child.fail("unknown field"),
            }
        }
    }
}
