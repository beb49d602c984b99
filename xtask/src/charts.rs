//! `cargo xtask charts`: the files of the Helm charts that are made of what the installer knows, and whether they are as they would be made now.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Folders in which all files are made.
const MADE: [&str; 1] = ["base/files/crds"];

/// Writes what differs.
pub(crate) fn write(root: &Path) -> Result<()> {
    let folder = root.join("charts");
    let made = mizzen::chart_files()?;
    for (name, text) in &made {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == *text) {
            continue;
        }
        fs::create_dir_all(path.parent().context("a file without a folder")?)?;
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("charts/{name}");
    }
    for path in left_over(&folder, &made)? {
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        println!("{} is removed", path.display());
    }
    Ok(())
}

/// The problems found.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("charts");
    let made = mizzen::chart_files()?;
    let stale = made.iter().filter(|(name, text)| !fs::read_to_string(folder.join(name)).is_ok_and(|there| there == *text));
    let mut problems: Vec<String> = stale.map(|(name, _)| format!("charts/{name} is not as `cargo xtask charts` makes it")).collect();
    problems.extend(
        left_over(&folder, &made)?.iter().map(|path| format!("{} is made by nobody: `cargo xtask charts` removes it", path.display())),
    );
    Ok(problems)
}

/// Files of the made folders that would not be made any more.
fn left_over(folder: &Path, made: &[(String, String)]) -> Result<Vec<PathBuf>> {
    let made: BTreeSet<PathBuf> = made.iter().map(|(name, _)| folder.join(name)).collect();
    let mut found = Vec::new();
    for name in MADE {
        let folder = folder.join(name);
        if !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if !made.contains(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stale() {
        let root = tempfile::tempdir().unwrap();
        let told = || check(root.path()).unwrap();
        let count = told().len();
        assert_eq!(count, mizzen::chart_files().unwrap().len(), "nothing is there yet");
        write(root.path()).unwrap();
        assert_eq!(told(), [""; 0]);
        let crds = root.path().join("charts/base/files/crds");
        fs::write(crds.join("gone.yaml"), "").unwrap();
        fs::write(root.path().join("charts/istiod/values.yaml"), "").unwrap();
        let problems = told();
        assert!(
            problems.len() == 2 && problems[0].starts_with("charts/istiod/values.yaml") && problems[1].contains("gone.yaml"),
            "{problems:?}"
        );
        write(root.path()).unwrap();
        assert_eq!(told(), [""; 0]);
    }
}
