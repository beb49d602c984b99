//! Rules about the source files themselves.

use std::path::Path;

use anyhow::Result;

/// Crates in which `unsafe` may stand, each time with its reason.
const UNSAFE: [&str; 3] = ["crates/net/", "crates/capture/", "crates/host/"];
/// Files are kept short enough to be read at a sitting.
const MAX_LINES: usize = 700;

/// The problems found.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let dir = entry?.path();
        let roots: Vec<_> = match ["src/lib.rs", "src/main.rs"].iter().map(|f| dir.join(f)).find(|f| f.exists()) {
            Some(root) => vec![root],
            // Programs without a library.
            None => std::fs::read_dir(dir.join("src"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?,
        };
        for root in roots {
            if !std::fs::read_to_string(&root)?.starts_with("//!") {
                problems.push(format!("{} does not open with a `//!` header", root.display()));
            }
        }
        walk(&dir, &mut |path, text| {
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            problems.extend(file(&name, text));
        })?;
    }
    Ok(problems)
}

/// Shows every source file below a folder, with its text.
pub(crate) fn walk(dir: &Path, show: &mut dyn FnMut(&Path, &str)) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, show)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            show(&path, &std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

fn file(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("{name} has {lines} lines: more than {MAX_LINES}, split it"));
    }
    let mut reason = false;
    for (at, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if code.contains("unsafe ") && !code.contains("unsafe_code") {
            if !UNSAFE.iter().any(|allowed| name.starts_with(allowed)) {
                problems.push(format!("{name}:{}: `unsafe` may not stand in this crate", at + 1));
            } else if !reason && !line.contains("SAFETY") && code.contains("unsafe {") {
                problems.push(format!("{name}:{}: `unsafe` without a SAFETY comment", at + 1));
            }
        }
        let comment = line.trim_start().starts_with("//");
        reason = line.contains("SAFETY") || (reason && (comment || line.trim_start().starts_with('#')));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code() {
        let block = "fn f() {\n    unsafe { g() }\n}\n";
        let reasoned = "// SAFETY: g has no preconditions.\nunsafe { g() }\n";
        for (name, text, count) in [
            ("crates/http/src/a.rs", reasoned, 1),
            ("crates/net/src/a.rs", reasoned, 0),
            ("crates/net/src/a.rs", block, 1),
            ("crates/http/src/a.rs", "// unsafe { } in a comment\n", 0),
        ] {
            assert_eq!(file(name, text).len(), count, "{name} {text}");
        }
    }
}
