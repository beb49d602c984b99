//! The flags that Envoy's users and Istio's agent pass: done, accepted with a note, or refused by name.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Flags of Envoy's. Those that are hidden from the help are accepted or refused, no more.
#[derive(Debug, Default, Args)]
pub(crate) struct EnvoyFlags {
    /// More of the bootstrap, as YAML or JSON: merged over the file.
    #[arg(long, value_name = "YAML")]
    pub(crate) config_yaml: Option<String>,
    /// Check the bootstrap and end.
    #[arg(long, value_name = "MODE", default_value = "serve")]
    pub(crate) mode: Mode,
    /// What is logged; `MIZZEN_LOG` says it more finely.
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) log_level: Option<Level>,
    /// Where the log goes, instead of standard error.
    #[arg(long, value_name = "FILE")]
    pub(crate) log_path: Option<PathBuf>,
    /// The node's id, where the bootstrap has none.
    #[arg(long, value_name = "ID")]
    pub(crate) service_node: Option<String>,
    /// The node's cluster, where the bootstrap has none.
    #[arg(long, value_name = "NAME")]
    pub(crate) service_cluster: Option<String>,
    /// The zone of the node's locality, where the bootstrap has none.
    #[arg(long, value_name = "NAME")]
    pub(crate) service_zone: Option<String>,
    /// How long connections may take to end after the order to stop, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) drain_time_s: Option<u64>,
    /// Unknown fields of the bootstrap are passed over with a note.
    #[arg(long)]
    pub(crate) allow_unknown_static_fields: bool,
    #[command(flatten)]
    idle: Idle,
    #[command(flatten)]
    refused: Refused,
}

macro_rules! hidden {
    ($(#[$doc:meta])* $name:ident { values: $($value:ident),*; switches: $($switch:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Args)]
        struct $name {
            $(#[arg(long, hide = true, value_name = "VALUE", allow_hyphen_values = true)]
            $value: Option<String>,)*
            $(#[arg(long, hide = true)]
            $switch: bool,)*
        }

        impl $name {
            /// Those that were given.
            fn given(&self) -> Vec<String> {
                let values = [$((stringify!($value), self.$value.is_some())),*];
                let switches: &[(&str, bool)] = &[$((stringify!($switch), self.$switch)),*];
                let all = values.iter().chain(switches);
                all.filter(|(_, given)| *given).map(|(name, _)| format!("--{}", name.replace('_', "-"))).collect()
            }
        }
    };
}

hidden! {
    /// Flags about Envoy's own process, which have nothing to act on here.
    Idle {
        values: base_id, parent_shutdown_time_s, drain_strategy, local_address_ip_version, component_log_level, log_format,
            file_flush_interval_msec, file_flush_min_size_kb, socket_path, socket_mode;
        switches: use_dynamic_base_id, disable_hot_restart, skip_hot_restart_on_no_parent, skip_hot_restart_parent_stats, cpuset_threads,
            enable_mutex_tracing, enable_core_dump, enable_fine_grain_logging, log_format_escaped, log_format_prefix_with_location,
            ignore_unknown_dynamic_fields, reject_unknown_dynamic_fields, skip_deprecated_logs,
    }
}

hidden! {
    /// Flags whose effect somebody would wait for.
    Refused {
        values: admin_address_path, base_id_path, disable_extensions, stats_tag;
        switches: hot_restart_version,
    }
}

/// What to do with the bootstrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Run by it.
    #[default]
    Serve,
    /// Check it, and that its resources can be used.
    Validate,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    #[value(alias = "warn")]
    Warning,
    #[value(alias = "err")]
    Error,
    /// As `error`.
    Critical,
    Off,
}

impl Level {
    /// As directives of the log.
    pub(crate) fn directives(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warn",
            Level::Error | Level::Critical => "error",
            Level::Off => "off",
        }
    }

    /// As Envoy's flag has it.
    pub(crate) fn of_envoy(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Critical => "critical",
            other => other.directives(),
        }
    }
}

impl EnvoyFlags {
    /// Refuses what cannot be done; returns the flags that do nothing.
    pub(crate) fn judge(&self) -> anyhow::Result<Vec<String>> {
        if let Some(flag) = self.refused.given().first() {
            anyhow::bail!("{flag} is a flag of Envoy's that is not supported");
        }
        Ok(self.idle.given())
    }

    /// Whether a flag was given that only makes sense for a bootstrap.
    pub(crate) fn concern_a_bootstrap(&self) -> Option<&'static str> {
        let given = [
            ("--mode", self.mode != Mode::Serve),
            ("--service-node", self.service_node.is_some()),
            ("--service-cluster", self.service_cluster.is_some()),
            ("--service-zone", self.service_zone.is_some()),
            ("--allow-unknown-static-fields", self.allow_unknown_static_fields),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}
