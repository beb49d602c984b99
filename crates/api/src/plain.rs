//! The plain part of YAML, in which nearly all configuration is written, read in one pass: no tokens, no events, no copy of the text.
//!
//! Block and flow collections, plain and quoted texts of one line, literals (`|`), comments, JSON. All else is *declined*, as a whole document, and is
//! the library's to read or to refuse: anchors, aliases, tags, directives, merge keys, texts folded over lines, tabs, numbers that are not plainly
//! decimal, a key written twice, whatever is wrong. So a rule that this module does not know costs time and no more. What it reads has the values and
//! the places that the library gives them, which tests and a fuzz target hold it to.

use std::collections::HashSet;

use crate::source::{Entry, Node, Value};

/// How deep it reads; the library knows the limit itself.
const MAX_DEPTH: usize = 48;
/// How many nodes it reads, likewise.
const MAX_NODES: usize = 100_000;
/// How long a key may be, likewise.
const MAX_KEY: usize = 512;
/// Maps with more fields than this look for a key that is written twice by a set.
const SMALL: usize = 16;

/// Reads a document before which `line` lines of its file stand. `None`: it is not plain.
pub(crate) fn parse(text: &str, line: u32) -> Option<Node> {
    let ascii = text.is_ascii();
    let known = |c: char| matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}');
    let plain = if ascii { text.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')) } else { text.chars().all(known) };
    if !plain {
        return None;
    }
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, line: line + 1, line_start: 0, ascii, counted: (0, 0), nodes: 0 };
    reader.next_content();
    if reader.at == text.len() {
        return None;
    }
    let node = reader.block(0)?;
    (reader.at == text.len()).then_some(node)
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    /// Where it stands.
    at: usize,
    /// The line where it stands, in its file.
    line: u32,
    line_start: usize,
    /// Whether bytes are characters.
    ascii: bool,
    /// Up to where the characters of this line have been counted, if they have.
    counted: (usize, usize),
    nodes: usize,
}

