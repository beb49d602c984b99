//! `mizzend`: the control plane.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use mizzen_api::istio::JwksBy;
use mizzen_control::{AutoAllocate, ClusterOptions, IPV4_PREFIX, IPV6_PREFIX, JwksOptions, Options, Untaint, names};
use mizzen_types::{TrustDomain, ports};

/// The control plane of a Mizzen mesh: follows folders of YAML, is the certificate authority, and configures the proxies.
#[derive(Debug, Parser)]
#[command(name = "mizzend", version, max_term_width = 100, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct MizzendArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// A folder of Kubernetes and Istio YAML that is followed. Several may be given, each by the option of its own: of objects with one name that of
    /// the folder given first is in force, and the others take over when it goes.
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes")]
    config_dir: Vec<PathBuf>,
    /// Follow the Kubernetes cluster in which this runs as a pod, keep the CA in it, take its pods' tokens, and answer its webhooks. Folders, if any are
    /// given too, have precedence. The variables POD_NAMESPACE (istio-system) and JWT_POLICY (third-party-jwt) are Istio's.
    #[arg(long)]
    kubernetes: bool,
    /// Reach the cluster as this kubeconfig says, and not as a pod.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig, other than its current one.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// The port of the webhooks, over TLS.
    #[arg(long, value_name = "PORT", default_value_t = ports::WEBHOOKS)]
    webhook_port: u16,
    /// The namespace of the agents of the nodes' plugin, for PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS=true; without it that of POD_NAMESPACE.
    #[arg(long = "cniNamespace", value_name = "NAME", requires = "kubernetes")]
    cni_namespace: Option<String>,
    /// Where the last good version of every object is kept, for each folder apart, for a start while its file is broken.
    #[arg(long, value_name = "DIR")]
    last_good: Option<PathBuf>,
    /// The address on which xDS and the CA are served over TLS, and metrics; 127.0.0.1, or with --kubernetes all of the host.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The port of xDS and the CA.
    #[arg(long, value_name = "PORT", default_value_t = ports::XDS)]
    xds_port: u16,
    /// The port of metrics and readiness.
    #[arg(long, value_name = "PORT", default_value_t = ports::MONITORING)]
    monitoring_port: u16,
    /// A port on 127.0.0.1 on which is told what else debug.sock tells, for port-forwards to the pod; 8080 with --kubernetes, 0 for none. Nothing can be
    /// changed there.
    #[arg(long, value_name = "PORT")]
    debug_port: Option<u16>,
    /// An open descriptor of a file that holds the keys of the CA and of the tokens; filled if it is empty. Without it they end with the process.
    #[arg(long, value_name = "NUMBER")]
    state_fd: Option<i32>,
    /// Where debug.sock and token.sock are made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    socket_dir: PathBuf,
    /// A file that gets the root certificates.
    #[arg(long, value_name = "PATH")]
    root_cert_file: Option<PathBuf>,
    /// The trust domain of all identities.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// A file with a MeshConfig, for a mesh whose folder has none.
    #[arg(long, value_name = "PATH")]
    mesh_config: Option<PathBuf>,
    /// Only what a Service or a ServiceEntry names can be called from the mesh, whatever MeshConfig's outboundTrafficPolicy says.
    #[arg(long)]
    registry_only: bool,
    /// Gateways that serve plain HTTP alone are served over HTTPS on port 443 as well, with the certificate of this Secret of the gateways' namespace.
    #[arg(long, value_name = "SECRET")]
    https_credential: Option<String>,
    /// How long workload certificates live.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::up::duration)]
    workload_cert_ttl: Duration,
    /// What is in force is not analyzed: no findings in the log, in metrics, and for `mizzen analyze`.
    #[arg(long)]
    no_analysis: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Ask the running control plane's debug interface, or change something there, as its levels of logging.
    Request(super::request::RequestArgs),
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    text.parse().map_err(|e: mizzen_types::IdentityError| e.to_string())
}

/// Runs until SIGTERM.
pub(crate) fn main() -> ExitCode {
    let mut args = MizzendArgs::parse();
    match args.verb.take() {
        Some(Verb::Request(args)) => super::request::main("mizzend request", args, names::DEBUG_SOCKET),
        None => super::exit("mizzend", run(args)),
    }
}

