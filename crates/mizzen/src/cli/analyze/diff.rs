//! A unified diff of a text whose lines know where they come from.

use std::fmt::Write;

/// Lines that are shown around a change.
const AROUND: usize = 3;

/// A line of the new text, with its end, and which line of the old one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 0; `None` for what is new.
    pub(crate) origin: Option<usize>,
    pub(crate) text: String,
}

/// The lines of a text that is not changed yet.
pub(crate) fn lines(text: &str) -> Vec<Line> {
    text.split_inclusive('\n').enumerate().map(|(number, text)| Line { origin: Some(number), text: text.to_owned() }).collect()
}

enum Step<'a> {
    Keep(&'a str),
    Remove(&'a str),
    Add(&'a str),
}

impl<'a> Step<'a> {
    fn parts(&self) -> (char, &'a str) {
        match self {
            Step::Keep(line) => (' ', line),
            Step::Remove(line) => ('-', line),
            Step::Add(line) => ('+', line),
        }
    }
}

/// The diff; empty if nothing is changed.
pub(crate) fn unified(name: &str, before: &str, after: &[Line]) -> String {
    let steps = steps(before, after);
    let changes: Vec<usize> = (0..steps.len()).filter(|at| !matches!(steps[*at], Step::Keep(_))).collect();
    let mut text = String::new();
    let mut rest = &changes[..];
    while let Some(first) = rest.first().copied() {
        // What is near enough to the one before is in the same piece.
        let near = rest.windows(2).take_while(|pair| pair[1] - pair[0] <= 2 * AROUND).count();
        let (from, to) = (first.saturating_sub(AROUND), (rest[near] + AROUND + 1).min(steps.len()));
        rest = &rest[near + 1..];
        if text.is_empty() {
            let (a, b) = if name.starts_with('/') { ("", "") } else { ("a/", "b/") };
            _ = writeln!(text, "--- {a}{name}\n+++ {b}{name}");
        }
        piece(&mut text, &steps, from, to);
    }
    text
}

fn steps<'a>(before: &'a str, after: &'a [Line]) -> Vec<Step<'a>> {
    let before: Vec<&str> = before.split_inclusive('\n').collect();
    let (mut steps, mut added, mut at) = (Vec::new(), Vec::new(), 0);
    for line in after {
        match line.origin {
            None => added.push(&*line.text),
            Some(origin) => {
                steps.extend(before[at..origin].iter().map(|line| Step::Remove(line)));
                steps.extend(added.drain(..).map(Step::Add));
                steps.push(Step::Keep(&line.text));
                at = origin + 1;
            }
        }
    }
    steps.extend(before[at..].iter().map(|line| Step::Remove(line)));
    steps.extend(added.into_iter().map(Step::Add));
    steps
}

fn piece(text: &mut String, steps: &[Step<'_>], from: usize, to: usize) {
    let count = |range: &[Step<'_>], not: char| range.iter().filter(|step| step.parts().0 != not).count();
    let range = |not| {
        let (before, length) = (count(&steps[..from], not), count(&steps[from..to], not));
        // An empty range is named by the line before it.
        format!("{},{length}", if length == 0 { before } else { before + 1 })
    };
    _ = writeln!(text, "@@ -{} +{} @@", range('+'), range('-'));
    for step in &steps[from..to] {
        let (sign, line) = step.parts();
        text.push(sign);
        *text += line;
        if !line.ends_with('\n') {
            *text += "\n\\ No newline at end of file\n";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces() {
        let before: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let mut after = lines(&before);
        assert_eq!(unified("a.yaml", &before, &after), "");
        let new = |text: &str| Line { origin: None, text: text.to_owned() };
        after.splice(17..20, [new("end")]);
        after.splice(4..5, [new("five\n")]);
        after.insert(0, new("zero\n"));
        let expected = "\
--- a/a.yaml
+++ b/a.yaml
@@ -1,8 +1,9 @@
+zero
 1
 2
 3
 4
-5
+five
 6
 7
 8
@@ -15,6 +16,4 @@
 15
 16
 17
-18
-19
-20
+end
\\ No newline at end of file
";
        assert_eq!(unified("a.yaml", &before, &after), expected);
        assert!(unified("/a.yaml", &before, &after).starts_with("--- /a.yaml\n+++ /a.yaml\n@@"));
        let none: [Line; 0] = [];
        assert_eq!(unified("x", "1\n", &none), "--- a/x\n+++ b/x\n@@ -1,1 +0,0 @@\n-1\n");
    }
}
