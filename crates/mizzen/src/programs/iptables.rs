//! `mizzen-proxy istio-iptables`: sets the capture in a pod, with Istio's flags. The rules go to the kernel over netlink; no program is called.

use std::{net::IpAddr, process::ExitCode};

use anyhow::{Context, Result, bail};
use mizzen_capture::{Dns, Mode, Owner, Plan, Ports, Ranges, Settings, Tproxy};
use mizzen_types::ports;

/// Where the agent answers questions for names.
pub(super) const DNS_PORT: u16 = 15053;

/// Arguments of `istio-iptables`.
#[derive(Debug, clap::Args)]
pub(crate) struct IptablesArgs {
    /// Where captured outbound connections go.
    #[arg(short = 'p', long = "envoy-port", value_name = "PORT", default_value_t = ports::OUTBOUND)]
    outbound: u16,
    /// Where captured inbound connections go.
    #[arg(short = 'z', long = "inbound-capture-port", value_name = "PORT", default_value_t = ports::INBOUND)]
    inbound: u16,
    /// The proxy's user, whose connections are left alone.
    #[arg(short = 'u', long = "proxy-uid", value_name = "UID", default_value = "1337")]
    uid: String,
    /// The proxy's group, likewise. Without it, the number of the user.
    #[arg(short = 'g', long = "proxy-gid", value_name = "GID", default_value = "")]
    gid: String,
    /// How inbound connections are captured: REDIRECT, or TPROXY, by which the program is called from its clients' own addresses.
    #[arg(short = 'm', long = "istio-inbound-interception-mode", value_name = "MODE", default_value = "REDIRECT")]
    mode: String,
    /// Inbound ports to capture, with commas, or `*`; empty: none.
    #[arg(short = 'b', long = "istio-inbound-ports", value_name = "PORTS", default_value = "", value_parser = |text: &str| text.parse::<Ports>())]
    include_inbound: Ports,
    /// Inbound ports to leave alone, where all are captured.
    #[arg(short = 'd', long = "istio-local-exclude-ports", value_name = "PORTS", default_value = "")]
    exclude_inbound: String,
    /// Destinations to capture, as ranges with commas, or `*`; empty: none.
    #[arg(short = 'i', long = "istio-service-cidr", value_name = "RANGES", default_value = "", value_parser = |text: &str| text.parse::<Ranges>())]
    include_ranges: Ranges,
    /// Destinations to leave alone.
    #[arg(short = 'x', long = "istio-service-exclude-cidr", value_name = "RANGES", default_value = "")]
    exclude_ranges: String,
    /// Outbound ports to capture whatever the destination.
    #[arg(short = 'q', long = "istio-outbound-ports", value_name = "PORTS", default_value = "")]
    include_outbound: String,
    /// Outbound ports to leave alone.
    #[arg(short = 'o', long = "istio-local-outbound-ports-exclude", value_name = "PORTS", default_value = "")]
    exclude_outbound: String,
    /// Interfaces to leave alone; not supported.
    #[arg(short = 'c', long = "istio-exclude-interfaces", value_name = "NAMES", default_value = "", hide = true)]
    exclude_interfaces: String,
    /// Interfaces of virtual machines; not supported.
    #[arg(short = 'k', long = "kube-virt-interfaces", value_name = "NAMES", default_value = "", hide = true)]
    virtual_interfaces: String,
    /// The port of HBONE, which is left alone: 15008.
    #[arg(short = 'e', long = "inbound-tunnel-port", value_name = "PORT", default_value_t = ports::HBONE, hide = true)]
    tunnel: u16,
    /// Send questions for names, which others than the proxy ask the servers of /etc/resolv.conf, to the agent.
    #[arg(
        long,
        env = "ISTIO_META_DNS_CAPTURE",
        value_name = "BOOL",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        action = clap::ArgAction::Set,
        value_parser = yes
    )]
    redirect_dns: bool,
    /// With --redirect-dns: questions to whatever server.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true", num_args = 0..=1)]
    capture_all_dns: bool,
    /// Capture IPv6, too: it always is.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true", num_args = 0..=1, hide = true)]
    dual_stack: bool,
    /// Print the rules, as nft reads them, and set nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Remove the rules, and set none.
    #[arg(long)]
    cleanup_only: bool,
    /// With --skip-rule-apply, as the proxy's user and without any capability: check that the capture is there; if not, the exit code is 126.
    #[arg(long)]
    run_validation: bool,
    /// Set no rules; for --run-validation.
    #[arg(long)]
    skip_rule_apply: bool,
    /// Drop packets of connections that the kernel does not know; not supported.
    #[arg(long, env = "INVALID_DROP", value_name = "BOOL", default_value_t = false, default_missing_value = "true", num_args = 0..=1, hide = true)]
    drop_invalid: bool,
    /// A network namespace of another pod; not supported.
    #[arg(long, value_name = "PATH", default_value = "", hide = true)]
    network_namespace: String,
    /// Rules are set in one step, in which they take the place of earlier ones: these say nothing here.
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, hide = true)]
    force_apply: Option<bool>,
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, hide = true)]
    reconcile: Option<bool>,
    #[arg(short = 'f', long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, hide = true)]
    restore_format: Option<bool>,
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, hide = true)]
    native_nftables: Option<bool>,
    /// With TPROXY: the mark of inbound packets, which the proxy's connections to the program have as well.
    #[arg(short = 't', long = "istio-inbound-tproxy-mark", value_name = "MARK", default_value_t = Tproxy::default().mark)]
    tproxy_mark: u32,
    /// With TPROXY: the table of routes for packets with that mark.
    #[arg(short = 'r', long = "istio-inbound-tproxy-route-table", value_name = "TABLE", default_value_t = Tproxy::default().table)]
    tproxy_table: u32,
    /// What is logged, as Istio writes it.
    #[arg(long = "log_output_level", value_name = "SCOPE:LEVEL", default_value = "default:info", hide = true)]
    log_level: String,
}