/// How keys of issuers of tokens are fetched, by Istio's variables.
fn jwks() -> Result<JwksOptions> {
    let mut options = JwksOptions::default();
    if let Ok(text) = std::env::var("PILOT_JWT_ENABLE_REMOTE_JWKS") {
        let wrong = || format!("PILOT_JWT_ENABLE_REMOTE_JWKS={text}: must be one of istiod, false, hybrid, true, envoy");
        options.by = JwksBy::named(&text).with_context(wrong)?;
    }
    if let Ok(text) = std::env::var("PILOT_JWT_PUB_KEY_REFRESH_INTERVAL") {
        let refresh = crate::up::duration(&text).ok().filter(|refresh| !refresh.is_zero());
        options.refresh = refresh.with_context(|| format!("PILOT_JWT_PUB_KEY_REFRESH_INTERVAL={text}: must be a duration, as 20m"))?;
    }
    Ok(options)
}

/// A flag in one of Istio's variables, which takes Go's words.
fn flag(name: &str, text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => bail!("{name}={text}: must be true or false"),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Whether a Gateway selects the pods of its own namespace alone.
pub(crate) fn gateways_stay_home() -> Result<bool> {
    let name = "PILOT_SCOPE_GATEWAY_TO_NAMESPACE";
    flag(name, &variable(name))
}

/// From which nodes a taint is taken, if from any, by Istio's variables as `of` has them.
fn untaint(namespace: Option<&str>, of: impl Fn(&str) -> String) -> Result<Option<Untaint>> {
    let enabled = "PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS";
    if !flag(enabled, &of(enabled))? {
        return Ok(None);
    }
    let said = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let namespace = namespace.map_or_else(|| of("POD_NAMESPACE"), str::to_owned);
    Ok(Some(Untaint {
        namespace: said(namespace, &Options::default().root_namespace),
        taint: said(of("PILOT_NODE_UNTAINT_CONTROLLERS_TAINT_NAME"), names::NOT_READY),
    }))
}

/// Which addresses ServiceEntries get that name none, by Istio's variables as `of` has them.
fn allocate(of: impl Fn(&str) -> String) -> Result<AutoAllocate> {
    let enabled = "PILOT_ENABLE_IP_AUTOALLOCATE";
    let said = of(enabled);
    let is_on = said.is_empty() || flag(enabled, &said)?;
    AutoAllocate::new(is_on, &of(IPV4_PREFIX), &of(IPV6_PREFIX)).map_err(anyhow::Error::msg)
}

/// The cluster, by the flags and Istio's variables.
fn cluster(args: &MizzendArgs) -> Result<Option<ClusterOptions>> {
    if !args.kubernetes {
        return Ok(None);
    }
    let first_party_tokens = match std::env::var("JWT_POLICY").as_deref() {
        Err(_) | Ok("" | "third-party-jwt") => false,
        Ok("first-party-jwt") => true,
        Ok(other) => bail!("JWT_POLICY={other}: must be third-party-jwt or first-party-jwt"),
    };
    if first_party_tokens {
        tracing::warn!(
            "first-party-jwt: tokens that pods show to the API server are good for a certificate, too; whoever else is shown one can take its pod's identity"
        );
    }
    Ok(Some(ClusterOptions {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        only_read: false,
        pod: std::env::var("POD_NAME").ok(),
        webhook_port: Some(args.webhook_port),
        first_party_tokens,
        untaint: untaint(args.cni_namespace.as_deref(), variable)?,
        allocate: allocate(variable)?,
    }))
}

fn run(args: MizzendArgs) -> Result<()> {
    let set_log = super::log()?;
    mizzen_net::keep_little_memory();
    let state = args.state_fd.map(mizzen_net::inherited_fd).transpose().context("--state-fd")?;
    let mut options = Options {
        cluster: cluster(&args)?,
        config_dirs: args.config_dir,
        last_good: args.last_good,
        address: args.address.unwrap_or_else(|| if args.kubernetes { mizzen_net::any_address() } else { Ipv4Addr::LOCALHOST.into() }),
        debug_port: args.debug_port.or(args.kubernetes.then_some(ports::DEBUG)).filter(|port| *port != 0),
        xds_port: args.xds_port,
        monitoring_port: args.monitoring_port,
        state,
        socket_dir: args.socket_dir,
        root_cert_file: args.root_cert_file,
        trust_domain: args.trust_domain,
        mesh_config: args.mesh_config,
        registry_only: args.registry_only,
        https_credential: args.https_credential,
        workload_cert_ttl: args.workload_cert_ttl,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        log: super::directives(),
        jwks: jwks()?,
        gateways_stay_home: gateways_stay_home()?,
        analysis: !args.no_analysis,
        set_log: Some(set_log),
        ..Options::default()
    };
    if let Some(namespace) = std::env::var("POD_NAMESPACE").ok().filter(|_| args.kubernetes) {
        options.root_namespace = namespace;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stopped = super::stopped()?;
        mizzen_control::run(options, stopped).await?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_are_allocated() {
        let check = |variables: &[(&str, &str)], want: Result<(bool, &str, &str), &str>| {
            let of = |name: &str| variables.iter().find(|(found, _)| *found == name).map_or("", |(_, value)| *value).to_owned();
            let want = want.map(|(is_on, v4, v6)| AutoAllocate::new(is_on, v4, v6).unwrap()).map_err(str::to_owned);
            assert_eq!(allocate(of).map_err(|error| error.to_string()), want, "{variables:?}");
        };
        const ON: &str = "PILOT_ENABLE_IP_AUTOALLOCATE";
        let (v4, v6) = ("240.240.0.0/16", "2001:2::/48");
        assert_eq!(AutoAllocate::default(), AutoAllocate::new(true, v4, v6).unwrap());
        check(&[], Ok((true, v4, v6)));
        check(&[(ON, "true"), (IPV4_PREFIX, "10.200.7.0/24")], Ok((true, "10.200.7.0/24", v6)));
        check(&[(ON, "0"), (IPV6_PREFIX, "fd00:9::/64")], Ok((false, v4, "fd00:9::/64")));
        check(&[(ON, "yes")], Err("PILOT_ENABLE_IP_AUTOALLOCATE=yes: must be true or false"));
        for (variable, text, why) in [
            (IPV4_PREFIX, "240.240.0.0/33", "must be a range of addresses of its family, as 240.240.0.0/16"),
            (IPV4_PREFIX, "2001:2::/48", "must be a range of addresses of its family, as 240.240.0.0/16"),
            (IPV4_PREFIX, "10.0.0.1", "is too small: the prefix may be /30 at most"),
            (IPV4_PREFIX, "127.1.0.0/16", "its addresses mean something else, and lead to no service"),
            (IPV4_PREFIX, "0.0.0.0/0", "its addresses mean something else, and lead to no service"),
            (IPV6_PREFIX, "240.240.0.0/16", "must be a range of addresses of its family, as 2001:2::/48"),
            (IPV6_PREFIX, "fd00::/127", "is too small: the prefix may be /126 at most"),
            (IPV6_PREFIX, "fe80::/64", "its addresses mean something else, and lead to no service"),
        ] {
            check(&[(variable, text)], Err(&format!("{variable}={text}: {why}")));
        }
    }

    #[test]
    fn whose_taint_is_taken() {
        let check = |namespace: Option<&str>, variables: &[(&str, &str)], want: Result<Option<(&str, &str)>, &str>| {
            let of =
                |name: &str| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned()).unwrap_or_default();
            let got = untaint(namespace, of).map(|found| found.map(|found| (found.namespace, found.taint)));
            let want = want.map(|want| want.map(|(namespace, taint)| (namespace.to_owned(), taint.to_owned())));
            assert_eq!(got.map_err(|error| error.to_string()), want.map_err(str::to_owned), "{namespace:?} {variables:?}");
        };
        let on = ("PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS", "true");
        check(None, &[], Ok(None));
        check(Some("mesh"), &[("PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS", "0")], Ok(None));
        check(None, &[on], Ok(Some(("istio-system", "cni.istio.io/not-ready"))));
        check(None, &[on, ("POD_NAMESPACE", "mesh")], Ok(Some(("mesh", "cni.istio.io/not-ready"))));
        let other = ("PILOT_NODE_UNTAINT_CONTROLLERS_TAINT_NAME", "example.com/late");
        check(Some("kube-system"), &[on, ("POD_NAMESPACE", "mesh"), other], Ok(Some(("kube-system", "example.com/late"))));
        let wrong = ("PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS", "yes");
        check(None, &[wrong], Err("PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS=yes: must be true or false"));
    }
}
