//! The samples hold nothing that is refused or not acted on, but for the AUDIT policy of one step.

use std::{fs, path::Path};

fn check(folder: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found += check(&entry);
        } else if entry.extension().is_some_and(|ending| ending == "yaml") {
            let parsed = mizzen_api::parse_documents(&fs::read_to_string(&entry).unwrap(), &entry.to_string_lossy().into());
            let said = parsed.problems().chain(&parsed.warnings).map(ToString::to_string);
            let said: Vec<_> = said.filter(|text| !text.contains("an AUDIT policy decides nothing")).collect();
            assert!(said.is_empty(), "{said:#?}");
            found += parsed.objects.len();
        }
    }
    found
}

#[test]
fn samples() {
    assert!(check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")) > 20);
}
