//! The writer: what one event leads to, and how events come together.

use mizzen_api::{Key, Pos};

use super::*;

fn event(yaml: &str) -> Event {
    let parsed = mizzen_api::parse_documents(yaml, &"test.yaml".into());
    Event::Apply(Arc::new(parsed.objects.into_iter().last().unwrap().unwrap()))
}

fn namespace(name: &str) -> Event {
    event(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"))
}

fn pod(name: &str) -> Event {
    event(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, spec: {{containers: [{{name: app}}]}}}}"))
}

fn mesh(domain: &str) -> Event {
    let mesh = format!("trustDomain: {domain}");
    event(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: \"{mesh}\"}}}}"))
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.keys().filter(|k| k.kind != Kind::MeshConfig).map(|k| k.name.to_string()).collect()
}

/// The builder of one source.
struct Builder {
    builder: SnapshotBuilder,
    source: SourceId,
    faults: Mutex<Faults>,
}

impl Builder {
    fn new(metrics: Arc<Metrics>) -> Builder {
        let (merge, sources) = Merge::new(1);
        let builder = SnapshotBuilder::new(merge, MeshConfig::default(), metrics);
        let mut new = Builder { builder, source: sources[0], faults: Mutex::default() };
        new.events([Event::Init, Event::InitDone]);
        new
    }

    fn events(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.builder.event(self.source, event, &self.faults);
        }
    }

    fn flush(&mut self) -> Arc<Snapshot> {
        self.builder.flush(&self.faults)
    }
}

struct Running {
    sources: Vec<SourceId>,
    events: mpsc::UnboundedSender<(SourceId, Event)>,
    published: watch::Receiver<Option<Published>>,
}

impl Running {
    fn start(base: MeshConfig) -> Self {
        Self::of(1, base)
    }

    fn of(sources: usize, base: MeshConfig) -> Self {
        let (merge, sources) = Merge::new(sources);
        let (events, received) = mpsc::unbounded_channel();
        let (publish, published) = watch::channel(None);
        tokio::spawn(run(merge, received, (base, Overrides::default()), Arc::default(), Arc::default(), Arc::default(), publish));
        Running { sources, events, published }
    }

    fn send(&self, events: impl IntoIterator<Item = Event>) {
        self.send_from(0, events);
    }

    fn send_from(&self, source: usize, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|e| self.events.send((self.sources[source], e)).unwrap());
    }

    async fn next(&mut self) -> Arc<Snapshot> {
        self.published.changed().await.unwrap();
        self.published.borrow_and_update().as_ref().unwrap().snapshot.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_snapshot() {
    let mut running = Running::start(MeshConfig::default());
    running.send([Event::Init, namespace("a"), pod("p")]);
    running.send([namespace("b"), Event::InitDone]);
    let first = running.next().await;
    assert_eq!(names(&first), ["a", "b", "p"]);
    let start = Instant::now();
    for name in ["c", "d", "e"] {
        running.send([namespace(name)]);
        tokio::time::advance(QUIET / 2).await;
    }
    let second = running.next().await;
    assert_eq!(names(&second), ["a", "b", "c", "d", "e", "p"]);
    assert_eq!(second.version(), first.version() + 1);
    assert!(start.elapsed() <= QUIET * 3);
    // A pod does not wait, and takes along what came before it.
    let start = Instant::now();
    running.send([namespace("f"), pod("q")]);
    assert_eq!(names(&*running.next().await), ["a", "b", "c", "d", "e", "f", "p", "q"]);
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Neither does an endpoint of an entry that is there; another port of it does.
    let entry = |port: u16, address: &str| {
        event(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: entry, namespace: shop}}, spec: {{hosts: [a.example], \
             resolution: STATIC, ports: [{{number: {port}, name: http}}], endpoints: [{{address: {address}}}]}}}}"
        ))
    };
    for (port, address, waits) in [(80, "192.0.2.1", true), (80, "192.0.2.2", false), (81, "192.0.2.2", true)] {
        let start = Instant::now();
        running.send([entry(port, address)]);
        running.next().await;
        assert_eq!(start.elapsed() >= QUIET, waits, "{port} {address}");
    }
}

