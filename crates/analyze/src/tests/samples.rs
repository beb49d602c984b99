//! The samples are configurations as somebody would have them: nothing is to be said of them but what they leave open by intent.

use std::{path::Path, sync::Arc};

use crate::{Analysis, Level, Options, items};

/// Puts all files of a folder, and of those in it.
fn put(analysis: &mut Analysis, folder: &Path) {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            put(analysis, &path);
        } else if path.extension().is_some_and(|end| end == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            items(&text, &Arc::from(path.to_string_lossy()), "default", &mut |item| analysis.put_first(&item));
        }
    }
}

#[test]
fn nothing_is_wrong_with_the_bookshop() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
    let steps = std::fs::read_dir(samples.join("bookshop-steps")).unwrap().map(|entry| Some(entry.unwrap().path()));
    let mut seen = 0;
    for step in steps.chain([None]) {
        let mut analysis = Analysis::new(Options { default_gateway: true, ..Options::default() });
        put(&mut analysis, &samples.join("bookshop"));
        if let Some(step) = step.iter().find(|step| step.is_dir()) {
            put(&mut analysis, step);
        }
        analysis.update();
        seen += analysis.len();
        let told: Vec<String> = (analysis.messages().into_iter())
            // A denial by what a token says is about HTTP alone, as it has to be.
            .filter(|message| message.code.id.starts_with("IST") && message.code.level > Level::Info && message.code.id != "IST0133")
            .map(ToString::to_string)
            .collect();
        assert!(told.is_empty(), "{step:?}: {told:#?}");
    }
    assert!(seen > 0);
}
