//! `mizzen describe`: all that concerns one pod or one service, in the order in which istioctl tells it.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use anyhow::{Context, Result, bail};
use mizzen_api::{
    Key, Kind,
    core::{Pod, TargetPort},
    istio::{Action, EndpointAddress, GatewayRef, MtlsMode},
};
use mizzen_explain::proxy_of;
use mizzen_model::{EffectiveRule, ProxyView, Reader, RouteRules, ServiceView, Snapshot};
use mizzen_types::Hostname;

use super::{
    authn::has_proxy,
    find::service_name,
    output::print,
    place::Where,
    state::{self, find_pod},
};

/// What can be described.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DescribeVerb {
    /// A pod: its services, the rules and routes of them, mutual TLS, and who may call it.
    #[command(visible_alias = "po")]
    Pod(DescribeArgs),
    /// A service: its ports, rules, routes, and its pods.
    #[command(visible_alias = "svc")]
    Service(DescribeArgs),
}

/// Arguments of `describe pod` and `describe service`.
#[derive(Debug, clap::Args)]
pub(crate) struct DescribeArgs {
    /// NAME or NAME.NAMESPACE; of a pod also the name of its deployment.
    name: String,
    /// The namespace, if the name does not say it.
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    of: state::From,
}

pub(crate) async fn run(place: &Where, verb: DescribeVerb) -> Result<()> {
    let (args, is_pod) = match &verb {
        DescribeVerb::Pod(args) => (args, true),
        DescribeVerb::Service(args) => (args, false),
    };
    let state = args.of.read(place).await?;
    let namespace = args.namespace.as_deref();
    if !is_pod {
        return print(&service(&state.snapshot, &args.name, namespace)?);
    }
    let found = match &state.mesh {
        Some(mesh) => {
            let name = mesh.pod(&args.name, namespace).await?.name();
            let of = |pod: &&Pod| format!("{}.{}", pod.meta.name, pod.meta.namespace) == name;
            let found = state.snapshot.objects::<Pod>().find(of);
            found.with_context(|| format!("{name} is not known to the control plane"))?
        }
        None => find_pod(&state.snapshot, &args.name, namespace)?,
    };
    print(&pod(&state.snapshot, found)?)
}

/// Between parts.
const LINE: &str = "--------------------\n";

fn pod(snapshot: &Arc<Snapshot>, pod: &Pod) -> Result<String> {
    let mut text = format!("Pod: {}.{}\n", pod.meta.name, pod.meta.namespace);
    let ports = pod.spec.containers.iter().flat_map(|container| container.ports.iter().map(move |port| (port, &container.name)));
    let ports: Vec<String> = ports.map(|(port, container)| format!("{} ({container})", port.port)).collect();
    if !ports.is_empty() {
        _ = writeln!(text, "   Pod Ports: {}", ports.join(", "));
    }
    if !has_proxy(snapshot, pod) {
        text +=
            "   It is not in the mesh: it has no sidecar and is no gateway. What follows of mutual TLS and policies does not bear on it.\n";
    }
    let Some(view) = proxy_of(snapshot, &pod.meta.namespace, &pod.meta.name) else {
        text += "   It has no address yet.\n";
        return Ok(text);
    };
    let reader = Reader::new(snapshot);
    let mut services: Vec<Arc<ServiceView>> = Vec::new();
    for instance in view.served(&reader) {
        if services.iter().all(|known| known.key() != instance.service.key()) {
            services.push(instance.service);
        }
    }
    if services.is_empty() {
        text += "   No service selects it: it can be called by its address alone.\n";
    }
    for one in &services {
        text += LINE;
        text += &of_service(&reader, &view, one, Some(pod));
    }
    text += LINE;
    text += &security(snapshot, &reader, &view);
    Ok(text)
}

/// Ports, rule and routes of a service, as this proxy sees them.
fn of_service(reader: &Reader<'_>, view: &ProxyView, service: &ServiceView, pod: Option<&Pod>) -> String {
    let mut text = format!("Service: {}.{}\n", service.name(), service.namespace());
    for port in &service.ports {
        let name = if port.name.is_empty() { "(without a name)" } else { &port.name };
        let target = match &port.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Name(name) => name.clone(),
        };
        _ = writeln!(text, "   Port: {name} {}/{} targets pod port {target}", port.port, port.protocol);
    }
    match view.rule(reader, service) {
        Some(rule) => text += &of_rule(&rule, service, pod),
        None => text += "DestinationRule: none\n",
    }
    text + &routes(reader, view, &service.host)
}

