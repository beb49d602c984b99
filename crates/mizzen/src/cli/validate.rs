//! `mizzen validate`: whether objects are good by themselves, by the code that refuses them in `mizzen up`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use mizzen_api::{Node, Problem, Seen, see_documents};

use super::{
    analyze::files::{File, gather},
    output,
};
use crate::up::say;

/// Arguments of `validate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 if all objects are good, 1 if one is refused or a file cannot be read, 64 if the command line is not understood. What \
objects say of each other is looked at by `mizzen analyze`."
)]
pub(crate) struct ValidateArgs {
    /// Files of YAML or JSON, folders with all that are below them, or `-` for standard input. May be repeated, or have several by commas.
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    filename: Vec<PathBuf>,
    /// The same.
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
}

/// What is found in a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    objects: usize,
    refused: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Runs it.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn run(args: &ValidateArgs) -> Result<ExitCode> {
    let paths: Vec<PathBuf> = args.filename.iter().chain(&args.paths).cloned().collect();
    if paths.is_empty() {
        bail!("no files are named: name them with -f, as in `validate -f gateway.yaml`");
    }
    let gathered = gather(&paths, true)?;
    for path in &gathered.skipped {
        say::warning(&format!("{} is left out: files of configuration end in .json, .yaml or .yml", path.display()));
    }
    if gathered.files.is_empty() {
        bail!("there is no file that ends in .json, .yaml or .yml");
    }
    let mut is_good = true;
    for file in &gathered.files {
        let verdict = validate(file);
        verdict.warnings.iter().for_each(|warning| say::warning(&warning.to_string()));
        verdict.refused.iter().for_each(|problem| say::problem(&problem.to_string()));
        if verdict.refused.is_empty() {
            let objects = if verdict.objects == 1 { "one object".to_owned() } else { format!("{} objects", verdict.objects) };
            let name = if file.path.is_none() { "standard input" } else { &*file.name };
            output::print(&format!("{name} is valid: {objects}\n"))?;
        } else {
            is_good = false;
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn validate(file: &File) -> Verdict {
    let mut verdict = Verdict::default();
    let mut foreign = Vec::new();
    let parsed = see_documents(&file.text, &file.name, &mut |seen| {
        if is_foreign(&seen) {
            foreign.push(seen.number);
        }
    });
    verdict.warnings.extend(parsed.warnings);
    for (number, object) in parsed.objects.into_iter().enumerate() {
        match object {
            Ok(_) => verdict.objects += 1,
            Err(refusal) if foreign.contains(&number) => {
                verdict.objects += 1;
                let not_read = |problem: Problem| Problem { message: format!("{}; it is not validated", problem.message), ..problem };
                verdict.warnings.extend(refusal.problems.into_iter().map(not_read));
            }
            Err(refusal) => verdict.refused.extend(refusal.problems),
        }
    }
    verdict.warnings.sort();
    verdict.refused.sort();
    verdict
}

/// Whether an object is refused for nothing but being of a kind that is neither Istio's nor the Gateway API's nor nearly called as one that is read:
/// whoever made the kind knows what is good there.
fn is_foreign(seen: &Seen<'_>) -> bool {
    let text = |key: &str| seen.node.get(key).and_then(Node::text);
    let (Some(version), Some(_), Err(refusal)) = (text("apiVersion"), text("kind"), seen.object) else { return false };
    let (group, _) = version.split_once('/').unwrap_or(("", version));
    let is_ours = group == "gateway.networking.k8s.io" || group == "istio.io" || group.ends_with(".istio.io");
    !is_ours && refusal.problems.iter().all(|problem| problem.field == "kind" && !problem.message.contains("did you mean"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let check = |text: &str, objects, refused: &[&str], warnings: &[&str]| {
            let verdict = validate(&File { name: "a.yaml".into(), path: None, text: text.to_owned() });
            let lines = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
            let (told, warned) = (lines(&verdict.refused), lines(&verdict.warnings));
            assert_eq!((verdict.objects, told.len(), warned.len()), (objects, refused.len(), warnings.len()), "{text}: {verdict:?}");
            for (line, part) in told.iter().zip(refused).chain(warned.iter().zip(warnings)) {
                assert!(line.contains(part), "{line}: {part}");
            }
        };
        let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n";
        check(&format!("{policy}spec: {{rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}\n"), 1, &[], &[]);
        check(&format!("{policy}spec: {{action: DENY}}\n"), 1, &[], &["never denies"]);
        let bad = format!("{policy}spec: {{actoin: DENY}}\n---\nkind: [\n---\n{policy}spec: {{rules: 1}}\n");
        check(&bad, 0, &["a.yaml:4: AuthorizationPolicy default/p: spec.actoin: unknown field", "a.yaml:", "a.yaml:11: "], &[]);
        check("apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}\n", 1, &[], &["a.yaml:2: kind: "]);
        check("apiVersion: batch/v1\nkind: Job\nmetadata: {name: w}\n", 1, &[], &["it is not validated"]);
        check("apiVersion: v1\nkind: Servce\nmetadata: {name: w}\n", 0, &["did you mean Service?"], &[]);
        check("apiVersion: networking.istio.io/v1\nkind: Widget\nmetadata: {name: w}\n", 0, &["a.yaml:2: kind: "], &[]);
        check("replicas: 3\n", 0, &["apiVersion: is required", "kind: is required"], &[]);
        check("# nothing\n", 0, &[], &[]);
    }
}
