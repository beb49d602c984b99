//! What a draft says that it changed is what differs, and what it builds is what a configuration made at once has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use mizzen_types::Name;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::tls::{ca, common, secrets};
use super::{resource, tcp_proxy};
use crate::changes::Changes;
use crate::config::Transport;
use crate::{Config, Draft, Resource, ResourceKind};

fn tls(side: &str, sni: Option<&str>) -> Value {
    let mut context = json!({"@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext"),
        "commonTlsContext": common(json!({"prefix": "spiffe://cluster.local/"}), &["h2"])});
    if let Some(sni) = sni {
        context["sni"] = sni.into();
    }
    json!({"name": "tls", "typedConfig": context})
}

fn cluster(name: &str, more: Value) -> Resource {
    let mut value = json!({"name": name, "connectTimeout": "1s"});
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    resource(ResourceKind::Cluster, &value)
}

fn listener(name: &str, secure: bool) -> Resource {
    let mut chain = json!({"filters": [tcp_proxy("c")]});
    if secure {
        chain["transportSocket"] = tls("Downstream", None);
    }
    let address = json!({"socketAddress": {"address": "0.0.0.0", "portValue": 15006}});
    resource(ResourceKind::Listener, &json!({"name": name, "address": address, "filterChains": [chain]}))
}

fn assignment(name: &str, endpoints: u32) -> Resource {
    let endpoint = |n| json!({"endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 80 + n}}}});
    let all: Vec<Value> = (0..endpoints).map(endpoint).collect();
    resource(ResourceKind::Assignment, &json!({"clusterName": name, "endpoints": [{"lbEndpoints": all}]}))
}

/// Several versions of a few resources.
static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let eds = |service: &str| json!({"type": "EDS", "edsClusterConfig": {"edsConfig": {"ads": {}}, "serviceName": service}});
    let dns = |host: &str| {
        json!({"type": "STRICT_DNS", "loadAssignment": {"clusterName": "x", "endpoints": [{"lbEndpoints": [
            {"endpoint": {"address": {"socketAddress": {"address": host, "portValue": 80}}}}]}]}})
    };
    let with = |mut value: Value, sni: &str| {
        value["transportSocket"] = tls("Upstream", Some(sni));
        value
    };
    let mut all = vec![
        cluster("c0", eds("a0")),
        cluster("c0", with(eds("a1"), "x")),
        cluster("c1", with(eds("a0"), "x")),
        cluster("c1", with(eds("a0"), "y")),
        cluster("c2", dns("one.example")),
        cluster("c2", with(dns("two.example"), "y")),
        cluster("c3", dns("two.example")),
        listener("l0", true),
        listener("l0", false),
        listener("l1", true),
    ];
    all.extend((0..3).map(|n| assignment("a0", n)));
    all.extend((0..2).map(|n| assignment("a1", n)));
    let ca = ca();
    for account in ["one", "two"] {
        let mut draft = Draft::new(&Config::default());
        secrets(&mut draft, &ca, &super::tls::ca(), account);
        let config = draft.finish().0;
        all.extend(config.certificates.values().cloned().map(Resource::Certificate));
        all.extend(config.validations.values().cloned().map(Resource::Validation));
    }
    all
});

/// The clusters' TLS, as far as it is built.
fn built(config: &Config) -> BTreeMap<Name, Vec<Option<*const rustls::ClientConfig>>> {
    let one = |transport: &Transport| match transport {
        Transport::Raw => None,
        Transport::Tls(tls) => config.client_tls(tls).map(Arc::as_ptr),
    };
    config.clusters.iter().map(|(name, cluster)| (name.clone(), cluster.transport.all().map(one).collect())).collect()
}

fn assert_as_made_at_once(config: &Config, unfit: &[(Name, crate::TlsRefusal)]) {
    let mut draft = Draft::new(&Config::default());
    let clusters = config.clusters.values().cloned().map(Resource::Cluster);
    let all = clusters.chain(config.listeners.values().cloned().map(Resource::Listener));
    let all = all.chain(config.assignments.values().cloned().map(Resource::Assignment));
    let all = all.chain(config.certificates.values().cloned().map(Resource::Certificate));
    for resource in all.chain(config.validations.values().cloned().map(Resource::Validation)) {
        draft.put(&resource);
    }
    let (whole, expected) = draft.finish();
    let is_there = |config: &Config| -> BTreeMap<Name, Vec<bool>> {
        built(config).into_iter().map(|(name, all)| (name, all.into_iter().map(|one| one.is_some()).collect())).collect()
    };
    assert_eq!(is_there(config), is_there(&whole));
    let texts = |all: &[(Name, crate::TlsRefusal)]| all.iter().map(|(name, why)| format!("{name}: {why}")).collect::<BTreeSet<_>>();
    assert_eq!(texts(unfit), texts(&expected));
    for name in ["a0", "a1", "one.example", "two.example"] {
        let users = |config: &Config| config.index.of_assignment(name).chain(config.index.of_host(name)).cloned().collect::<Vec<_>>();
        assert_eq!(users(config), users(&whole), "{name}");
    }
    assert_eq!(config.tls.len(), whole.tls.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_changed_is_what_differs(steps in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..6), 1..12)) {
        let mut config = Arc::new(Config::default());
        for step in steps {
            let mut draft = Draft::new(&config);
            for (which, put) in step {
                let resource = which.get(&RESOURCES);
                if put {
                    draft.put(resource);
                } else {
                    draft.remove(resource.kind(), resource.name());
                }
            }
            let (next, unfit) = draft.finish();
            let changes = next.changes_since(&config);
            prop_assert!(matches!(changes, std::borrow::Cow::Borrowed(_)));
            prop_assert_eq!(&*changes, &Changes::between(&config, &next));
            prop_assert_eq!(&*next.changes_since(&next), &Changes::default());
            let (before, after) = (built(&config), built(&next));
            for (name, all) in &before {
                prop_assert!(changes.reached.contains(name) || after.get(name) == Some(all), "{}", name);
            }
            assert_as_made_at_once(&next, &unfit);
            config = next;
        }
    }
}

#[test]
fn much_is_not_kept_by_name() {
    let all: Vec<Resource> = (0..1000).map(|n| cluster(&format!("c{n}"), json!({"type": "STATIC"}))).collect();
    let mut draft = Draft::new(&Config::default());
    all.iter().for_each(|resource| assert!(draft.put(resource)));
    let whole = draft.finish().0;
    let changes = whole.changes_since(&Config::default());
    assert!(matches!(changes, std::borrow::Cow::Owned(_)));
    assert_eq!((changes.clusters.len(), changes.reached.len(), changes.len()), (1000, 1000, 2000));
    let mut draft = Draft::new(&whole);
    draft.remove(ResourceKind::Cluster, "c7");
    draft.put(&cluster("c8", json!({"type": "STATIC", "connectTimeout": "2s"})));
    let next = draft.finish().0;
    let changes = next.changes_since(&whole);
    assert_eq!(changes.clusters.iter().map(|name| &**name).collect::<Vec<_>>(), ["c7", "c8"]);
    assert_eq!((next.clusters.size(), changes.len()), (999, 4));
    // Of another one than it was made of.
    assert_eq!(next.changes_since(&Config::default()).clusters.len(), 999);
}