fn of_rule(rule: &EffectiveRule, service: &ServiceView, pod: Option<&Pod>) -> String {
    let mut text = format!("DestinationRule: {}.{} for \"{}\"\n", rule.object.name, rule.object.namespace, service.host);
    if let Some(pod) = pod {
        let fits = |labels: &mizzen_api::Labels| labels.is_within(&pod.meta.labels);
        let (own, others): (Vec<_>, Vec<_>) = rule.subsets.iter().partition(|subset| fits(&subset.labels));
        let names =
            |subsets: &[&mizzen_api::istio::Subset]| subsets.iter().map(|subset| subset.name.as_str()).collect::<Vec<_>>().join(",");
        if !own.is_empty() {
            _ = writeln!(text, "   Matching subsets: {}", names(&own));
        }
        if !others.is_empty() {
            _ = writeln!(text, "      (Non-matching subsets {})", names(&others));
        }
        if own.is_empty() && !others.is_empty() {
            text += "   Pod matches no subset\n";
        }
    } else if !rule.subsets.is_empty() {
        let names: Vec<&str> = rule.subsets.iter().map(|subset| subset.name.as_str()).collect();
        _ = writeln!(text, "   Subsets: {}", names.join(","));
    }
    match &rule.traffic_policy {
        None => text += "   No Traffic Policy\n",
        Some(policy) => {
            let parts = [
                (policy.load_balancer.is_some(), "load balancer"),
                (policy.connection_pool.is_some(), "connection pool"),
                (policy.outlier_detection.is_some(), "outlier detection"),
                (policy.tls.is_some(), "tls"),
                (!policy.port_level_settings.is_empty(), "settings of ports"),
            ];
            let said: Vec<&str> = parts.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
            _ = writeln!(text, "   Traffic Policy: {}", said.join(", "));
        }
    }
    text
}

/// The routes by which a service is found, or to which they lead: of the mesh, and of Gateways.
fn routes(reader: &Reader<'_>, view: &ProxyView, host: &Hostname) -> String {
    let by_host: BTreeSet<Key> = view.routes(reader, host).iter().map(RouteRules::key).collect();
    let mut text = String::new();
    let mut all: Vec<RouteRules<'_>> = reader.all_routes().collect();
    all.sort_by_key(RouteRules::key);
    for rules in all {
        let leads = rules.destinations().any(|to| to.host.qualify(&rules.meta.namespace, DOMAIN) == *host);
        let is_for = by_host.contains(&rules.key());
        if !leads && !is_for {
            continue;
        }
        let hosts: Vec<&str> = rules.hosts.iter().map(Hostname::as_str).collect();
        _ = writeln!(text, "{}: {}.{} for {}", rules.kind, rules.meta.name, rules.meta.namespace, hosts.join(", "));
        let (http, tls, tcp) = (rules.http.len(), rules.tls.len(), rules.tcp.len());
        _ = writeln!(text, "   {http} HTTP route(s), {tls} TLS route(s), {tcp} TCP route(s)");
        if !leads {
            text += "   No route leads to the service\n";
        }
        let subsets: BTreeSet<&str> = rules
            .destinations()
            .filter(|to| to.host.qualify(&rules.meta.namespace, DOMAIN) == *host)
            .filter_map(|to| to.subset.as_deref())
            .collect();
        if !subsets.is_empty() {
            _ = writeln!(text, "   Subsets: {}", subsets.into_iter().collect::<Vec<_>>().join(","));
        }
        let gateways: Vec<String> = rules
            .parents
            .iter()
            .filter_map(|parent| match parent {
                GatewayRef::Named(name) => Some(format!("{}.{}", name.name, name.namespace)),
                GatewayRef::Mesh => None,
            })
            .collect();
        if !gateways.is_empty() {
            _ = writeln!(text, "   Exposed by Gateway: {}", gateways.join(", "));
        }
    }
    text
}

/// The domain of Kubernetes' services.
const DOMAIN: &str = "cluster.local";

fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "STRICT",
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive | MtlsMode::Unset => "PERMISSIVE",
    }
}

fn security(snapshot: &Snapshot, reader: &Reader<'_>, view: &ProxyView) -> String {
    let facts = view.facts();
    let (modes, sources) = reader.peer_sources(&facts.namespace, |selector| selector.matches(&facts.labels));
    let mut text = format!("Effective PeerAuthentication:\n   Workload mTLS mode: {}\n", mode(modes.workload));
    for (port, said) in &modes.ports {
        _ = writeln!(text, "   Port {port} mTLS mode: {}", mode(*said));
    }
    let applied: BTreeSet<&Key> = sources.workload.iter().chain(sources.ports.values()).collect();
    if !applied.is_empty() {
        text += "Applied PeerAuthentication:\n";
        for key in applied {
            _ = writeln!(text, "   {}", placed(snapshot, key));
        }
    }
    let policies = view.policies(reader);
    if policies.policies.is_empty() && policies.closed.is_empty() {
        text += "AuthorizationPolicies: none, so that anybody may call it\n";
        return text;
    }
    text += "AuthorizationPolicies:\n";
    for policy in &policies.policies {
        let action = match policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
            Action::Custom => "CUSTOM",
        };
        let dry = if policy.dry_run { " (dry run)" } else { "" };
        let key = Key::new(Kind::AuthorizationPolicy, policy.meta.namespace.clone(), policy.meta.name.clone());
        _ = writeln!(text, "   {action}{dry} {}, {} rule(s)", placed(snapshot, &key), policy.rules.len());
    }
    for closed in &policies.closed {
        _ = writeln!(text, "   DENY all, since {} is refused", closed.key);
    }
    text
}

/// `NAME.NAMESPACE`, and where it stands.
fn placed(snapshot: &Snapshot, key: &Key) -> String {
    let origin = snapshot.object(key).map(|object| object.meta().origin.clone()).filter(|origin| origin.line > 0);
    format!("{}.{}{}", key.name, key.namespace, origin.map(|origin| format!(" ({origin})")).unwrap_or_default())
}

/// The service that is called `name`: NAME, NAME.NAMESPACE or its host.
///
/// # Errors
/// If there is none, or several.
pub(crate) fn find_service<'r>(reader: &'r Reader<'_>, name: &str, namespace: Option<&str>) -> Result<&'r Arc<ServiceView>> {
    let (wanted, within) = service_name(name, namespace);
    let is = |service: &&Arc<ServiceView>| {
        service.host.as_str() == name || (service.name() == wanted && within.is_none_or(|within| within == &**service.namespace()))
    };
    let found: Vec<&Arc<ServiceView>> = reader.services().filter(is).collect();
    let of_all = || reader.services().map(|service| format!("{}.{}", service.name(), service.namespace())).collect::<Vec<_>>();
    match &found[..] {
        [one] => Ok(*one),
        [] => {
            let all = of_all();
            let near = mizzen_api::nearest(wanted, all.iter().map(|name| name.split('.').next().unwrap_or_default()));
            let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            bail!("there is no service {name}{near} There are: {}", all.join(", "))
        }
        several => {
            let names: Vec<String> = several.iter().map(|service| format!("{}.{}", service.name(), service.namespace())).collect();
            bail!("{name} may be any of {}: say which", names.join(", "))
        }
    }
}

/// The pods behind a service: NAMESPACE/NAME.
pub(crate) fn pods_of(reader: &Reader<'_>, service: &ServiceView) -> BTreeSet<String> {
    let endpoints = reader.endpoints(service).by_port.values().flatten();
    let pods = endpoints.filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Ip(ip) => reader.pod(*ip).map(|pod| format!("{}/{}", pod.object.namespace, pod.object.name)),
        EndpointAddress::Host(_) => None,
    });
    pods.collect()
}

