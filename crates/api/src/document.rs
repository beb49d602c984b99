//! From text to objects.

use std::sync::Arc;

use k8s_openapi::api::{apps::v1 as apps, core::v1 as k8s, discovery::v1 as discovery};

use crate::{
    Key, Kind, Object, Pos, Problem, Selector, Source,
    core::{
        self,
        schema::{self, Verdict},
    },
    istio::{self, MeshConfig, ProxyConfig},
    kind::{self, NotRead, REQUIRED},
    limits::MAX_TEXT,
    metadata::{self, DEFAULT_NAMESPACE, label_name, label_text},
    read::{At, Context, Fields},
    source::{Node, SyntaxError, Value},
    table,
    text::{Document, Guess, documents, guess},
};

/// What a text holds.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// One entry for each document, and for each item of a `kind: List`.
    pub objects: Vec<Result<Object, Refusal>>,
    /// Fields that are known and not acted on, of the objects that are good.
    pub warnings: Vec<Problem>,
}

/// A document that is no object of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it would have been, as far as could be read.
    pub key: Option<Key>,
    /// Whether it is of a kind that is known and not read: then it has no `key`, and is none of the objects that are.
    pub is_other: bool,
    /// If it would have been an AuthorizationPolicy or a PeerAuthentication: whom it leaves unprotected.
    pub closes: Option<Closes>,
    /// Why; never empty.
    pub problems: Vec<Problem>,
}

/// The workloads that a refused policy would have selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closes {
    /// The kind of the policy.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its selector; `None`, also where it could not be read: all of the namespace.
    pub selector: Option<Selector>,
}

impl Parsed {
    /// The good objects.
    pub fn good(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter_map(|object| object.as_ref().ok())
    }

    /// All that is wrong.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.objects.iter().filter_map(|object| object.as_ref().err()).flat_map(|refusal| &refusal.problems)
    }
}

/// A document's values, whether they are an object of the mesh or not.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its number in [`Parsed::objects`].
    pub number: usize,
    /// The values.
    pub node: &'a Node,
    /// From which they can be read again.
    pub source: &'a Source,
    /// What was made of it.
    pub object: &'a Result<Object, Refusal>,
    /// What is known of it and not acted on.
    pub warnings: &'a [Problem],
}

/// Reads YAML documents (separated by `---`) or JSON. Never fails as a whole: each document is an object or a refusal.
pub fn parse_documents(text: &str, file: &Arc<str>) -> Parsed {
    see_documents(text, file, &mut |_| {})
}

/// The same, and shows the values of each document that is YAML, which are not kept, in the order of the text.
pub fn see_documents(text: &str, file: &Arc<str>, see: &mut dyn FnMut(Seen<'_>)) -> Parsed {
    if text.len() > MAX_TEXT {
        return refuse_documents(text, file, format!("the file has more than {MAX_TEXT} bytes and is not read"));
    }
    let mut parsed = Parsed::default();
    for document in documents(text) {
        match node(&document) {
            Ok((node, source)) => parsed.document(node, &source, file, see),
            Err(error) => parsed.objects.push(Err(unreadable(&document, &error, file))),
        }
    }
    parsed
}

/// Reads a MeshConfig from a file that holds nothing else. What is missing has Istio's defaults.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_mesh_config(text: &str, file: &Arc<str>) -> Result<(MeshConfig, Vec<Problem>), Vec<Problem>> {
    mesh_config(text, file, 0)
}

/// Reads one document's values, whatever they are; `line` lines of its file stand before it.
///
/// # Errors
/// If it is no YAML, or more of it than is read.
pub fn parse_value(text: &str, file: &Arc<str>, line: u32) -> Result<Node, Problem> {
    let problem =
        |line, column, message| Problem { pos: Pos::new(file.clone(), line, column), object: None, field: String::new(), message };
    if text.len() > MAX_TEXT {
        return Err(problem(line, 0, format!("is longer than {MAX_TEXT} bytes")));
    }
    let read = node(&Document { line, text: text.into() });
    read.map(|(node, _)| node).map_err(|error| problem(error.line, error.column, error.message))
}

/// Reads the settings of one proxy, as the annotation `proxy.istio.io/config` holds them in YAML: those over `base`.
///
/// # Errors
/// All that is wrong with it. Places are of the text alone.
pub fn parse_proxy_config(text: &str, base: &ProxyConfig, file: &Arc<str>) -> Result<(ProxyConfig, Vec<Problem>), Vec<Problem>> {
    by_proto(text, file, 0, None, &table::PROXY_CONFIG_TYPE, |at| at.fields(|f| base.clone().overlaid(f)))
}

