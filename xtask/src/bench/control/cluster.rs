//! `cargo xtask bench cluster`: what it costs the control plane to follow a cluster of many services, and how long it takes until proxies have them.
//!
//! An API server alone, in which Services and EndpointSlices are made as a cluster's controllers would make them; no nodes, and so no pods behind them.
//! A few simulated proxies have pods, whose tokens the API server judges, and count the endpoints that they hold.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use mizzen_testkit::kube::{ApiOptions, ApiServer, Programs};
use serde_json::{Value, json};

use super::{
    Measured, Watch,
    fleet::{Fleet, Meter, Proxy, SYNCED},
    mesh::Place,
    plane::{Plane, Setup},
};

/// Services of a namespace.
const EACH: u32 = 10;
/// Objects that are made at the same time.
const AT_ONCE: usize = 16;
/// Who calls.
const CALLER: &str = "caller";

/// The control plane on a cluster.
///
/// What it may cost stands beside: that of as many services and 200 proxies of which each holds all, so that fewer proxies take less. CPU is that of the control plane alone, over the whole of a row: until nothing has come for 1 s. Times go from the first object that is made to the
/// last acknowledgement, and from the answer to the last one that was made.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// How many services are made.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    services: u32,
    /// How many endpoints they have in all; each service has one EndpointSlice.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    endpoints: u32,
    /// How many proxies are connected.
    #[arg(long, value_name = "M", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    proxies: u32,
    /// The binary of package `mizzen`. Default: the release build, which is made first.
    #[arg(long, value_name = "PATH")]
    mizzen: Option<PathBuf>,
}

