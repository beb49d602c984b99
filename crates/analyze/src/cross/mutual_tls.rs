//! Where mutual TLS is required, where it is not, and who does not offer it.

use mizzen_api::{LabelSet, Labels};

use crate::{
    Cx, Entry, Sort, code,
    facts::{Mode, Of, PeerFacts, qualified},
};

pub(crate) fn look(cx: &Cx<'_>) {
    match &cx.entry.facts.of {
        Of::Peer(peer) => island(cx, peer),
        Of::Destination(_) => plaintext(cx),
        _ if cx.entry.sort() == Sort::Namespace => overview(cx),
        _ => {}
    }
}

fn peers<'a>(cx: &Cx<'a>, namespace: &str) -> Vec<(&'a Entry, &'a PeerFacts)> {
    let all = cx.within(Sort::PeerAuthentication, namespace);
    let mut all: Vec<_> = all.filter_map(|entry| if let Of::Peer(peer) = &entry.facts.of { Some((entry, peer)) } else { None }).collect();
    // The oldest wins.
    all.sort_by(|(a, _), (b, _)| (&a.facts.created, &a.id).cmp(&(&b.facts.created, &b.id)));
    all
}

fn is_for_all(peer: &PeerFacts) -> bool {
    peer.selected.selector.iter().next().is_none()
}

/// The mode of all workloads of a namespace for which nothing else is said, and the policy that says so.
fn of_namespace<'a>(cx: &Cx<'a>, namespace: &str) -> (Mode, Option<&'a Entry>) {
    let root = &cx.mesh().root;
    let whole =
        |namespace: &str| peers(cx, namespace).into_iter().find(|(_, peer)| is_for_all(peer)).filter(|(_, peer)| peer.mode != Mode::Unset);
    let found = whole(namespace).or_else(|| if **root == *namespace { None } else { whole(root) });
    found.map_or((Mode::Permissive, None), |(entry, peer)| (peer.mode, Some(entry)))
}

/// The mode of a workload with these labels, ports left out.
pub(crate) fn mode_of(cx: &Cx<'_>, namespace: &str, labels: &impl LabelSet) -> Mode {
    let own = peers(cx, namespace).into_iter().find(|(_, peer)| !is_for_all(peer) && peer.selected.selector.is_within(labels));
    match own.map(|(_, peer)| peer.mode) {
        Some(mode) if mode != Mode::Unset => mode,
        _ => of_namespace(cx, namespace).0,
    }
}

/// Policies that open what is strict around them.
fn island(cx: &Cx<'_>, peer: &PeerFacts) {
    let (namespace, root) = (&cx.entry.id.namespace, &cx.mesh().root);
    let above = if is_for_all(peer) {
        if namespace == root { (Mode::Permissive, None) } else { of_namespace(cx, root) }
    } else {
        of_namespace(cx, namespace)
    };
    let (own, open) = (peer.mode, |mode: Mode| matches!(mode, Mode::Permissive | Mode::Disable));
    let whom =
        if is_for_all(peer) { format!("namespace \"{namespace}\"") } else { format!("its workloads ({})", list(&peer.selected.selector)) };
    if above.0 == Mode::Strict && open(own) {
        let by = above.1.map_or_else(String::new, |entry| format!(" ({})", entry.id));
        let text = format!("mutual TLS is {} for {whom} where it is STRICT all around{by}", own.name());
        cx.say(&code::MZ0105, "spec.mtls.mode", text);
    }
    let strict = own == Mode::Strict || (own == Mode::Unset && above.0 == Mode::Strict);
    for (port, mode) in peer.ports.iter().filter(|(_, mode)| strict && open(**mode)) {
        let text = format!("mutual TLS is {} at port {port} of {whom}, which are STRICT otherwise", mode.name());
        cx.say(&code::MZ0105, format!("spec.portLevelMtls.{port}.mode"), text);
    }
}

/// Clients that are told to speak plaintext to servers that take none.
fn plaintext(cx: &Cx<'_>) {
    let Of::Destination(rule) = &cx.entry.facts.of else { return };
    if &*rule.tls_mode != "DISABLE" {
        return;
    }
    let host = qualified(&rule.host, &cx.entry.id.namespace);
    let service = cx.list(crate::Index::Host, &host).find(|entry| entry.service().is_some());
    let Some((entry, service)) = service.and_then(|entry| Some((entry, entry.service()?))) else { return };
    if service.selector.iter().next().is_none() {
        return;
    }
    let workloads = cx.workloads(&entry.id.namespace, &service.selector);
    let strict =
        |workload: &&Entry| workload.workload().is_some_and(|facts| mode_of(cx, &entry.id.namespace, &facts.labels) == Mode::Strict);
    if let Some(workload) = workloads.into_iter().find(strict) {
        let text = format!("clients of {host} are told to use no TLS, and {} takes mutual TLS only: every call fails", workload.id);
        cx.say(&code::MZ0112, "spec.trafficPolicy.tls.mode", text);
    }
}

/// The mode of a namespace, and its exceptions.
fn overview(cx: &Cx<'_>) {
    let namespace = &cx.entry.id.name;
    let has_workloads = cx.list(crate::Index::Workloads, namespace).next().is_some();
    let has_services = cx.within(Sort::Service, namespace).next().is_some();
    let all = peers(cx, namespace);
    if !has_workloads && !has_services && all.is_empty() {
        return;
    }
    let (mode, by) = of_namespace(cx, namespace);
    let by = by.map_or_else(|| "no PeerAuthentication says otherwise".to_owned(), |entry| entry.id.to_string());
    let mut exceptions = Vec::new();
    for (entry, peer) in &all {
        if !is_for_all(peer) && peer.mode != Mode::Unset && peer.mode != mode {
            exceptions.push(format!("{} for {} ({})", peer.mode.name(), list(&peer.selected.selector), entry.id.name));
        }
        let whom = if is_for_all(peer) { "all".to_owned() } else { list(&peer.selected.selector) };
        exceptions.extend(peer.ports.iter().map(|(port, mode)| format!("{} at port {port} of {whom} ({})", mode.name(), entry.id.name)));
    }
    let exceptions = if exceptions.is_empty() { String::new() } else { format!("; exceptions: {}", exceptions.join(", ")) };
    cx.say(&code::MZ0120, "", format!("mTLS of namespace \"{namespace}\" is {} ({by}){exceptions}", mode.name()));
}

fn list(labels: &Labels) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}
