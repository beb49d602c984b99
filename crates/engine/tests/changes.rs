//! What one endpoint's change costs: in a configuration of thousands of clusters, with thousands of connections in the worker. Counted are
//! allocations and their bytes, and the connections and pools that are looked at; not time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use allocation_counter::measure;
use mizzen_engine::{Accepted, Action, Command, Node, Now, Options, Worker};
use mizzen_ir::{Config, Draft, Resource, ResourceKind, compile};
use mizzen_protos::json::Descriptors;
use serde_json::{Value, json};

struct Resources(Descriptors);

impl Resources {
    fn compile(&self, kind: ResourceKind, value: &Value) -> Resource {
        let any = self.0.any_from_value(kind.type_url(), value).unwrap();
        compile(kind, &any.value).unwrap().resource
    }

    fn endpoints(&self, name: &str, count: usize) -> Resource {
        let endpoint =
            |n: usize| json!({"endpoint": {"address": {"socket_address": {"address": format!("10.0.0.{n}"), "port_value": 80}}}});
        let all: Vec<Value> = (1..=count).map(endpoint).collect();
        self.compile(ResourceKind::Assignment, &json!({"cluster_name": name, "endpoints": [{"lb_endpoints": all}]}))
    }

    /// So many services of ten endpoints each, and one listener for all of them.
    fn config(&self, services: usize) -> Arc<Config> {
        let mut draft = Draft::new(&Config::default());
        for n in 0..services {
            let name = format!("outbound|80||s{n}.shop.svc.cluster.local");
            let cluster = json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, "connect_timeout": "1s"});
            draft.put(&self.compile(ResourceKind::Cluster, &cluster));
            draft.put(&self.endpoints(&name, 10));
        }
        let router = json!([{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]);
        let routes = json!({"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "outbound|80||s7.shop.svc.cluster.local"}}]}]});
        let proxy = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "x", "http_filters": router, "route_config": routes}});
        let listener = json!({"name": "in", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}}, "filter_chains": [{"filters": [proxy]}]});
        draft.put(&self.compile(ResourceKind::Listener, &listener));
        draft.finish().0
    }
}

fn worker(config: Arc<Config>, conns: usize) -> Worker {
    let now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_800_000_000) };
    let options = Options { node: Node::default(), limits: Default::default(), seed: 7, shared: Default::default(), mark: 0 };
    let mut worker = Worker::new(options, config, now);
    for n in 0..conns {
        let peer = SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 4000));
        worker.accept(&"in".into(), Accepted { peer, local: "10.96.0.1:80".parse().unwrap(), original: None });
    }
    run(&mut worker, &mut Vec::new());
    assert_eq!(worker.connections(), conns);
    worker
}

fn run(worker: &mut Worker, actions: &mut Vec<Action>) -> u32 {
    let mut turns = 0;
    loop {
        worker.turn(actions);
        turns += 1;
        if !worker.ready() {
            return turns;
        }
    }
}

/// Allocations and their bytes, in the draft and in the worker.
fn one_endpoint(resources: &Resources, services: usize, conns: usize) -> [u64; 4] {
    let config = resources.config(services);
    let mut worker = worker(config.clone(), conns);
    let changed = resources.endpoints("outbound|80||s7.shop.svc.cluster.local", 11);
    let mut next = None;
    let draft = measure(|| {
        let mut draft = Draft::new(&config);
        assert!(draft.put(&changed));
        let (config, unfit) = draft.finish();
        assert!(unfit.is_empty());
        next = Some(config);
    });
    drop(config);
    let mut actions = Vec::with_capacity(64);
    let mut turns = 0;
    let (next, looked) = (next.unwrap(), worker.looked());
    let swap = measure(|| {
        worker.command(Command::Config(next));
        turns = run(&mut worker, &mut actions);
        // What was in force is given back, to be freed elsewhere: that too is part of the work.
        actions.clear();
    });
    println!(
        "{services} services, {conns} connections: draft {} allocations, {} bytes; worker {} allocations, {} bytes, {} looked at, {turns} turns",
        draft.count_total,
        draft.bytes_total,
        swap.count_total,
        swap.bytes_total,
        worker.looked() - looked
    );
    assert_eq!(worker.looked(), looked, "no connection is concerned");
    assert_eq!(worker.connections(), conns);
    [draft.count_total, draft.bytes_total, swap.count_total, swap.bytes_total]
}

#[test]
fn one_endpoint_costs_the_same_among_few_and_many() {
    let resources = Resources(Descriptors::load());
    let few = one_endpoint(&resources, 100, 100);
    for (services, conns) in [(1_000, 1_000), (5_000, 10_000)] {
        let many = one_endpoint(&resources, services, conns);
        // A few nodes more on the way to it.
        let most = [few[0] + 20, few[1] + 8 * 1024, few[2] + 10, few[3] + 2 * 1024];
        assert!(many.iter().zip(&most).all(|(n, most)| n <= most), "{services}: {many:?}, at most {most:?}");
    }
}