/// Measures and prints.
pub(crate) fn cluster(mut args: ClusterArgs) -> Result<()> {
    let Some(mizzen) = args.mizzen.take() else {
        return super::super::restart(&["mizzen", "xtask"], |mizzen| vec!["--mizzen".into(), mizzen.into()]);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let dir = tempfile::Builder::new().prefix("mizzen-bench-").tempdir()?;
    let programs = Programs::find_for_api().map_err(anyhow::Error::msg)?;
    let api = ApiServer::launch(&programs, ApiOptions::default(), &dir.path().join("api")).map_err(anyhow::Error::msg)?;
    let kinds = std::process::Command::new(&mizzen).args(["x", "crds"]).output().context("the kinds")?;
    let said = String::from_utf8_lossy(&kinds.stderr);
    ensure!(kinds.status.success(), "{} x crds: {}; it takes `mizzen`, which is all programs in one", mizzen.display(), said.trim());
    api.apply(&String::from_utf8(kinds.stdout)?);
    api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"], "").ok();
    runtime.block_on(run(&args, &mizzen, &api, dir.path()))
}

/// What 1,000 services may cost with up to 200 proxies, on two cores of the machine that it was measured on.
struct Budget {
    /// From the first change to the last acknowledgement, in milliseconds; the making of the objects is not in it.
    ms: Option<f64>,
    /// Seconds of CPU.
    cpu: Option<f64>,
    /// MiB at the peak.
    peak: Option<f64>,
}

/// Nothing is said of a row.
const NONE: Budget = Budget { ms: None, cpu: None, peak: None };
/// Everything is new.
const ALL: Budget = Budget { ms: None, cpu: Some(2.5), peak: Some(150.0) };
/// One endpoint of all changes.
const ENDPOINT: Budget = Budget { ms: Some(100.0), cpu: Some(0.10), peak: None };
/// For how many services and proxies these are.
const OF: (u32, u32) = (1_000, 200);

impl Budget {
    /// For people: what is allowed, and what is more than that.
    fn beside(&self, one: &Measured, is_for: bool) -> String {
        if !is_for {
            return String::new();
        }
        let part = |allowed: Option<f64>, is: f64, digits: usize, unit: &str| {
            allowed.map(|allowed| format!("≤ {allowed:.digits$} {unit}{}", if is > allowed { " **exceeded**" } else { "" }))
        };
        let parts = [part(self.ms, one.time * 1e3, 0, "ms"), part(self.cpu, one.cpu, 2, "CPU s"), part(self.peak, one.peak, 0, "MiB peak")];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The table.
struct Table {
    /// Whether what is measured is what budgets are for.
    is_for: bool,
}

impl Table {
    fn begin(args: &ClusterArgs) -> Table {
        println!(
            "| {} services, {} endpoints, {} proxies | ms | CPU s | MiB | peak MiB | allowed | |",
            args.services, args.endpoints, args.proxies
        );
        println!("| --- | --: | --: | --: | --: | --- | --- |");
        Table { is_for: args.services <= OF.0 && args.proxies <= OF.1 }
    }

    /// A row.
    fn tell(&self, title: &str, one: &Measured, budget: &Budget, more: &str) {
        let Measured { cpu, time, resident, peak, .. } = one;
        let allowed = budget.beside(one, self.is_for);
        println!("| {title} | {:.0} | {cpu:.2} | {resident:.0} | {peak:.0} | {allowed} | {more} |", time * 1e3);
    }
}

async fn run(args: &ClusterArgs, mizzen: &Path, api: &ApiServer, dir: &Path) -> Result<()> {
    let world = World { client: client(api).await?, services: args.services, endpoints: args.endpoints };
    world.namespaces().await?;
    let places: Vec<Place> = (0..args.proxies).map(|number| world.place(number)).collect();
    for (number, place) in places.iter().enumerate() {
        world.caller(place, number).await?;
    }
    // Without a service there is no route, and so nothing by which a proxy would be known to be complete.
    world.make(args.services).await?;

    let setup = Setup::of_cluster(mizzen, dir, &api.kubeconfig_file())?;
    let mut plane = setup.start().await.context("the control plane")?;
    let table = Table::begin(args);
    table.tell("start in an empty cluster", &Watch::of(&plane)?.started(&plane)?, &NONE, "");
    let mut proxies = Vec::new();
    for (number, place) in places.into_iter().enumerate() {
        let svid =
            setup.certificate_for(&token(api, &place, number)?).await.with_context(|| format!("a certificate for proxy {number}"))?;
        proxies.push(Proxy { tls: setup.tls(Some(&svid))?, place, destinations: None });
    }
    let watch = Watch::new(&plane)?;
    let fleet = Fleet::start_counting(setup.target(), &proxies);
    let meter = &*fleet.meter;
    table.tell("the proxies connect", &watch.until(&mut plane, meter, SYNCED).await.with_context(|| setup.said())?, &NONE, "");
    let (_, before) = meter.endpoints();

    meter.clear();
    let watch = Watch::new(&plane)?;
    stream::iter(0..args.services).map(|number| world.make(number)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let made = watch.begun.elapsed();
    let one = whole(&watch, &mut plane, meter, before + u64::from(args.endpoints)).await.with_context(|| setup.said())?;
    let after = (one.time - made.as_secs_f64()).max(0.0) * 1e3;
    let more = format!("made in {:.0} ms; the last proxy had all of it {after:.0} ms later", made.as_secs_f64() * 1e3);
    table.tell("all services are made", &one, &ALL, &more);

    meter.clear();
    let watch = Watch::new(&plane)?;
    world.one_more(args.services / 2).await?;
    let one = whole(&watch, &mut plane, meter, before + u64::from(args.endpoints) + 1).await.with_context(|| setup.said())?;
    table.tell("one endpoint more", &one, &ENDPOINT, "");

    meter.may_break(true);
    plane.stop().await?;
    meter.clear();
    let mut plane = setup.start().await.context("the control plane, once more")?;
    let watch = Watch::of(&plane)?;
    table.tell("start with all of it", &watch.started(&plane)?, &NONE, "");
    let one = watch.until(&mut plane, meter, super::RETURNED).await.with_context(|| setup.said())?;
    table.tell("and all proxies are back", &one, &ALL, "");
    drop(fleet);
    plane.stop().await
}

/// Waits until all proxies hold so many endpoints, and nothing happens any more.
async fn whole(watch: &Watch, plane: &mut Plane, meter: &Meter, endpoints: u64) -> Result<Measured> {
    let have = || if meter.endpoints() == (endpoints, endpoints) { meter.proxies() } else { 0 };
    let time =
        watch.wait(plane, meter, &have).await.with_context(|| format!("{:?} endpoints are held of {endpoints}", meter.endpoints()))?;
    watch.measured(plane, meter, time)
}

async fn client(api: &ApiServer) -> Result<Client> {
    let config = Kubeconfig::from_yaml(&api.kubeconfig())?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?)?)
}

/// A token of a proxy's pod, as kubelet gives it.
fn token(api: &ApiServer, place: &Place, number: usize) -> Result<String> {
    let pod = format!("--bound-object-name={CALLER}-{number}");
    let args = ["create", "token", CALLER, "-n", &place.namespace, "--audience=istio-ca", "--bound-object-kind=Pod", &pod];
    let made = api.kubectl(&args, "");
    if made.code != 0 {
        bail!("a token for proxy {number}: {}", made.err.trim());
    }
    Ok(made.out.trim().to_owned())
}

/// What is in the cluster.
struct World {
    client: Client,
    services: u32,
    endpoints: u32,
}

impl World {
    fn place(&self, number: u32) -> Place {
        let namespace = format!("ns{}", number % self.services.div_ceil(EACH));
        Place { namespace, app: CALLER.to_owned(), ip: [10, 200, 0, 1 + u8::try_from(number).unwrap_or(u8::MAX)].into() }
    }

    async fn create(&self, version: &str, kind: &str, plural: &str, object: Value) -> Result<()> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let object: DynamicObject = serde_json::from_value(object)?;
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &object).await.with_context(|| format!("{kind} {name}"))?;
        Ok(())
    }

    async fn namespaces(&self) -> Result<()> {
        let names = (0..self.services.div_ceil(EACH)).map(|number| format!("ns{number}"));
        // The control plane's own holds its keys.
        for name in names.chain(["istio-system".to_owned()]) {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            self.create("v1", "Namespace", "namespaces", namespace).await?;
        }
        Ok(())
    }

    /// The account and the pod of a proxy.
    async fn caller(&self, place: &Place, number: usize) -> Result<()> {
        let meta = |name: &str| json!({ "name": name, "namespace": place.namespace, "labels": { "app": CALLER } });
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(self.client.clone(), &place.namespace);
        if accounts.get_opt(CALLER).await?.is_none() {
            let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(CALLER) });
            self.create("v1", "ServiceAccount", "serviceaccounts", account).await?;
        }
        let name = format!("{CALLER}-{number}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": meta(&name),
            "spec": { "serviceAccountName": CALLER, "containers": [{ "name": CALLER, "image": CALLER }] },
        });
        self.create("v1", "Pod", "pods", pod).await?;
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.client.clone(), &place.namespace);
        let (ip, ready) = (place.ip.to_string(), json!([{ "type": "Ready", "status": "True" }]));
        let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": ready } });
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// A service and its slice.
    async fn make(&self, number: u32) -> Result<()> {
        let (name, namespace) = (format!("s{number}"), format!("ns{}", number.min(self.services - 1) / EACH));
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
            "spec": { "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] },
        });
        self.create("v1", "Service", "services", service).await?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("{name}-1"), "namespace": namespace, "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }], "endpoints": self.addresses(number, 0),
        });
        self.create("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", slice).await
    }

    /// The endpoints of a service and some more; what does not divide evenly goes to the first ones.
    fn addresses(&self, number: u32, more: u32) -> Value {
        let (each, rest) = (self.endpoints / self.services, self.endpoints % self.services);
        let count = each + u32::from(number < rest) + more;
        let first = u32::from_be_bytes([10, 0, 0, 0]) + number * (each + 2);
        (0..count)
            .map(|at| json!({ "addresses": [std::net::Ipv4Addr::from(first + at).to_string()], "conditions": { "ready": true } }))
            .collect()
    }

    /// One endpoint more of a service.
    async fn one_more(&self, number: u32) -> Result<()> {
        let namespace = format!("ns{}", number / EACH);
        let slices: Api<k8s_openapi::api::discovery::v1::EndpointSlice> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({ "endpoints": self.addresses(number, 1) });
        slices.patch(&format!("s{number}-1"), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_stands_beside() {
        let one = |time: f64, cpu: f64, peak: f64| Measured { time, cpu, peak, ..Measured::default() };
        for (budget, one, text) in [
            (&ALL, one(9.0, 2.4, 149.0), "≤ 2.50 CPU s, ≤ 150 MiB peak"),
            (&ALL, one(9.0, 2.6, 151.0), "≤ 2.50 CPU s **exceeded**, ≤ 150 MiB peak **exceeded**"),
            (&ENDPOINT, one(0.2, 0.1, 151.0), "≤ 100 ms **exceeded**, ≤ 0.10 CPU s"),
            (&NONE, one(9.0, 9.0, 900.0), ""),
        ] {
            assert_eq!(budget.beside(&one, true), text);
            assert_eq!(budget.beside(&one, false), "");
        }
    }
}