/// Services that are made one after the other, each with its endpoints, are no more snapshots than bursts; what then moves endpoints does not wait.
#[tokio::test(start_paused = true)]
async fn new_services_are_bursts() {
    let mut running = Running::start(MeshConfig::default());
    running.send([Event::Init, Event::InitDone]);
    let before = running.next().await.version();
    let service = |i: usize| {
        event(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{i}, namespace: shop}}, spec: {{clusterIP: 10.96.0.{i}, ports: [{{port: 80}}]}}}}"
        ))
    };
    let slice = |name: &str, i: usize, address: &str| {
        event(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: \
             s{i}}}}}, addressType: IPv4, ports: [{{name: '', port: 80}}], endpoints: [{{addresses: [{address}]}}]}}"
        ))
    };
    let (start, count) = (Instant::now(), 100);
    for i in 1..=count {
        running.send([service(i)]);
        tokio::time::sleep(QUIET / 10).await;
        running.send([slice(&format!("s{i}"), i, "10.244.0.1")]);
        tokio::time::sleep(QUIET / 10).await;
    }
    let took = start.elapsed();
    tokio::time::sleep(CALM).await;
    let last = running.next().await;
    assert_eq!(names(&last).len(), 2 * count);
    let snapshots = u128::from(last.version() - before);
    assert!(snapshots <= took.as_millis() / MOST.as_millis() + 2, "{snapshots} of {count} services in {took:?}");
    for slice in [slice("s1", 1, "10.244.0.2"), slice("s1-more", 1, "10.244.0.3")] {
        let start = Instant::now();
        running.send([slice]);
        running.next().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

/// One save is waited for no longer than it takes; those that follow it come together.
#[tokio::test(start_paused = true)]
async fn one_change_is_no_burst() {
    let mut running = Running::start(MeshConfig::default());
    running.send([Event::Init, Event::InitDone]);
    running.next().await;
    for (after, waits) in [(CALM, AT_ONCE), (CALM / 2, QUIET), (CALM * 2, AT_ONCE)] {
        tokio::time::sleep(after).await;
        let start = Instant::now();
        running.send([namespace(&format!("n{}", after.as_millis()))]);
        running.next().await;
        assert_eq!(start.elapsed(), waits, "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_without_end_is_taken_as_it_is() {
    let mut running = Running::start(MeshConfig::default());
    running.send([Event::Init, Event::InitDone]);
    running.next().await;
    let start = Instant::now();
    for i in 0..40 {
        running.send([namespace(&format!("n{i}"))]);
        tokio::time::advance(QUIET / 4).await;
        tokio::task::yield_now().await;
    }
    assert!(running.published.has_changed().unwrap());
    assert!(start.elapsed() >= MOST);
}

#[tokio::test(start_paused = true)]
async fn a_relist_is_swapped_in_whole() {
    let mut running = Running::start(MeshConfig::default());
    running.send([Event::Init, namespace("a"), namespace("b"), Event::InitDone]);
    running.next().await;
    running.send([Event::Init, namespace("b"), pod("p"), namespace("c"), Event::InitDone]);
    assert_eq!(names(&*running.next().await), ["b", "c", "p"]);
}

#[tokio::test(start_paused = true)]
async fn one_trust_domain_for_life() {
    let base = MeshConfig { trust_domain: "started.example".parse().unwrap(), ..MeshConfig::default() };
    let mut running = Running::start(base);
    running.send([Event::Init, Event::InitDone]);
    assert_eq!(running.next().await.mesh().trust_domain.as_str(), "started.example");
    running.send([mesh("other.example"), namespace("a")]);
    assert_eq!(running.next().await.mesh().trust_domain.as_str(), "started.example");
    running.send([Event::Delete(Key::new(Kind::MeshConfig, "istio-system", "istio")), namespace("b")]);
    let snapshot = running.next().await;
    assert_eq!((snapshot.mesh().trust_domain.as_str(), names(&snapshot).len()), ("started.example", 2));
    let mut running = Running::start(MeshConfig::default());
    running.send([Event::Init, mesh("first.example"), Event::InitDone]);
    assert_eq!(running.next().await.mesh().trust_domain.as_str(), "first.example");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_sources_that_there_are_not() {
    assert_eq!(names(&*Running::of(0, MeshConfig::default()).next().await).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_snapshot_of_several_sources() {
    let mut running = Running::of(2, MeshConfig::default());
    running.send([Event::Init, namespace("a"), pod("p"), Event::InitDone]);
    running.send_from(1, [Event::Init, namespace("b")]);
    tokio::time::sleep(MOST * 2).await;
    assert!(!running.published.has_changed().unwrap(), "half a configuration is none");
    running.send_from(1, [Event::InitDone]);
    let first = running.next().await;
    assert_eq!(names(&first), ["a", "b", "p"]);
    // A relist of one leaves the other alone, also while it lasts; what is in it does not hurry.
    running.send_from(1, [Event::Init, pod("q")]);
    running.send([namespace("c")]);
    assert_eq!(names(&*running.next().await), ["a", "b", "c", "p"]);
    running.send([pod("r")]);
    let start = Instant::now();
    assert_eq!(names(&*running.next().await), ["a", "b", "c", "p", "r"]);
    running.send_from(1, [Event::InitDone]);
    assert_eq!(names(&*running.next().await), ["a", "c", "p", "q", "r"]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[test]
fn a_policy_that_an_earlier_source_refuses() {
    let policy = |label: &str| {
        let head = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, ";
        event(&format!("{head}spec: {{selector: {{matchLabels: {{app: {label}}}}}}}}}"))
    };
    let key = Key::new(Kind::AuthorizationPolicy, "shop", "p");
    let problem = Problem { pos: Pos::new("first.yaml", 3, 1), object: None, field: String::new(), message: "bad".into() };
    let closed = Event::Closed(crate::source::Closed { key: key.clone(), selector: None, problem });
    let (merge, sources) = Merge::new(2);
    let mut builder = SnapshotBuilder::new(merge, MeshConfig::default(), Arc::default());
    let faults = Mutex::default();
    for source in &sources {
        builder.event(*source, Event::Init, &faults);
        builder.event(*source, Event::InitDone, &faults);
    }
    // Of which source the event is; whether the policy is in force, whether it is closed, and what is said to be hidden.
    let good = "test.yaml:1: AuthorizationPolicy shop/p: metadata.name: is not in force: the refused one at first.yaml:3 has precedence";
    for (source, event, expected) in [
        (1, policy("a"), (true, false, vec![])),
        (0, closed.clone(), (false, true, vec![good])),
        (1, policy("b"), (false, true, vec![good])),
        (0, Event::Delete(key.clone()), (true, false, vec![])),
        (1, closed.clone(), (false, true, vec![])),
        (
            0,
            policy("c"),
            (
                true,
                false,
                vec!["first.yaml:3: AuthorizationPolicy shop/p: metadata.name: is not in force: the one at test.yaml:1 has precedence"],
            ),
        ),
        (1, Event::Delete(key.clone()), (true, false, vec![])),
        (0, Event::Delete(key.clone()), (false, false, vec![])),
    ] {
        builder.event(sources[source], event.clone(), &faults);
        let snapshot = builder.flush(&faults);
        let hidden: Vec<String> = lock(&faults).hidden.iter().map(ToString::to_string).collect();
        let found = (snapshot.object(&key).is_some(), snapshot.closed().next().is_some(), hidden.iter().map(String::as_str).collect());
        assert_eq!(found, expected, "{event:?}");
    }
}

fn counts(faults: &Mutex<Faults>) -> (usize, usize) {
    let faults = lock(faults);
    (faults.refused.len(), faults.warnings.len())
}

#[test]
fn what_objects_show_together_is_told() {
    let mut builder = Builder::new(Arc::default());
    let rules = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: r, namespace: shop}, \
                 spec: {hosts: [web], http: [{redirect: {uri: /}}]}}";
    builder.events([event(rules)]);
    look_over(&builder.flush(), &builder.faults);
    let lines: Vec<String> = lock(&builder.faults).together.iter().map(ToString::to_string).collect();
    let place = "test.yaml:1: VirtualService shop/r: spec.hosts[0]";
    assert_eq!(lines, [format!("{place}: there is no service web.shop.svc.cluster.local")]);
    builder.events([Event::Delete(Key::new(Kind::VirtualService, "shop", "r"))]);
    look_over(&builder.flush(), &builder.faults);
    assert!(lock(&builder.faults).together.is_empty());
}

#[test]
fn events_are_counted() {
    let metrics = Arc::new(Metrics::default());
    let mut builder = Builder::new(metrics.clone());
    let service = |port: u16| {
        let head = "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {ports: [{name: http, port: ";
        event(&format!("{head}{port}}}]}}}}"))
    };
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: shop}, \
                 spec: {hosts: [a.example], ports: [{number: 80, name: http}], resolution: DNS}}";
    builder.events([service(80), service(80), service(81), event(entry), namespace("shop")]);
    // What was never there does not go.
    builder.events(["e", "f"].map(|name| Event::Delete(Key::new(Kind::ServiceEntry, "shop", name))));
    let problem = Problem { pos: Pos::new("a.yaml", 3, 1), object: None, field: String::new(), message: "bad".into() };
    for key in [None, Some(Key::new(Kind::Gateway, "shop", "g"))] {
        let fault = Fault { file: "a.yaml".into(), key, document: 0 };
        builder.events([Event::Refused(Refused { fault, problems: vec![problem.clone()], kept: false })]);
    }
    for (line, there) in [
        ("pilot_k8s_reg_events{event=\"add\",type=\"Services\"} 1", true),
        ("pilot_k8s_reg_events{event=\"update\",type=\"Services\"} 1", true),
        ("pilot_k8s_cfg_events{event=\"add\",type=\"ServiceEntry\"} 1", true),
        ("pilot_k8s_cfg_events{event=\"delete\",type=\"ServiceEntry\"} 1", true),
        ("pilot_total_rejected_configs{type=\"Gateway\"} 1", true),
        ("pilot_total_rejected_configs{type=\"unknown\"} 1", true),
        ("Namespace", false),
    ] {
        assert_eq!(metrics.render(&Default::default()).contains(line), there, "{line}");
    }
}

#[test]
fn faults_come_and_go() {
    let (merge, sources) = Merge::new(2);
    let (faults, mut builder) = (Mutex::default(), SnapshotBuilder::new(merge, MeshConfig::default(), Arc::default()));
    let fault = Fault { file: "a.yaml".into(), key: None, document: 1 };
    let problem = Problem { pos: Pos::new("a.yaml", 3, 1), object: None, field: String::new(), message: "bad".into() };
    let refused = Refused { fault: fault.clone(), problems: vec![problem.clone()], kept: true };
    let there = [Event::Refused(refused), Event::Warnings("a.yaml".into(), vec![problem])];
    let gone = [Event::Mended(fault), Event::Warnings("a.yaml".into(), vec![])];
    // One may read what the other reads too: each has its own.
    for (source, events, expected) in [(0, &there, (1, 1)), (1, &there, (2, 2)), (0, &gone, (1, 1)), (1, &gone, (0, 0))] {
        for event in events.iter().cloned() {
            builder.event(sources[source], event, &faults);
        }
        assert_eq!(counts(&faults), expected);
    }
}

/// Whatever the folders' MeshConfig says, and with none.
#[test]
fn nothing_leaves_a_mesh_that_was_started_closed() {
    let settings =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'accessLogFile: /dev/stdout'}}";
    let (merge, sources) = Merge::new(1);
    let builder = SnapshotBuilder::new(merge, MeshConfig::default(), Arc::default());
    let (faults, mut builder) =
        (Mutex::default(), SnapshotBuilder { overrides: Overrides { registry_only: true, ..Overrides::default() }, ..builder });
    for event in [Event::Init, event(settings), Event::InitDone] {
        builder.event(sources[0], event, &faults);
    }
    let snapshot = builder.flush(&faults);
    assert_eq!(snapshot.mesh().outbound_traffic_policy, OutboundTrafficPolicy::RegistryOnly);
    assert_eq!(snapshot.mesh().access_log_file, "/dev/stdout", "all else is as it was written");
}