/// Reads an object again from the text of its document ([`Source::document`]) or from its data ([`Source::to_json`]), before which `line` lines of its
/// file stand. `None`: it is not in it.
pub fn parse_again(kind: Kind, text: &str, line: u32, file: &Arc<str>) -> Option<Object> {
    if kind == Kind::MeshConfig {
        return mesh_config(text, file, line).ok().map(|(config, _)| config.into());
    }
    let (node, source) = node(&Document { line, text: text.into() }).ok()?;
    let mut parsed = Parsed::default();
    parsed.document(node, &source, file, &mut |_| {});
    // A config map with the mesh's settings yields them too.
    parsed.objects.into_iter().filter_map(Result::ok).find(|object| object.kind() == kind)
}

fn node(document: &Document<'_>) -> Result<(Node, Source), SyntaxError> {
    let read = |text: &str| Ok((Node::parse(text, document.line, false)?, Source::new(text.into(), document.line)));
    let result = read(&document.text);
    // JSON may be indented by tabs, YAML may not.
    if result.is_err() && document.text.trim_start().starts_with('{') && document.text.contains('\t') {
        return read(&document.text.replace('\t', " "));
    }
    result
}

/// Refuses a file as a whole, for this reason. Policies that seem to be in it are named, so that they close what they would select.
pub fn refuse_documents(text: &str, file: &Arc<str>, reason: String) -> Parsed {
    let problem = |line, object, message| Problem { pos: Pos::new(file.clone(), line, 0), object, field: String::new(), message };
    let mut objects = vec![Err(Refusal { key: None, is_other: false, closes: None, problems: vec![problem(0, None, reason)] })];
    for document in documents(text) {
        let identity = Identity::guessed(&document.text);
        if let Some(closes) = identity.closes(&Node::default()) {
            let key = identity.key();
            let problems = vec![problem(document.line + 1, key.clone(), "is in a file that is not read".to_owned())];
            objects.push(Err(Refusal { key, is_other: false, closes: Some(closes), problems }));
        }
    }
    Parsed { objects, warnings: Vec::new() }
}

/// A document that is no YAML. What it was to be may still be told, so that its object's last good version can stay.
fn unreadable(document: &Document<'_>, error: &SyntaxError, file: &Arc<str>) -> Refusal {
    let told = |identity: &Identity<'_>, node: &Node| (identity.key(), identity.is_other(), identity.closes(node));
    let (key, is_other, closes) = match Node::parse(&document.text, document.line, true) {
        Ok(node) => told(&Identity::of(&node), &node),
        Err(_) => told(&Identity::guessed(&document.text), &Node::default()),
    };
    let pos = Pos::new(file.clone(), error.line, error.column);
    let problem = Problem { pos, object: key.clone(), field: String::new(), message: error.message.clone() };
    Refusal { key, is_other, closes, problems: vec![problem] }
}

/// What a document says that it is.
struct Identity<'a> {
    api_version: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: Option<&'a str>,
}

impl<'a> Identity<'a> {
    fn guessed(text: &'a str) -> Self {
        let Guess { api_version, kind, namespace, name } = guess(text);
        Identity { api_version, kind, namespace, name }
    }

    fn of(node: &'a Node) -> Self {
        let text = |node: Option<&'a Node>| node.and_then(Node::text);
        let metadata = node.get("metadata");
        Identity {
            api_version: text(node.get("apiVersion")).unwrap_or_default(),
            kind: text(node.get("kind")).unwrap_or_default(),
            namespace: text(metadata.and_then(|m| m.get("namespace"))).filter(|ns| !ns.is_empty()).unwrap_or(DEFAULT_NAMESPACE),
            name: text(metadata.and_then(|m| m.get("name"))).filter(|name| !name.is_empty()),
        }
    }

    fn key(&self) -> Option<Key> {
        let kind = Kind::told(self.api_version, self.kind)?;
        // What stands in no possible namespace is no new object: it may be one that is in force, mistyped.
        let place = if kind.is_namespaced() { self.namespace } else { "" };
        (place.is_empty() || mizzen_types::check_dns_label(place).is_ok()).then_some(())?;
        Some(Key::new(kind, place, self.name?))
    }

    fn is_other(&self) -> bool {
        kind::is_other(self.api_version, self.kind)
    }

    fn closes(&self, node: &Node) -> Option<Closes> {
        // A kind that is misspelt was meant all the same.
        let kind = Kind::meant(self.api_version, self.kind)
            .filter(|k| matches!(k, Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication))?;
        let selector = || {
            let Value::Map(entries) = &node.get("spec")?.get("selector")?.get("matchLabels")?.value else { return None };
            let labels = entries.iter().map(|entry| {
                let text = entry.value.text().filter(|text| label_text(text))?;
                label_name(&entry.key).then(|| (entry.key.to_string(), text.to_owned()))
            });
            Some(Selector { labels: labels.collect::<Option<_>>()? })
        };
        Some(Closes { kind, namespace: self.namespace.into(), selector: selector() })
    }
}