/// Where a text in a plain style ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// At the line's end.
    Block,
    /// At `,` and brackets too.
    Flow,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn ahead(&self) -> Option<u8> {
        self.bytes.get(self.at + 1).copied()
    }

    /// The column, from 0, in bytes: before it are only blanks and `-` where it matters.
    fn indent(&self) -> usize {
        self.at - self.line_start
    }

    /// Where it stands, as people count.
    fn place(&mut self) -> Option<(u32, u32)> {
        let column = if self.ascii { self.indent() } else { self.characters()? };
        Some((self.line, u32::try_from(column + 1).ok()?))
    }

    /// The characters of the line before here. A line may be as long as its file: none is counted twice.
    fn characters(&mut self) -> Option<usize> {
        let (at, characters) = self.counted;
        let (at, characters) = if (self.line_start..=self.at).contains(&at) { (at, characters) } else { (self.line_start, 0) };
        let characters = characters + self.text.get(at..self.at)?.chars().count();
        self.counted = (self.at, characters);
        Some(characters)
    }

    /// The place of the mark before here: that is where the library sees a value that is not written.
    fn place_before(&mut self) -> Option<(u32, u32)> {
        self.place().map(|(line, column)| (line, column - 1))
    }

    fn node(&mut self, place: (u32, u32), value: Value) -> Option<Node> {
        self.nodes += 1;
        (self.nodes <= MAX_NODES).then_some(Node { value, line: place.0, column: place.1 })
    }

    fn blanks(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// Passes what is left of a line: blanks, perhaps a comment. `None` if there is more.
    fn end_of_line(&mut self) -> Option<()> {
        self.blanks();
        let apart = || self.at == self.line_start || self.bytes.get(self.at - 1) == Some(&b' ');
        if self.peek() == Some(b'#') && apart() {
            let rest = &self.bytes[self.at..];
            self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        }
        match self.peek() {
            None => Some(()),
            Some(b'\n') => {
                self.at += 1;
                self.line += 1;
                self.line_start = self.at;
                Some(())
            }
            Some(_) => None,
        }
    }

    /// From a line's end to the first character of the next line that has something, or to the end.
    fn next_content(&mut self) {
        while self.at < self.bytes.len() && self.end_of_line().is_some() {}
    }

    /// Whether it stands at `-` of a list.
    fn is_item(&self) -> bool {
        self.peek() == Some(b'-') && matches!(self.ahead(), None | Some(b' ' | b'\n'))
    }

    /// A node that begins here, as the first of its line or after `- `. Leaves at the next content.
    fn block(&mut self, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.is_item() {
            let place = self.place()?;
            let (list, _) = self.items(depth)?;
            return self.node(place, list);
        }
        let (start, place) = (self.at, self.place()?);
        if let Some(key) = self.block_key()? {
            return self.map(key, start, place, depth);
        }
        let value = self.inline(depth)?;
        self.end_of_line()?;
        self.next_content();
        self.node(place, value)
    }

    /// The key that begins here, with its colon; stays where it is if this is none.
    fn block_key(&mut self) -> Option<Option<Box<str>>> {
        let start = self.at;
        let key: Box<str> = match self.peek()? {
            b'"' | b'\'' => self.quoted()?,
            b'[' | b'{' => return Some(None),
            _ => self.plain(Style::Block)?.into(),
        };
        self.blanks();
        let is_key = self.peek() == Some(b':') && matches!(self.ahead(), None | Some(b' ' | b'\n'));
        if !is_key {
            self.at = start;
            return Some(None);
        }
        if self.at - start > MAX_KEY || is_null(&key) {
            return None;
        }
        self.at += 1;
        Some(Some(key))
    }

    /// A map in block style, whose first key has been read.
    fn map(&mut self, first: Box<str>, start: usize, place: (u32, u32), depth: usize) -> Option<Node> {
        let indent = start - self.line_start;
        let mut entries = Vec::with_capacity(4);
        let (mut key, mut at) = (first, place);
        loop {
            self.nodes += 1;
            let value = self.value(indent, depth)?;
            entries.push(Entry { key, line: at.0, column: at.1, value });
            if self.at == self.bytes.len() || self.indent() < indent {
                break;
            }
            if self.indent() > indent || self.is_item() {
                return None;
            }
            at = self.place()?;
            key = self.block_key()??;
        }
        self.node(place, Value::Map(once(entries)?))
    }

    /// The value after `key:`, of a map at this column. Leaves at the next content.
    fn value(&mut self, indent: usize, depth: usize) -> Option<Node> {
        let after = self.place_before()?;
        self.blanks();
        match self.peek() {
            Some(b'|') => return self.literal(indent),
            None | Some(b'\n' | b'#') => {}
            Some(_) => {
                let place = self.place()?;
                let value = self.inline(depth + 1)?;
                self.end_of_line()?;
                self.next_content();
                return self.node(place, value);
            }
        }
        self.end_of_line()?;
        self.next_content();
        if self.at < self.bytes.len() && self.indent() > indent {
            return self.block(depth + 1);
        }
        if self.at == self.bytes.len() || self.indent() < indent || !self.is_item() {
            return self.node(after, Value::Null);
        }
        // The library's place of a list that is not indented is that of what stands after its first mark.
        let (list, first) = self.items(depth + 1)?;
        self.node(first?, list)
    }

    /// A list in block style, and the place of what stands after its first mark in that line. Leaves at the next content.
    fn items(&mut self, depth: usize) -> Option<(Value, Option<(u32, u32)>)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (indent, mut first) = (self.indent(), None);
        let mut items = Vec::with_capacity(4);
        while self.at < self.bytes.len() && self.indent() == indent && self.is_item() {
            self.at += 1;
            self.blanks();
            if !matches!(self.peek(), None | Some(b'\n' | b'#')) {
                let place = self.place()?;
                first = first.or(items.is_empty().then_some(place));
            }
            match self.peek() {
                Some(b'|') => items.push(self.literal(indent)?),
                None | Some(b'\n' | b'#') => {
                    self.end_of_line()?;
                    self.next_content();
                    // An item that is nothing is a fault.
                    (self.at < self.bytes.len() && self.indent() > indent).then_some(())?;
                    items.push(self.block(depth + 1)?);
                }
                Some(_) => items.push(self.block(depth + 1)?),
            }
        }
        // Whether what follows may stand there is for whoever is around this.
        (self.at == self.bytes.len() || self.indent() <= indent).then_some(())?;
        items.shrink_to_fit();
        Some((Value::List(items), first))
    }

    /// A value that begins and ends in lines of its own or in this one, without what follows in the line.
    fn inline(&mut self, depth: usize) -> Option<Value> {
        match self.peek()? {
            b'[' | b'{' => self.flow(depth),
            b'"' | b'\'' => Some(Value::Text(self.quoted()?)),
            _ => scalar(self.plain(Style::Block)?),
        }
    }

    /// Within brackets: to what comes next, over line ends and comments.
    fn flow_content(&mut self) -> Option<u8> {
        if matches!(self.peek(), Some(b' ' | b'\n')) {
            self.next_content();
        }
        self.peek()
    }

    /// A collection in flow style.
    fn flow(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        let is_map = self.peek()? == b'{';
        let end = if is_map { b'}' } else { b']' };
        self.at += 1;
        let (mut entries, mut items) = (Vec::new(), Vec::new());
        if self.flow_content()? == end {
            self.at += 1;
            return Some(if is_map { Value::Map(entries) } else { Value::List(items) });
        }
        loop {
            if is_map {
                entries.push(self.flow_entry(depth)?);
            } else {
                items.push(self.flow_node(depth)?);
            }
            match self.flow_content()? {
                b',' => self.at += 1,
                found if found == end => break,
                _ => return None,
            }
            self.flow_content()?;
        }
        self.at += 1;
        if is_map { once(entries).map(Value::Map) } else { Some(Value::List(items)) }
    }

    fn flow_entry(&mut self, depth: usize) -> Option<Entry> {
        let (start, line, place) = (self.at, self.line, self.place()?);
        let quoted = matches!(self.peek()?, b'"' | b'\'');
        let key: Box<str> = if quoted { self.quoted()? } else { self.plain(Style::Flow)?.into() };
        self.blanks();
        if self.peek()? != b':' || self.line != line || self.at - start > MAX_KEY || is_null(&key) {
            return None;
        }
        self.at += 1;
        if !quoted && !matches!(self.peek()?, b' ' | b'\n') {
            return None;
        }
        self.nodes += 1;
        self.flow_content()?;
        Some(Entry { key, line: place.0, column: place.1, value: self.flow_node(depth)? })
    }

    fn flow_node(&mut self, depth: usize) -> Option<Node> {
        let place = self.place()?;
        let value = match self.peek()? {
            b'[' | b'{' => self.flow(depth + 1)?,
            b'"' | b'\'' => Value::Text(self.quoted()?),
            _ => scalar(self.plain(Style::Flow)?)?,
        };
        self.node(place, value)
    }

    /// A text without quotes, of one line.
    fn plain(&mut self, style: Style) -> Option<&'a str> {
        let start = self.at;
        match (self.peek()?, self.ahead()) {
            (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'/' | b'$' | b'(' | b'^' | b'\\' | b'~' | 0x80.., _) => {}
            (b'-', Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')) => {}
            (b'-', Some(b'-')) if self.bytes.get(self.at + 2).is_some_and(u8::is_ascii_alphabetic) => {}
            // `...` ends a document.
            (b'.', Some(next)) if next != b'.' => {}
            _ => return None,
        }
        let mut end = start;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => break,
                b' ' => {
                    self.at += 1;
                    if self.peek() == Some(b'#') {
                        break;
                    }
                    continue;
                }
                b':' if matches!(self.ahead(), None | Some(b' ' | b'\n')) => break,
                b':' if style == Style::Flow && matches!(self.ahead(), Some(b',' | b'[' | b']' | b'{' | b'}')) => return None,
                b',' | b'[' | b']' | b'{' | b'}' if style == Style::Flow => break,
                _ => self.at += 1,
            }
            end = self.at;
        }
        self.at = end;
        self.text.get(start..end)
    }

    /// A text in quotes, of one line.
    fn quoted(&mut self) -> Option<Box<str>> {
        let quote = self.peek()?;
        self.at += 1;
        let start = self.at;
        let length =
            self.bytes[start..].iter().position(|b| matches!(b, b'"' | b'\'' | b'\\' | b'\n') && (*b != b'\'' || quote == b'\''))?;
        if self.bytes[start + length] == quote && self.bytes.get(start + length + 1) != Some(&b'\'') {
            self.at = start + length + 1;
            return Some(self.text.get(start..start + length)?.into());
        }
        let mut text = String::new();
        loop {
            let rest = self.text.get(self.at..)?;
            let next = rest.chars().next()?;
            self.at += next.len_utf8();
            match next {
                '\n' => return None,
                '\'' if quote == b'\'' => {
                    if self.peek() != Some(b'\'') {
                        return Some(text.into());
                    }
                    self.at += 1;
                    text.push('\'');
                }
                '"' if quote == b'"' => return Some(text.into()),
                '\\' if quote == b'"' => text.push(self.escaped()?),
                other => text.push(other),
            }
        }
    }

    /// The character that is written after `\`.
    fn escaped(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(match next {
            b'"' | b'\\' | b'/' => char::from(next),
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                let number = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                self.at += 4;
                // Halves of characters are the library's business, and so is what is no text.
                char::from_u32(number).filter(|c| !c.is_control())?
            }
            _ => return None,
        })
    }

    /// A text of several lines after `|`, below a collection at this column. Leaves at the next content.
    fn literal(&mut self, parent: usize) -> Option<Node> {
        self.at += 1;
        let strip = self.peek() == Some(b'-');
        self.at += usize::from(strip);
        self.end_of_line()?;
        let mut text = String::new();
        let (mut indent, mut place) = (None, None);
        while self.at < self.bytes.len() {
            let rest = self.text.get(self.at..)?;
            let line = &rest[..rest.find('\n')?];
            let depth = line.len() - line.trim_start_matches(' ').len();
            if depth == line.len() {
                // Blanks that belong to the text, or not: the library knows.
                if depth > indent.unwrap_or(0) {
                    return None;
                }
                text.push('\n');
            } else if depth >= *indent.get_or_insert(depth) && depth > parent {
                // The library's place of it is that of its first character.
                let column = u32::try_from(depth + 1).ok()?;
                place.get_or_insert((self.line, column));
                text.push_str(&line[indent?..]);
                text.push('\n');
            } else if depth > parent {
                return None;
            } else {
                break;
            }
            self.at += line.len() + 1;
            self.line += 1;
            self.line_start = self.at;
        }
        let end = text.trim_end_matches('\n').len();
        if end == 0 {
            return None;
        }
        text.truncate(end + usize::from(!strip));
        self.next_content();
        self.node(place?, Value::Text(text.into()))
    }
}

