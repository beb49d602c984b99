//! `mizzen admin`: the running control plane itself.

use anyhow::Result;
use mizzen_control::ScopeStatus;

use super::{
    output::{Output, print, render, table},
    place::{Place, Where},
};

/// What can be done with the control plane.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AdminVerb {
    /// Show what the control plane logs, by scopes, or change their levels while it runs.
    Log(LogArgs),
}

/// Arguments of `admin log`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Levels to set: `SCOPE:LEVEL`, several with commas, or one LEVEL for all scopes. LEVEL is none, error, warn, info, debug or trace.
    #[arg(long, value_name = "SCOPE:LEVEL")]
    level: Option<String>,
    /// Set all levels back to what the control plane was started with.
    #[arg(short, long)]
    reset: bool,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Where, verb: AdminVerb) -> Result<()> {
    match verb {
        AdminVerb::Log(args) => log(&place.find().await?, &args).await,
    }
}

async fn log(mesh: &Place, args: &LogArgs) -> Result<()> {
    let found = match path(args) {
        None => mesh.debug("/debug/log").await?,
        Some(path) => mesh.change(&path).await?,
    };
    let scopes: Vec<ScopeStatus> = serde_json::from_value(found)?;
    print(&render(args.output, &scopes, || text(&scopes))?)
}

/// What is to be changed; `None` if nothing is.
fn path(args: &LogArgs) -> Option<String> {
    let level = args.level.as_ref().map(|level| {
        // In a query these stand for themselves, and all else that a level may hold is escaped.
        let escaped: String = level
            .bytes()
            .map(|byte| match byte {
                byte if byte.is_ascii_alphanumeric() || b":,_-".contains(&byte) => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        format!("level={escaped}")
    });
    let reset = args.reset.then(|| "reset=true".to_owned());
    let parts: Vec<String> = reset.into_iter().chain(level).collect();
    (!parts.is_empty()).then(|| format!("/debug/log?{}", parts.join("&")))
}

fn text(scopes: &[ScopeStatus]) -> Result<String> {
    let row = |scope: &ScopeStatus| vec![scope.name.clone(), scope.description.clone(), scope.level.clone()];
    table(&["ACTIVE SCOPE", "DESCRIPTION", "LOG LEVEL"], &scopes.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let of = |level: Option<&str>, reset| path(&LogArgs { level: level.map(str::to_owned), reset, output: Output::Short });
        assert_eq!(of(None, false), None);
        assert_eq!(of(Some("authorization:debug,ads:warn"), false).as_deref(), Some("/debug/log?level=authorization:debug,ads:warn"));
        assert_eq!(of(Some("a b&reset=true"), true).as_deref(), Some("/debug/log?reset=true&level=a%20b%26reset%3Dtrue"));
    }

    #[test]
    fn what_is_printed() {
        let scope = ScopeStatus { name: "ca".to_owned(), description: "Certificates.".to_owned(), level: "info".to_owned() };
        assert_eq!(text(&[scope]).unwrap(), "ACTIVE SCOPE     DESCRIPTION       LOG LEVEL\nca               Certificates.     info\n");
    }
}
