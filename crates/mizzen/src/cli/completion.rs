//! Completion scripts of shells: the words of the command line, and the names of the workloads that run.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, name, output::print, place::Where};

/// The hidden verb that prints them: scripts call it.
pub(super) const WORKLOADS: &str = "__workloads";
/// Verbs after which a workload is named.
const VERBS: [&str; 9] = ["proxy-config", "pc", "proxy-status", "ps", "logs", "tls-check", "check", "pod", "po"];

/// Prints the script of a shell.
pub(super) fn script(shell: Shell) -> Result<()> {
    print(&with_workloads(shell, name()))
}

/// Prints the names of all workloads, one in a line. Who completes a word is told nothing of what went wrong.
pub(super) async fn workloads(place: &Where) -> Result<()> {
    let Ok(Some(mesh)) = place.running().await else { return Ok(()) };
    let names: Vec<String> = mesh.workloads().await.map(|found| found.iter().map(|one| one.name() + "\n").collect()).unwrap_or_default();
    print(&names.concat())
}

fn with_workloads(shell: Shell, name: &str) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + &bash(name),
        Shell::Zsh => zsh(&script, name),
        Shell::Fish => script + &fish(name),
        _ => script,
    }
}

/// A function around the one that knows the words.
fn bash(name: &str) -> String {
    let verbs = VERBS.join("|");
    format!(
        r#"
_{name}_workloads() {{
    _{name} "$@"
    local current="${{COMP_WORDS[COMP_CWORD]}}" word
    [[ "$current" == -* ]] && return
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in
            {verbs})
                COMPREPLY+=($(compgen -W "$({name} {WORKLOADS} 2>/dev/null)" -- "$current"))
                return ;;
        esac
    done
}}
complete -F _{name}_workloads -o bashdefault -o default {name}
"#
    )
}

/// Arguments that are called `workload` are completed by a function of their own.
fn zsh(script: &str, name: &str) -> String {
    let mut made = String::new();
    for line in script.lines() {
        let is_workload = ["':workload --", "'::workload --"].iter().any(|start| line.trim_start().starts_with(start));
        // The last lines of the script call what stands before them.
        if line.starts_with("if [ \"$funcstack[1]\"") {
            made += &format!(
                "_{name}_workloads() {{\n    local -a names\n    names=(${{(f)\"$({name} {WORKLOADS} 2>/dev/null)\"}})\n    compadd -a names\n}}\n\n"
            );
        }
        made += &if is_workload { line.replace(":_default'", &format!(":_{name}_workloads'")) } else { line.to_owned() };
        made.push('\n');
    }
    made
}

fn fish(name: &str) -> String {
    let verbs = VERBS.join(" ");
    format!("complete -c {name} -n \"__fish_seen_subcommand_from {verbs}\" -f -a \"({name} {WORKLOADS} 2>/dev/null)\"\n")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn scripts_name_workloads() {
        let zsh = with_workloads(Shell::Zsh, "mizzen");
        assert!(zsh.lines().any(|line| line.trim_start().starts_with("':workload --") && line.contains(":_mizzen_workloads'")), "{zsh}");
        assert!(zsh.contains("\n_mizzen_workloads() {\n"), "{zsh}");
        assert!(with_workloads(Shell::Fish, "istioctl").contains("(istioctl __workloads 2>/dev/null)"));
    }

    /// The script does in a shell what it is for.
    #[test]
    fn words_in_bash() {
        let script = with_workloads(Shell::Bash, "mizzen");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("test.bash");
        let check = |line: &str, expected: &[&str], not: &[&str]| {
            let words: Vec<&str> = line.split(' ').collect();
            let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            let test = format!(
                "{script}\nmizzen() {{ [ \"$1\" = {WORKLOADS} ] && printf 'web-0.shop\\ndb-0.ops\\n'; }}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n\
                 _mizzen_workloads mizzen '{}' ''\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
                quoted.join(" "),
                words.len() - 1,
                words.last().copied().unwrap_or_default(),
            );
            // One argument may not be as long as the script.
            std::fs::write(&file, test).expect("a file");
            let made = Command::new("bash").arg(&file).stdin(Stdio::null()).output().expect("bash");
            let said = String::from_utf8_lossy(&made.stdout);
            let lines: Vec<&str> = said.lines().collect();
            assert!(expected.iter().all(|word| lines.contains(word)), "{line}: {said}{}", String::from_utf8_lossy(&made.stderr));
            assert!(not.iter().all(|word| !lines.contains(word)), "{line}: {said}");
        };
        check("mizzen proxy-config cluster ", &["web-0.shop", "db-0.ops"], &[]);
        check("mizzen proxy-config cluster we", &["web-0.shop"], &["db-0.ops"]);
        check("mizzen authn tls-check d", &["db-0.ops"], &["web-0.shop"]);
        check("mizzen analyze ", &[], &["web-0.shop"]);
        check("mizzen logs --pro", &["--proxy"], &["web-0.shop"]);
    }
}