fn service(snapshot: &Arc<Snapshot>, name: &str, namespace: Option<&str>) -> Result<String> {
    let reader = Reader::new(snapshot);
    let service = find_service(&reader, name, namespace)?;
    let pods = pods_of(&reader, service);
    let views: Vec<ProxyView> =
        pods.iter().filter_map(|pod| pod.split_once('/')).filter_map(|(namespace, pod)| proxy_of(snapshot, namespace, pod)).collect();
    let Some(first) = views.first() else {
        return Ok(format!("Service: {}.{}\n   No pod serves it\n", service.name(), service.namespace()));
    };
    let mut text = of_service(&reader, first, service, None);
    // Pods that are alike are described once.
    let mut described: Vec<(String, Vec<String>)> = Vec::new();
    for view in &views {
        let facts = view.facts();
        let (name, said) = (format!("{}.{}", facts.pod, facts.namespace), security(snapshot, &reader, view));
        match described.iter_mut().find(|(known, _)| *known == said) {
            Some((_, names)) => names.push(name),
            None => described.push((said, vec![name])),
        }
    }
    for (said, names) in described {
        text += LINE;
        _ = writeln!(text, "Pods: {}", names.join(", "));
        text += &said;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{
        super::state::tests::{deployment, snapshot},
        *,
    };

    const SHOP: &str = "
{kind: Service, apiVersion: v1, metadata: {name: reviews, namespace: shop}, spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: reviews, namespace: shop}, spec: {host: reviews,
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, subsets: [{name: v1, labels: {at: reviews-v1}}, {name: v2, labels: {at: reviews-v2}}]}}
---
{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: reviews, namespace: shop}, spec: {hosts: [reviews],
  http: [{route: [{destination: {host: reviews, subset: v1}}]}]}}
---
{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: door, namespace: shop}, spec: {hosts: [shop.example], gateways: [door],
  http: [{route: [{destination: {host: reviews}}]}]}}
---
{kind: PeerAuthentication, apiVersion: security.istio.io/v1, metadata: {name: strict, namespace: shop}, spec: {mtls: {mode: STRICT}}}
---
{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {name: web-only, namespace: shop}, spec: {selector: {matchLabels: {app: reviews}},
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}}
";

    fn shop() -> Arc<Snapshot> {
        snapshot(&(SHOP.to_owned() + &deployment("shop", "reviews-v1", "reviews") + &deployment("shop", "reviews-v2", "reviews")))
    }

    /// The text without places, each line trimmed.
    fn lines(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split(" (test.yaml").next().unwrap_or_default().trim().to_owned()).collect()
    }

    #[test]
    fn a_pod() {
        let snapshot = shop();
        let text = pod(&snapshot, find_pod(&snapshot, "reviews-v1.shop", None).unwrap()).unwrap();
        assert_eq!(
            lines(&text),
            [
                "Pod: reviews-v1.shop",
                "Pod Ports: 8080 (c)",
                "--------------------",
                "Service: reviews.shop",
                "Port: http 80/HTTP targets pod port 8080",
                "DestinationRule: reviews.shop for \"reviews.shop.svc.cluster.local\"",
                "Matching subsets: v1",
                "(Non-matching subsets v2)",
                "Traffic Policy: tls",
                "VirtualService: door.shop for shop.example",
                "1 HTTP route(s), 0 TLS route(s), 0 TCP route(s)",
                "Exposed by Gateway: door.shop",
                "VirtualService: reviews.shop for reviews",
                "1 HTTP route(s), 0 TLS route(s), 0 TCP route(s)",
                "Subsets: v1",
                "--------------------",
                "Effective PeerAuthentication:",
                "Workload mTLS mode: STRICT",
                "Applied PeerAuthentication:",
                "strict.shop",
                "AuthorizationPolicies:",
                "ALLOW web-only.shop",
            ],
            "{text}"
        );
    }

    #[test]
    fn a_service() {
        let snapshot = shop();
        let text = service(&snapshot, "reviews", None).unwrap();
        let lines = lines(&text);
        assert!(
            lines.contains(&"Subsets: v1,v2".to_owned()) && lines.contains(&"Pods: reviews-v1.shop, reviews-v2.shop".to_owned()),
            "{text}"
        );
        for name in ["reviews.shop", "reviews.shop.svc.cluster.local"] {
            assert_eq!(service(&snapshot, name, None).unwrap(), text, "{name}");
        }
        let error = service(&snapshot, "revews", None).unwrap_err().to_string();
        assert!(error.contains("did you mean `reviews`?"), "{error}");
        assert!(service(&snapshot, "reviews", Some("ops")).is_err());
    }
}
