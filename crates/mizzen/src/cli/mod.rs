//! The command line.

mod admin;
mod analyze;
mod authn;
mod authz;
mod completion;
mod describe;
mod explain;
mod fields;
pub(crate) mod find;
mod install;
mod kube;
mod kube_inject;
mod logs;
mod netpol;
mod output;
pub(crate) mod place;
mod precheck;
mod proxy_config;
mod proxy_status;
mod run;
mod state;
mod validate;
mod version;
mod x;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

pub use self::install::chart_files;
use crate::up;

/// A service mesh for Linux hosts and Kubernetes, with Istio's APIs.
#[derive(Debug, Parser)]
#[command(name = "mizzen", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    place: place::Where,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Run a mesh on this host from a folder of YAML, and follow the folder until Ctrl-C.
    Up(up::UpArgs),
    /// Put one more program into the running mesh.
    Run(run::RunArgs),
    /// Show which configuration each proxy has, and whether it is the newest.
    #[command(visible_alias = "ps")]
    ProxyStatus(proxy_status::ProxyStatusArgs),
    /// Show what a proxy runs: its clusters, listeners, routes, endpoints or certificates.
    #[command(visible_alias = "pc", subcommand)]
    ProxyConfig(proxy_config::ProxyConfigVerb),
    /// Show what a workload, its proxy or the control plane has written.
    Logs(logs::LogsArgs),
    /// Decide a hypothetical call step by step: would it be allowed, and why not?
    Explain(Box<explain::ExplainArgs>),
    /// Find what is wrong with a configuration: the running mesh's, that of files, or the one laid over the other.
    Analyze(Box<analyze::AnalyzeArgs>),
    /// Write the Kubernetes NetworkPolicies that repeat the mesh's policies at L4.
    Netpol(Box<netpol::NetpolArgs>),
    /// Check objects by themselves, as `up` does before it takes them.
    Validate(validate::ValidateArgs),
    /// Install the mesh into a Kubernetes cluster, or make an installation as it is to be.
    Install(Box<install::InstallArgs>),
    /// Remove the mesh from a cluster.
    Uninstall(install::UninstallArgs),
    /// Show whether everything that was installed into a cluster is there and ready.
    VerifyInstall(install::VerifyArgs),
    /// The objects of an installation.
    #[command(subcommand)]
    Manifest(install::ManifestVerb),
    /// Put the proxy into the pods of Kubernetes manifests, as the cluster's webhook would.
    KubeInject(kube_inject::KubeInjectArgs),
    /// The control plane itself: what it logs.
    #[command(subcommand)]
    Admin(admin::AdminVerb),
    /// Mutual TLS: what servers take and clients send.
    #[command(subcommand)]
    Authn(authn::AuthnVerb),
    /// All that concerns one pod or one service: ports, rules, routes, mutual TLS and policies.
    #[command(subcommand)]
    Describe(describe::DescribeVerb),
    /// Try policies on calls that were recorded, and write policies from them.
    #[command(subcommand)]
    Authz(authz::AuthzVerb),
    /// Show the versions of the CLI and of the running mesh.
    Version(version::VersionArgs),
    /// What may still change: questions to the control plane about itself, and what is supported of Istio's kinds.
    #[command(name = "x", visible_alias = "experimental", subcommand)]
    X(x::XVerb),
    /// Print the completion script of a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the names of all workloads, for completion.
    #[command(name = completion::WORKLOADS, hide = true)]
    Workloads,
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Where the exit code is an answer, a question that was not understood must not look like one.
        let is_for = |verbs: &[&str]| std::env::args().skip(1).any(|word| verbs.contains(&word.as_str()));
        let _ = error.print();
        std::process::exit(match error.exit_code() {
            0 => 0,
            _ if is_for(&CHECKS) || name() == ISTIOCTL => i32::from(analyze::USAGE),
            _ if is_for(&ANSWERS) => i32::from(NO_ANSWER),
            code => code,
        })
    });
    let place = &cli.place;
    let mesh = place.mesh.as_deref();
    let result = match cli.verb {
        // `up` makes its processes before any thread exists, and its runtime after.
        Verb::Up(args) => return up::main(mesh, &args),
        Verb::Run(args) => runtime(run::run(mesh, args)),
        Verb::ProxyStatus(args) => runtime(proxy_status::run(place, args)).map(|()| ExitCode::SUCCESS),
        Verb::ProxyConfig(verb) => runtime(proxy_config::run(place, verb)).map(|()| ExitCode::SUCCESS),
        Verb::Logs(args) => runtime(logs::run(place, args)).map(|()| ExitCode::SUCCESS),
        Verb::Explain(args) => return answer(runtime(explain::run(place, *args))),
        Verb::Analyze(args) => analyze::run(place, *args),
        Verb::Netpol(args) => netpol::run(place, &args).map(|()| ExitCode::SUCCESS),
        Verb::Validate(args) => validate::run(&args),
        Verb::Install(args) => runtime(install::install(place, *args)).map(|()| ExitCode::SUCCESS),
        Verb::Uninstall(args) => runtime(install::uninstall(place, args)).map(|()| ExitCode::SUCCESS),
        Verb::VerifyInstall(args) => runtime(install::verify(place, args)),
        Verb::Manifest(verb) => install::manifest(&verb).map(|()| ExitCode::SUCCESS),
        Verb::KubeInject(args) => kube_inject::run(place, &args).map(|()| ExitCode::SUCCESS),
        Verb::Admin(verb) => runtime(admin::run(place, verb)).map(|()| ExitCode::SUCCESS),
        Verb::Describe(verb) => runtime(describe::run(place, verb)).map(|()| ExitCode::SUCCESS),
        Verb::Authn(verb) => runtime(authn::run(place, verb)).map(|()| ExitCode::SUCCESS),
        Verb::Authz(verb) => return answer(authz::run(place, &verb)),
        Verb::Version(args) => runtime(version::run(place, args)).map(|()| ExitCode::SUCCESS),
        Verb::X(verb) => runtime(x::run(place, verb)),
        Verb::Completion { shell } => completion::script(shell).map(|()| ExitCode::SUCCESS),
        Verb::Workloads => runtime(completion::workloads(place)).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("mizzen: {error:#}");
        ExitCode::FAILURE
    })
}

/// Under this name too the program is called: by scripts that were written for Istio's.
const ISTIOCTL: &str = "istioctl";

/// The name under which it was called.
fn name() -> &'static str {
    let called = std::env::args_os().next().unwrap_or_default();
    if std::path::Path::new(&called).file_name().is_some_and(|name| name == ISTIOCTL) { ISTIOCTL } else { "mizzen" }
}

/// Verbs that have istioctl's exit codes.
const CHECKS: [&str; 2] = ["analyze", "validate"];
/// Verbs whose exit code is an answer.
const ANSWERS: [&str; 2] = ["authz", "explain"];
/// The exit code if there is none.
const NO_ANSWER: u8 = 3;

fn answer(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("mizzen: {error:#}");
        ExitCode::from(NO_ANSWER)
    })
}

fn runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
