//! Nothing is said of configurations that are good: those of `cases/clean`, each as large as that of a small company, and those of `samples`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use mizzen_analyze::{Analysis, INSTALLED, Id, Options, items};

/// The files of a folder and those below it, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    all.into_iter()
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect()
}

/// What is said of these files, of which a later one takes the place of an earlier one's objects; and how many objects they have.
fn said(paths: &[PathBuf]) -> (usize, Vec<String>) {
    let texts: Vec<(Arc<str>, String)> =
        paths.iter().map(|path| (path.to_string_lossy().into(), fs::read_to_string(path).expect("a file"))).collect();
    let mut last: BTreeMap<Id, usize> = BTreeMap::new();
    for (number, (name, text)) in texts.iter().enumerate() {
        items(text, name, "default", &mut |item| _ = last.insert(item.id.clone(), number));
    }
    let mut analysis = Analysis::new(Options { default_gateway: true, ..Options::default() });
    for (number, (name, text)) in texts.iter().enumerate() {
        items(text, name, "default", &mut |item| {
            if last.get(&item.id) == Some(&number) {
                analysis.put_first(&item);
            }
        });
    }
    let own = analysis.len();
    items(INSTALLED, &"".into(), "default", &mut |item| {
        if !last.contains_key(&item.id) {
            analysis.put(&item);
        }
    });
    analysis.update();
    let told = analysis.messages().into_iter().filter(|message| !message.code.is_overview).map(ToString::to_string).collect();
    (own, told)
}

#[test]
fn large_configurations() {
    let cases = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/clean"));
    assert_eq!(cases.len(), 10);
    let mut wrong = Vec::new();
    for case in cases {
        let (objects, told) = said(std::slice::from_ref(&case));
        assert!(objects >= 50, "{}: {objects} objects", case.display());
        wrong.extend(told);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each step of the sample is laid over those before. What they show on purpose is told: an AUDIT policy, which decides nothing, and what a DENY rule about
/// HTTP means for plain TCP.
#[test]
fn the_samples() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
    let mut over = files(&samples.join("bookshop"));
    let steps = files(&samples.join("bookshop-steps"));
    assert!(over.len() > 5 && steps.len() > 5, "{over:?} {steps:?}");
    let mut wrong = said(&over).1;
    for step in steps {
        over.push(step);
        wrong.extend(said(&over).1);
    }
    let is_meant = |line: &str| {
        line.contains("an AUDIT policy decides nothing") || line.contains("a DENY rule about HTTP alone denies all of plain TCP")
    };
    wrong.retain(|line| !is_meant(line));
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