/// The entries, if no key is written twice.
fn once(mut entries: Vec<Entry>) -> Option<Vec<Entry>> {
    let unique = if entries.len() <= SMALL {
        entries.iter().enumerate().all(|(at, entry)| !entries[..at].iter().any(|other| other.key == entry.key))
    } else {
        let mut seen = HashSet::with_capacity(entries.len());
        entries.iter().all(|entry| seen.insert(&*entry.key))
    };
    entries.shrink_to_fit();
    unique.then_some(entries)
}

/// What is no key: nothing, written in one of its ways.
fn is_null(text: &str) -> bool {
    text.is_empty() || text.starts_with('~') || text.eq_ignore_ascii_case("null")
}

/// The value of a plain text.
fn scalar(text: &str) -> Option<Value> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    let first = *text.as_bytes().first()?;
    if first.is_ascii_digit() || first == b'-' {
        return number(text);
    }
    if text.len() <= 5 {
        if is(&["true", "yes", "on", "y"]) {
            return Some(Value::Bool(true));
        }
        if is(&["false", "no", "off", "n"]) {
            return Some(Value::Bool(false));
        }
        if is(&["null", "~"]) {
            return Some(Value::Null);
        }
    }
    let fraction = first == b'.' && (text.as_bytes().get(1)?.is_ascii_digit() || is(&[".inf", ".nan"]));
    (!fraction).then(|| Value::Text(text.into()))
}

/// The value of a plain text that begins like a number.
fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let first = *digits.first()?;
    if first.is_ascii_alphabetic() || first == b'-' {
        return Some(Value::Text(text.into()));
    }
    // Zeros in front and other bases are read in more than one way.
    let odd = first == b'0' && matches!(digits.get(1), Some(b'0'..=b'9' | b'x' | b'X' | b'o' | b'O' | b'b' | b'B' | b'_'));
    if digits.iter().all(u8::is_ascii_digit) {
        return (!odd && digits.len() <= 18 && text != "-0").then(|| text.parse().ok().map(Value::Int))?;
    }
    if digits.len() < text.len() || odd {
        return None;
    }
    let numeric = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'_' | b'e' | b'E' | b'+' | b'-'));
    let dots = digits.iter().filter(|b| **b == b'.').count();
    if !numeric || dots > 1 {
        return Some(Value::Text(text.into()));
    }
    let decimal = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'.')) && digits.last()?.is_ascii_digit();
    if decimal { text.parse().ok().map(Value::Float) } else { None }
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
