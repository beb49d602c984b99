//! The fuzz targets over their corpora, and over seeded changes to them.

use std::{collections::BTreeMap, path::PathBuf};

use mizzen_testkit::fuzz::{Body, Dice, TARGETS, mutate};

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// A target's inputs, by the names of their files.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = fuzz().join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap());
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

/// Says which input it was, in a form in which it can become a file.
fn run(body: Body, what: &str, input: &[u8]) {
    let result = std::panic::catch_unwind(|| body(input));
    if let Err(panic) = result {
        eprintln!("{what}: {}", input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

fn check(name: &str, changed: usize) {
    let (_, body) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let corpus = corpus(name);
    assert!(corpus.len() >= 5, "{name} has only {} inputs", corpus.len());
    for (file, input) in &corpus {
        run(body, &format!("{name}/{file}"), input);
    }
    let all: Vec<_> = corpus.iter().collect();
    let changed = std::env::var("MIZZEN_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(changed);
    let mut dice = Dice(2026);
    for number in 0..changed {
        let (file, input) = all[number % all.len()];
        let input = mutate(input, all[dice.below(all.len())].1, &mut dice);
        run(body, &format!("{name}/{file}, changed ({number})"), &input);
    }
}

#[test]
fn each_target_has_its_program() {
    let mut programs: Vec<_> = std::fs::read_dir(fuzz().join("fuzz_targets")).unwrap().map(|entry| entry.unwrap().path()).collect();
    programs.sort();
    let mut expected: Vec<_> = TARGETS.iter().map(|(name, _)| fuzz().join(format!("fuzz_targets/{name}.rs"))).collect();
    expected.sort();
    assert_eq!(programs, expected);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let text = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("fuzz::{name}(data)")) && manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}

macro_rules! targets {
    ($($name:ident: $changed:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), $changed);
        })*
    };
}

targets! {
    h1: 4_000, h2: 3_000, hpack: 6_000, sniff: 3_000, client_hello: 3_000, proxy_protocol: 3_000, xds: 2_000, bootstrap: 60, yaml: 1_000, mesh: 150,
    token: 4_000, analyze: 1_000,
}