impl Parsed {
    fn document(&mut self, node: Node, source: &Source, file: &Arc<str>, see: &mut dyn FnMut(Seen<'_>)) {
        if matches!(node.value, Value::Null) {
            return;
        }
        let mut read = |node: &Node, source: Source| {
            let (objects, warnings) = (self.objects.len(), self.warnings.len());
            self.object(node, source.clone(), file);
            if let (Some(object), Some(warnings)) = (self.objects.get(objects), self.warnings.get(warnings..)) {
                see(Seen { number: objects, node, source: &source, object, warnings });
            }
        };
        if !node.is_list() {
            return read(&node, source.clone());
        }
        for (number, item) in node.into_items().iter().enumerate() {
            read(item, source.item(number));
        }
    }

    fn object(&mut self, node: &Node, source: Source, file: &Arc<str>) {
        let identity = Identity::of(node);
        let key = identity.key();
        let mut cx = Context::new(file, key.clone(), key.as_ref().is_some_and(|key| key.kind.is_istio()));
        let kind = check_kind(&At::root(&cx, node), &identity);
        let object = kind.map(|kind| {
            let verdict = verdict(kind, node);
            cx.unknown = verdict.as_ref().map(|verdict| verdict.unknown.clone());
            let object = read(&cx, kind, node, source);
            settle(&cx, node, verdict);
            object
        });
        let mesh = object.as_ref().and_then(|object| mesh_in(object, node));
        match object {
            Some(object) if !cx.failed() => {
                self.warnings.append(&mut cx.warnings.borrow_mut());
                self.objects.push(Ok(object));
                if let Some((text, line)) = mesh {
                    self.mesh(&text, file, line);
                }
            }
            _ => {
                let mut problems = cx.problems.into_inner();
                problems.sort_by_key(|problem| (problem.pos.line, problem.pos.column));
                problems.dedup();
                self.objects.push(Err(Refusal { key, is_other: identity.is_other(), closes: identity.closes(node), problems }));
            }
        }
    }

    /// The mesh's settings out of a config map.
    fn mesh(&mut self, text: &str, file: &Arc<str>, line: u32) {
        match mesh_config(text, file, line) {
            Ok((config, mut warnings)) => {
                self.warnings.append(&mut warnings);
                self.objects.push(Ok(config.into()));
            }
            Err(problems) => self.objects.push(Err(Refusal { key: Some(mesh_key()), is_other: false, closes: None, problems })),
        }
    }
}

/// The kind, if it is one of the mesh's in a version that is read.
fn check_kind(at: &At<'_>, identity: &Identity<'_>) -> Option<Kind> {
    let Value::Map(_) = &at.node.value else {
        at.expected("a map with apiVersion, kind and metadata");
        return None;
    };
    let field = |name: &str| at.entries().into_iter().find(|(key, _)| *key == name).map(|(_, at)| at);
    // Of what is no text nothing else is told.
    for name in ["apiVersion", "kind"] {
        field(name).map(|at| at.text());
    }
    let fault = |name: &str, message: String| match field(name) {
        Some(at) => at.fail(message),
        None => at.cx.problems.borrow_mut().push(at.cx.problem(at.place, name, message)),
    };
    match Kind::of_document(identity.api_version, identity.kind) {
        Ok(kind) => return Some(kind),
        Err(NotRead::Version(message)) => fault("apiVersion", message),
        Err(NotRead::Kind(message)) => {
            if identity.api_version.is_empty() {
                fault("apiVersion", REQUIRED.to_owned());
            }
            fault("kind", message);
        }
    }
    None
}

/// Kubernetes' schema on its own kinds.
fn verdict(kind: Kind, node: &Node) -> Option<Verdict> {
    Some(match kind {
        Kind::Namespace => schema::check::<k8s::Namespace>(node),
        Kind::Service => schema::check::<k8s::Service>(node),
        Kind::ServiceAccount => schema::check::<k8s::ServiceAccount>(node),
        Kind::Deployment => schema::check::<apps::Deployment>(node),
        Kind::Pod => schema::check::<k8s::Pod>(node),
        Kind::EndpointSlice => schema::check::<discovery::EndpointSlice>(node),
        Kind::ConfigMap => schema::check::<k8s::ConfigMap>(node),
        Kind::Secret => schema::check::<k8s::Secret>(node),
        _ => return None,
    })
}

/// Reads an object; whether it is good is in the context.
fn read(cx: &Context<'_>, kind: Kind, node: &Node, source: Source) -> Object {
    At::root(cx, node).fields(|f| {
        f.ignore(&["apiVersion", "kind", "status"]);
        let meta = metadata::read(f, kind, source);
        match kind {
            Kind::Namespace => core::Namespace::read(f, meta).into(),
            Kind::Service => core::Service::read(f, meta).into(),
            Kind::ServiceAccount => core::ServiceAccount::read(f, meta).into(),
            Kind::Deployment => core::Deployment::read(f, meta).into(),
            Kind::Pod => core::Pod::read(f, meta).into(),
            Kind::EndpointSlice => core::EndpointSlice::read(f, meta).into(),
            Kind::ConfigMap => core::ConfigMap::read(f, meta).into(),
            Kind::Secret => core::Secret::read(f, meta).into(),
            Kind::PeerAuthentication => istio::PeerAuthentication::read(f, meta).into(),
            Kind::AuthorizationPolicy => istio::AuthorizationPolicy::read(f, meta).into(),
            Kind::RequestAuthentication => istio::RequestAuthentication::read(f, meta).into(),
            Kind::VirtualService => istio::VirtualService::read(f, meta).into(),
            Kind::DestinationRule => istio::DestinationRule::read(f, meta).into(),
            Kind::ServiceEntry => istio::ServiceEntry::read(f, meta).into(),
            Kind::Gateway => istio::Gateway::read(f, meta).into(),
            Kind::Sidecar => istio::Sidecar::read(f, meta).into(),
            Kind::ProxyConfig => istio::WorkloadProxyConfig::read(f, meta).into(),
            Kind::MeshConfig => MeshConfig::read(f, meta).into(),
            Kind::IssuerKeys => istio::IssuerKeys { meta, keys: String::new() }.into(),
        }
    })
}

/// Adds what the schema found where no reader looked.
fn settle(cx: &Context<'_>, node: &Node, verdict: Option<Verdict>) {
    let Some(verdict) = verdict else { return };
    let mut problems = cx.problems.borrow_mut();
    for path in verdict.unknown {
        if !problems.iter().any(|problem| problem.field == path) {
            let problem = cx.problem(node.position(&path), &path, "unknown field");
            problems.push(problem);
        }
    }
    if let Some((path, message)) = verdict.wrong
        && problems.is_empty()
    {
        let problem = cx.problem(node.position(&path), &path, message);
        problems.push(problem);
    }
}

fn mesh_key() -> Key {
    Key::new(Kind::MeshConfig, "istio-system", "istio")
}

/// The text of MeshConfig in ConfigMap `istio-system/istio`, and the lines before it.
fn mesh_in(object: &Object, node: &Node) -> Option<(String, u32)> {
    let Object::ConfigMap(map) = object else { return None };
    let ours = &*map.meta.namespace == "istio-system" && &*map.meta.name == "istio";
    let text = map.data.get("mesh").filter(|_| ours)?;
    let line = node.position("data.mesh").0;
    // A block scalar starts in the line after its key.
    Some((text.clone(), if text.contains('\n') { line } else { line.saturating_sub(1) }))
}

fn mesh_config(text: &str, file: &Arc<str>, line: u32) -> Result<(MeshConfig, Vec<Problem>), Vec<Problem>> {
    by_proto(text, file, line, Some(mesh_key()), &table::MESH_CONFIG, |at| {
        let place = Pos { file: file.clone(), line: at.place.0, column: at.place.1 };
        let meta = crate::Meta { origin: place, source: Source::new(text.into(), line), ..MeshConfig::default().meta };
        at.fields(|f: &Fields<'_>| MeshConfig::read(f, meta))
    })
}

/// Reads a text that is one message in protojson or YAML, before which `line` lines of its file stand.
fn by_proto<T>(
    text: &str,
    file: &Arc<str>,
    line: u32,
    key: Option<Key>,
    table: &'static table::Type,
    read: impl FnOnce(&At<'_>) -> T,
) -> Result<(T, Vec<Problem>), Vec<Problem>> {
    let mut cx = Context::new(file, key, true);
    let node = if text.len() > MAX_TEXT {
        Err(SyntaxError { line, column: 0, message: format!("is longer than {MAX_TEXT} bytes") })
    } else {
        Node::parse(text, line, false)
    };
    let node = match node {
        Ok(node) => node,
        Err(error) => return Err(vec![cx.problem((error.line, error.column), "", error.message)]),
    };
    let value = read(&At::root(&cx, &node).by(table));
    let (mut problems, warnings) = (std::mem::take(cx.problems.get_mut()), std::mem::take(cx.warnings.get_mut()));
    problems.sort_by_key(|problem| (problem.pos.line, problem.pos.column));
    if problems.is_empty() { Ok((value, warnings)) } else { Err(problems) }
}
