//! What a proxy logs.

use anyhow::{Result, bail};

use super::{
    super::{
        output::{Output, print, render},
        place::{Where, Workload},
    },
    Target,
};

/// Arguments of `proxy-config log`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogArgs {
    #[command(flatten)]
    target: Target,
    /// Levels to set: `LOGGER:LEVEL`, several with commas, or one LEVEL for all. LEVEL is trace, debug, info, warning, error, critical or off.
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    /// Set all levels back to what the proxy was started with.
    #[arg(short, long, conflicts_with = "level")]
    reset: bool,
}

/// The level to which an Envoy, which does not know its own, is put back, as istioctl does.
const ENVOY_LEVEL: &str = "warning";

pub(super) async fn run(place: &Where, args: &LogArgs) -> Result<()> {
    if let Some(file) = &args.target.file {
        bail!("{}: what a proxy logs is in no dump", file.display());
    }
    let Some(mesh) = args.target.mesh(place).await? else { bail!("which workload?") };
    let Some(workload) = &args.target.workload else { bail!("which workload?") };
    let pod = mesh.pod(workload, args.target.namespace.as_deref()).await?;
    let is_envoy =
        args.reset && !pod.admin("/server_info").await?["version"].as_str().is_some_and(|version| version.starts_with("mizzen/"));
    let path = path(args.level.as_deref(), args.reset, is_envoy);
    let said = match (&pod, path == PAGE) {
        // An Envoy takes the question as an order, too.
        (Workload::Host(_), _) | (_, false) => pod.change(&path).await?,
        (Workload::Cluster(..), true) => pod.admin_text(&path).await?,
    };
    let loggers = loggers(&said);
    let output = args.target.output.unwrap_or_default();
    print(&render(output, &loggers, || Ok(format!("{}:\n{}", pod.name(), if output == Output::Short { &*said } else { "" })))?)
}

/// The page of the admin interface.
const PAGE: &str = "/logging";

fn path(level: Option<&str>, reset: bool, is_envoy: bool) -> String {
    match level {
        _ if reset && is_envoy => format!("{PAGE}?level={ENVOY_LEVEL}"),
        _ if reset => format!("{PAGE}?reset"),
        None => PAGE.to_owned(),
        // In a query these stand for themselves, and all else is escaped.
        Some(level) => {
            let escaped: String = level
                .bytes()
                .map(|byte| match byte {
                    byte if byte.is_ascii_alphanumeric() || b":,_-.".contains(&byte) => char::from(byte).to_string(),
                    byte => format!("%{byte:02X}"),
                })
                .collect();
            format!("{PAGE}?{}={escaped}", if level.contains([':', ',']) { "paths" } else { "level" })
        }
    }
}

/// `LOGGER: LEVEL`, one in a line.
fn loggers(text: &str) -> std::collections::BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
    pairs.map(|(logger, level)| (logger.to_owned(), level.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        assert_eq!(path(None, false, false), "/logging");
        assert_eq!(path(Some("debug"), false, false), "/logging?level=debug");
        assert_eq!(path(Some("http:debug,xds:warning"), false, true), "/logging?paths=http:debug,xds:warning");
        assert_eq!(path(Some("a b&c"), false, false), "/logging?level=a%20b%26c");
        assert_eq!(path(None, true, false), "/logging?reset");
        assert_eq!(path(None, true, true), "/logging?level=warning");
    }

    #[test]
    fn answers() {
        let found = loggers("active loggers:\n  engine: debug\n  xds: info\n");
        assert_eq!(found.into_iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>(), ["engine debug", "xds info"]);
    }
}