/// A flag that stands in a variable, too, which may be empty.
fn yes(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "" | "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Runs it.
pub(crate) fn main(args: &IptablesArgs) -> ExitCode {
    super::exit_with("mizzen-proxy istio-iptables", run(args))
}

/// By this exit code the node's agent knows a pod of which the capture is missing, as Istio's does.
pub(super) const NOT_CAPTURED: u8 = 126;

fn run(args: &IptablesArgs) -> Result<u8> {
    super::log_to(Some(&super::pod::agent_level(&args.log_level)?), None)?;
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let settings = settings(args, &resolv_conf)?;
    let plan = Plan::new(&settings);
    if args.dry_run {
        return super::print(&plan.to_string()).map(|()| 0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.cleanup_only {
        return Ok(runtime.block_on(mizzen_capture::cleanup()).map(|()| 0)?);
    }
    if args.run_validation {
        return Ok(match runtime.block_on(super::validation::captured(&settings)) {
            Ok(()) => {
                tracing::info!("the capture is there");
                0
            }
            Err(why) => {
                tracing::error!(
                    "the capture is missing: {why}; the node's agent (istio-cni-node) can set it, and says in its log what keeps it from doing so"
                );
                NOT_CAPTURED
            }
        });
    }
    runtime.block_on(mizzen_capture::apply(&plan))?;
    // In a pod the kernel's settings are read-only as a rule; then connections of which one direction was shut long ago may be forgotten.
    if let Err(error) = mizzen_capture::remember_half_closed() {
        tracing::info!(%error, "half-closed connections are remembered for as long as the kernel does by itself");
    }
    tracing::info!("the capture is set");
    Ok(0)
}

/// What the flags say.
fn settings(args: &IptablesArgs, resolv_conf: &str) -> Result<Settings> {
    let unsupported = [
        (!args.exclude_interfaces.is_empty(), "-c", "interfaces cannot be left alone"),
        (!args.virtual_interfaces.is_empty(), "-k", "interfaces of virtual machines cannot be captured"),
        (args.tunnel != ports::HBONE, "-e", "the port of HBONE is 15008"),
        (
            args.run_validation && !args.skip_rule_apply,
            "--run-validation",
            "whoever sets rules cannot check them: it takes --skip-rule-apply",
        ),
        (args.skip_rule_apply && !args.run_validation, "--skip-rule-apply", "it is for --run-validation"),
        (args.drop_invalid, "--drop-invalid", "packets are not dropped"),
        (!args.network_namespace.is_empty(), "--network-namespace", "rules are set in the pod itself"),
    ];
    if let Some((_, flag, reason)) = unsupported.into_iter().find(|(is, ..)| *is) {
        bail!("{flag}: {reason}");
    }
    let mode = mode(args)?;
    let uid = args.uid.parse::<u32>().ok().with_context(|| format!("-u {}: must be the number of one user", args.uid))?;
    let gid = if args.gid.is_empty() { Some(uid) } else { args.gid.parse::<u32>().ok() };
    let gid = gid.with_context(|| format!("-g {}: must be the number of one group", args.gid))?;
    let port_list = |flag: &str, text: &str| mizzen_capture::port_list(text).map_err(|reason| anyhow::anyhow!("{flag}: {reason}"));
    let dns = args.redirect_dns.then(|| Dns { port: DNS_PORT, servers: (!args.capture_all_dns).then(|| servers(resolv_conf)) });
    Ok(Settings {
        owner: Owner::User { uid, gid },
        mode,
        dns,
        inbound_port: args.inbound,
        outbound_port: args.outbound,
        include_inbound: args.include_inbound.clone(),
        exclude_inbound: port_list("-d", &args.exclude_inbound)?,
        include_outbound: port_list("-q", &args.include_outbound)?,
        exclude_outbound: port_list("-o", &args.exclude_outbound)?,
        include_ranges: args.include_ranges.clone(),
        exclude_ranges: mizzen_capture::range_list(&args.exclude_ranges).map_err(|reason| anyhow::anyhow!("-x: {reason}"))?,
    })
}

/// How inbound connections are captured. Mark and table mean nothing with REDIRECT.
fn mode(args: &IptablesArgs) -> Result<Mode> {
    /// The kernel's own tables of routes: none, `default`, `main` and `local`.
    const KERNELS: [u32; 4] = [0, 253, 254, 255];
    match args.mode.as_str() {
        "REDIRECT" => Ok(Mode::Redirect),
        "TPROXY" if args.tproxy_mark == 0 => bail!("-t 0: must be a mark, and 0 is none"),
        "TPROXY" if KERNELS.contains(&args.tproxy_table) => {
            bail!("-r {}: must be a table of routes that is not the kernel's own: not 0, 253, 254 or 255", args.tproxy_table)
        }
        "TPROXY" => Ok(Mode::Tproxy(Tproxy { mark: args.tproxy_mark, table: args.tproxy_table })),
        other => bail!("-m {other}: must be REDIRECT or TPROXY"),
    }
}

/// The servers of names.
fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: IptablesArgs,
    }

    /// What these words say.
    pub(in super::super) fn of_words<'w>(words: impl Iterator<Item = &'w str>) -> Result<Settings, String> {
        let line = Line::try_parse_from(std::iter::once("x").chain(words)).map_err(|error| error.to_string())?;
        settings(&line.args, "search a\nnameserver 10.96.0.10\n").map_err(|error| format!("{error:#}"))
    }

    fn read(line: &str) -> Result<Settings, String> {
        of_words(line.split_whitespace().map(|word| if word == "''" { "" } else { word }))
    }

    const USER: Owner = Owner::User { uid: 1337, gid: 1337 };

    #[test]
    fn as_an_injector_calls_it() {
        let line = "-p 15001 -z 15006 -u 1337 -g 1337 -m REDIRECT -i * -x '' -b * -d 15090,15021,15020 --log_output_level=default:info";
        let all = Settings { owner: USER, exclude_inbound: vec![15090, 15021, 15020], ..Settings::default() };
        assert_eq!(read(line), Ok(all.clone()));
        // Istio's gives no group.
        assert_eq!(read(&line.replace("-g 1337 ", "")), Ok(all.clone()));
        assert_eq!(read(&format!("{line} --dual-stack")), Ok(all.clone()), "whether it is asked for or not");
        let some = Settings {
            include_ranges: Ranges::Only(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]),
            exclude_ranges: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()],
            include_inbound: Ports::Only(vec![80]),
            include_outbound: vec![3306],
            exclude_outbound: vec![25, 26],
            exclude_inbound: vec![],
            ..all
        };
        assert_eq!(read("-i 10.0.0.0/8,fd00::/8 -x 10.1.0.0/16,fd00:1::/32 -b 80 -q 3306 -o 25,26"), Ok(some));
        let none = read("").unwrap();
        assert_eq!((none.include_inbound, none.include_ranges), (Ports::Only(vec![]), Ranges::Only(vec![])));
    }

    #[test]
    fn modes() {
        let mode = |line: &str| read(line).unwrap().mode;
        assert_eq!(mode("-m REDIRECT -t 0 -r 254"), Mode::Redirect);
        assert_eq!(mode("-m TPROXY"), Mode::Tproxy(Tproxy { mark: 1337, table: 133 }));
        assert_eq!(mode("-m TPROXY -t 7 -r 300"), Mode::Tproxy(Tproxy { mark: 7, table: 300 }));
    }

    #[test]
    fn names() {
        let dns = |line: &str| read(line).unwrap().dns;
        assert_eq!(dns(""), None);
        assert_eq!(dns("--redirect-dns"), Some(Dns { port: 15053, servers: Some(vec!["10.96.0.10".parse().unwrap()]) }));
        assert_eq!(dns("--redirect-dns --capture-all-dns"), Some(Dns { port: 15053, servers: None }));
        assert_eq!(["=false", "="].map(|no| dns(&format!("--redirect-dns{no}"))), [None, None]);
        assert!(read("--redirect-dns=1").unwrap_err().contains("must be true or false"));
    }

    #[test]
    fn refused() {
        let check = |line: &str, want: &str| assert_eq!(read(line).unwrap_err(), want, "{line}");
        check("-m NONE", "-m NONE: must be REDIRECT or TPROXY");
        check("-m TPROXY -t 0", "-t 0: must be a mark, and 0 is none");
        check("-m TPROXY -r 254", "-r 254: must be a table of routes that is not the kernel's own: not 0, 253, 254 or 255");
        check("-c eth1", "-c: interfaces cannot be left alone");
        check("-u 1337,1338", "-u 1337,1338: must be the number of one user");
        check("-d 80,http", "-d: `http` is not a port between 1 and 65535");
        check("-x *", "-x: `*` is not possible here, only a list of ranges");
        check("--run-validation", "--run-validation: whoever sets rules cannot check them: it takes --skip-rule-apply");
        check("--skip-rule-apply", "--skip-rule-apply: it is for --run-validation");
        assert!(read("-b 80,x").unwrap_err().contains("`x` is not a port"));
    }
}
