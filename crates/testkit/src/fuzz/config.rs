//! Parsers of configuration: resources on the wire, bootstraps, and the YAML of the mesh.

use std::sync::{Arc, LazyLock};

use mizzen_analyze::{Analysis, Options};
use mizzen_dataplane::{Places, Unknown, parse_bootstrap, validate};
use mizzen_ir::{Config, Draft, ResourceKind, compile};
use mizzen_model::{Change, Snapshot};
use mizzen_protos::{
    envoy::envoy::{
        config::{
            bootstrap::v3::Bootstrap,
            cluster::v3::Cluster,
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener,
            route::v3::{RouteConfiguration, VirtualHost},
        },
        extensions::transport_sockets::tls::v3::Secret,
    },
    json::{Descriptors, Names},
};
use prost::{Message, Name as _};

use crate::memory;

static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(Descriptors::load);

/// Resources: the kind by the first byte, then the bytes of the message. What is compiled is so again after being encoded anew, and can be put
/// into force.
pub fn xds(data: &[u8]) {
    let [kind, bytes @ ..] = data else { return };
    let kind = ResourceKind::ALL[usize::from(*kind) % ResourceKind::ALL.len()];
    let compiled = compile(kind, bytes);
    let again = compile(kind, bytes);
    assert_eq!(compiled, again, "the same bytes");
    let anew = match kind {
        ResourceKind::Listener => encoded::<Listener>(bytes),
        ResourceKind::Route => encoded::<RouteConfiguration>(bytes),
        ResourceKind::Cluster => encoded::<Cluster>(bytes),
        ResourceKind::Assignment => encoded::<ClusterLoadAssignment>(bytes),
        ResourceKind::Secret => encoded::<Secret>(bytes),
        ResourceKind::VirtualHost => encoded::<VirtualHost>(bytes),
    };
    let Some(anew) = anew else { return assert!(compiled.is_err(), "what is no message is compiled") };
    let anew = compile(kind, &anew);
    assert_eq!(compiled.is_ok(), anew.is_ok(), "{compiled:?} {anew:?}");
    let Ok(compiled) = compiled else { return };
    assert_eq!(anew.map(|anew| anew.closed.len()), Ok(compiled.closed.len()), "closed parts");
    assert_eq!(compiled.resource.kind(), kind);
    let mut draft = Draft::new(&Config::default());
    assert!(draft.put(&compiled.resource));
    assert_eq!(draft.finish().0.generation, 1);
}

fn encoded<M: Message + Default>(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(M::decode(bytes).ok()?.encode_to_vec())
}

/// A bootstrap, YAML or JSON: one that was read says the same after being written as JSON and read again; and it can be looked through.
pub fn bootstrap(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = parse_bootstrap(text, Unknown::Refused) else { return };
    let json = DESCRIPTORS.to_value(&read, Names::Proto).expect("a bootstrap as JSON").to_string();
    // What is secret is not written.
    if json.contains("[redacted]") {
        return;
    }
    let again = parse_bootstrap(&json, Unknown::Refused).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(canonical(&again), canonical(&read));
    // Files are not looked for.
    if !text.contains("filename") {
        let _ = validate(&read, &Places::new("bootstrap.yaml", text));
    }
}

/// Maps are encoded in any order.
fn canonical(message: &Bootstrap) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    mizzen_protos::canonical::canonicalize(&Bootstrap::type_url(), &mut bytes);
    bytes
}

/// Documents of Kubernetes and Istio: each is an object or is refused, with places that are in the text, and every refusal has a reason.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file: Arc<str> = "fuzz.yaml".into();
    let parsed = mizzen_api::parse_documents(text, &file);
    // YAML counts either character as the end of a line.
    let lines = 1 + text.matches(['\r', '\n']).count() as u32;
    for problem in parsed.problems().chain(&parsed.warnings) {
        assert!(problem.pos.line <= lines, "line {} of {lines}: {problem}", problem.pos.line);
        assert!(!problem.message.is_empty() && !problem.to_string().contains('\n'), "{problem}");
    }
    for refusal in parsed.objects.iter().filter_map(|object| object.as_ref().err()) {
        assert!(!refusal.problems.is_empty(), "refused without a reason");
    }
    let again = mizzen_api::parse_documents(text, &file);
    assert_eq!(parsed.good().collect::<Vec<_>>(), again.good().collect::<Vec<_>>(), "the same text");
    let changes = parsed.objects.into_iter().flatten().map(Change::from);
    let _ = mizzen_model::check(&Snapshot::empty().apply(changes));
}

/// Documents of whatever kind are analyzed: what is said is in one line, stands in the text, and is the same however the documents come.
pub fn analyze(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file: Arc<str> = "fuzz.yaml".into();
    let lines = 1 + text.matches(['\r', '\n']).count() as u32;
    let of = |follows: bool| {
        let mut analysis = Analysis::new(Options { follows, ..Options::default() });
        mizzen_analyze::items(text, &file, "default", &mut |item| analysis.put_first(&item));
        analysis.update();
        analysis.messages().into_iter().cloned().collect::<Vec<_>>()
    };
    let messages = of(false);
    for message in &messages {
        assert!(message.pos.line <= lines, "line {} of {lines}: {message}", message.pos.line);
        assert!(!message.text.is_empty() && !message.to_string().contains('\n'), "{message}");
    }
    assert_eq!(messages, of(true), "the same text");
}

/// A shop, into which the objects of the text are put.
const SHOP: &str = include_str!("shop.yaml");

/// What is good of a text is understood by the mesh's own proxies: a sidecar and a gateway take every resource that follows from it.
pub fn mesh(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let loaded = memory::load([("fuzz.yaml", text), ("shop.yaml", SHOP)]);
    for (namespace, pod) in [("shop", "web"), ("shop", "reviews"), ("istio-system", "door")] {
        let Some(view) = memory::proxy_of(&loaded.snapshot, namespace, pod) else { continue };
        for (kind, resources) in memory::resources(&loaded.snapshot, &view).0 {
            let Some(kind) = ResourceKind::of(&kind.type_url()) else { continue };
            for (name, resource) in resources {
                let compiled = compile(kind, &resource.body.value).unwrap_or_else(|refusal| panic!("{namespace}/{pod}: {refusal}"));
                assert!(compiled.closed.is_empty(), "{namespace}/{pod}: {name}: {:?}", compiled.closed);
            }
        }
    }
}
