//! Dependencies that nothing names any more: they cost build time and say what is not so.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sources;

/// Named only by code that a build script makes.
const GENERATED: [&str; 2] = ["tonic_prost", "prost"];

/// The problems found.
pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let libraries: BTreeMap<&str, &str> = packages.iter().filter_map(|p| Some((p["name"].as_str()?, library(p)?))).collect();
    let mut problems = Vec::new();
    for package in packages.iter().filter(|p| p["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let dir = manifest.parent().context("a manifest without a folder")?;
        let mut code = String::new();
        sources::walk(dir, &mut |_, text| code.push_str(text))?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            let library = libraries.get(target).map_or_else(|| target.replace('-', "_"), |l| (*l).to_owned());
            if !GENERATED.contains(&&*library) && !names(&code, &library) {
                problems.push(format!("crate {name} depends on {target} and does not name it"));
            }
        }
    }
    Ok(problems)
}

fn library(package: &Value) -> Option<&str> {
    let is_library = |target: &&Value| target["kind"].as_array().is_some_and(|k| k.iter().any(|k| k == "lib" || k == "proc-macro"));
    package["targets"].as_array()?.iter().find(is_library)?["name"].as_str()
}

/// Whether `library` stands in the code as a whole word.
fn names(code: &str, library: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(library).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + library.len()..]);
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words() {
        for (code, library, expected) in [
            ("use http::Method;", "http", true),
            ("use mizzen_http::Codec;", "http", false),
            ("http_body::Body", "http", false),
            ("#[serde(rename = \"x\")]", "serde", true),
            ("", "http", false),
        ] {
            assert_eq!(names(code, library), expected, "{code} {library}");
        }
    }
}
