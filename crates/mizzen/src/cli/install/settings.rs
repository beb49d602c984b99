//! What an installation is to be: a profile, and what was said beside it with `--set` and `-f`, in the words of Istio's installer.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use mizzen_api::istio::MeshConfig;
use mizzen_control::inject::InjectConfig;
use serde_json::{Map, Value, json};

use super::{
    gateways::{self, Border, Gateway},
    manifest::{self, Component},
    overlays::{self, Overlay},
    values::{self, Shape, Table},
};

/// The namespace of the control plane.
pub(super) const NAMESPACE: &str = "istio-system";

/// Flags that say what is installed.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SettingsArgs {
    /// One setting, as `profile=minimal`, `meshConfig.accessLogFile=/dev/stdout` or `values.pilot.replicaCount=2`. May be repeated.
    #[arg(short, long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// A file with settings, in the form of Istio's IstioOperator. May be repeated; later ones lie over earlier ones, and --set over all.
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
}

impl SettingsArgs {
    /// Whether nothing is said.
    pub(super) fn is_silent(&self) -> bool {
        self.set.is_empty() && self.filename.is_empty()
    }
}

/// A set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Profile {
    /// The control plane and an ingress gateway, as open as Istio's.
    #[default]
    Default,
    /// The same, closed: mutual TLS everywhere, and nobody may call anybody until a policy allows it.
    Secure,
    /// The control plane alone.
    Minimal,
}

impl Profile {
    const ALL: [(&'static str, Profile); 3] = [("default", Profile::Default), ("secure", Profile::Secure), ("minimal", Profile::Minimal)];

    fn named(text: &str) -> Result<Profile> {
        let found = Profile::ALL.iter().find(|(name, _)| *name == text).map(|(_, profile)| *profile);
        found.with_context(|| format!("profile {text}: must be default, secure or minimal"))
    }

    pub(super) fn name(self) -> &'static str {
        Profile::ALL.iter().find(|(_, profile)| *profile == self).map_or("default", |(name, _)| name)
    }
}

/// What is installed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    /// Defaults.
    pub(super) profile: Profile,
    /// Where images are.
    pub(super) hub: String,
    /// Their tag.
    pub(super) tag: String,
    /// MeshConfig, with what every installation has.
    pub(super) mesh_config: Value,
    /// Whether the node's plugin and its agent are installed.
    pub(super) cni: bool,
    /// The gateways that are installed.
    pub(super) gateways: Vec<Gateway>,
    /// The lists of gateways, as they were said or as the profile has them.
    lists: Value,
    /// What is changed of the objects of other components.
    overlays: BTreeMap<Component, Vec<Overlay>>,
    /// The same as it was said.
    overlaid: Value,
    /// Istio's values, as they were said.
    values: Value,
    /// The same with all defaults, and the values of each gateway.
    complete: Value,
}

impl Settings {
    /// What flags and files say. Second: what is said of it without refusing it.
    ///
    /// # Errors
    /// One line that names a setting that is not known, or not good.
    pub(super) fn read(args: &SettingsArgs) -> Result<(Settings, Vec<String>)> {
        let mut spec = json!({});
        for path in &args.filename {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            merge(&mut spec, of_file(&text).with_context(|| path.display().to_string())?);
        }
        let mut spec = over_lists(spec, &args.set)?;
        for setting in &args.set {
            let (path, value) = setting.split_once('=').with_context(|| format!("--set {setting}: must be PATH=VALUE"))?;
            set(&mut spec, path, scalar(value)).with_context(|| format!("--set {setting}"))?;
        }
        let files: Vec<String> = args.filename.iter().map(|path| path.display().to_string()).collect();
        let read = Settings::of_spec(spec);
        // With flags beside them it need not be the files' fault.
        if files.is_empty() || !args.set.is_empty() { read } else { read.with_context(|| files.join(" and ")) }
    }

    /// As the `spec` of an IstioOperator.
    pub(super) fn of_spec(spec: Value) -> Result<(Settings, Vec<String>)> {
        let Value::Object(spec) = spec else { bail!("spec: must be a map") };
        let (mut mesh_config, mut values) = (json!({}), json!({}));
        let (mut profile, mut hub, mut tag, mut said) = (Profile::Default, None, None, json!({}));
        for (name, value) in spec {
            match &*name {
                "profile" => profile = Profile::named(text(&name, &value)?)?,
                "hub" => hub = Some(text(&name, &value)?.to_owned()),
                "tag" => tag = Some(text(&name, &value)?.to_owned()),
                "meshConfig" => merge(&mut mesh_config, value),
                "values" => merge(&mut values, value),
                "components" => said = value,
                "revision" => bail!("revision: one control plane per cluster is all that is supported yet, and it has no revision"),
                other => bail!("{other} is not supported: must be profile, hub, tag, meshConfig, values or components"),
            }
        }
        let Components { cni, lists, overlays, overlaid } = components(said, profile, &values)?;
        // Istio's chart has it among its values too.
        if let Some(inner) = values.as_object_mut().and_then(|values| values.remove("meshConfig")) {
            merge(&mut mesh_config, inner);
        }
        // As with Istio's installer: where the plugin is, injection leaves the capture to it, unless it is said otherwise.
        if cni && values.pointer("/pilot/cni/enabled").is_none_or(Value::is_null) {
            merge(&mut values, json!({ "pilot": { "cni": { "enabled": true } } }));
        }
        let mut complete = values::completed(&values);
        let of_values = |name: &str| complete.pointer(&format!("/global/{name}")).map(manifest::word);
        let hub = hub.or_else(|| of_values("hub")).unwrap_or_else(|| "mizzen".to_owned());
        let tag = tag.or_else(|| of_values("tag")).unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
        let mut whole = defaults();
        merge(&mut whole, mesh_config);
        let (mesh, mut warnings) = check_mesh_config(&whole)?;
        // What concerns injection is judged by what acts on it; of Kubernetes' version it is independent.
        warnings.extend(InjectConfig::new(&mesh, &values, true)?.warnings);
        values::judge(&values)?;
        let gateways = gateways::read(&lists, &values, &mut complete)?;
        for border in Border::ALL {
            let (name, is_there) = (border.name(), gateways.iter().any(|gateway| gateway.border == border));
            let is_off = gateways::enabled(&values, border) == Some(false);
            if !is_there && !is_off && values.pointer(&format!("/gateways/{name}")).is_some() {
                warnings.push(format!("values.gateways.{name} has no effect: no gateway of components.{} is enabled", border.list()));
            }
        }
        if !cni && values.get("cni").is_some() {
            warnings.push("values.cni has no effect without components.cni.enabled=true".to_owned());
        }
        if !cni && overlays.contains_key(&Component::Cni) {
            warnings.push("components.cni.k8s has no effect without components.cni.enabled=true".to_owned());
        }
        let settings = Settings { profile, hub, tag, mesh_config: whole, cni, gateways, lists, overlays, overlaid, values, complete };
        // What would change nothing is said before anything is done.
        manifest::objects(&settings)?;
        Ok((settings, warnings))
    }

    /// What is changed of the objects of a component that is no gateway.
    pub(super) fn overlays(&self, component: Component) -> &[Overlay] {
        self.overlays.get(&component).map_or(&[], Vec::as_slice)
    }

    /// The `spec` that leads to these settings again.
    pub(super) fn to_spec(&self) -> Value {
        let mut components = json!({ "cni": { "enabled": self.cni } });
        merge(&mut components, self.lists.clone());
        merge(&mut components, self.overlaid.clone());
        json!({
            "profile": self.profile.name(), "hub": self.hub, "tag": self.tag, "meshConfig": self.mesh_config, "values": self.values,
            "components": components,
        })
    }

    /// A value by its path, as it was said or as it is by default.
    pub(super) fn value(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.complete, |at, name| at.get(name)).filter(|value| !value.is_null())
    }

    /// The same, of a text that is not empty.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.value(path).map(manifest::word).filter(|text| !text.is_empty())
    }

    /// The same, of a map or a list in which something is.
    pub(super) fn filled(&self, path: &str) -> Option<&Value> {
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        self.value(path).filter(|value| !is_empty(value))
    }

    /// The same, of a flag.
    pub(super) fn flag(&self, path: &str) -> bool {
        self.value(path) == Some(&json!(true))
    }
}

/// What is said of Istio's components.
struct Components {
    /// Whether the node's plugin is installed.
    cni: bool,
    /// The lists of gateways.
    lists: Value,
    overlays: BTreeMap<Component, Vec<Overlay>>,
    overlaid: Value,
}

fn components(said: Value, profile: Profile, values: &Value) -> Result<Components> {
    let Value::Object(said) = said else { bail!("components: must be a map") };
    let mut found = Components { cni: false, lists: gateways::of_profile(profile, values), overlays: BTreeMap::new(), overlaid: json!({}) };
    for (name, value) in said {
        if Border::ALL.iter().any(|border| border.list() == name) {
            if !value.is_null() {
                found.lists[&name] = value;
            }
            continue;
        }
        let component = match &*name {
            "base" => Component::Base,
            "cni" => Component::Cni,
            "pilot" => Component::Pilot,
            _ => bail!(
                "components.{name} is not supported: must be base, pilot, cni, ingressGateways or egressGateways; what else is installed says the \
                 profile"
            ),
        };
        let Value::Object(fields) = value else { bail!("components.{name}: must be a map") };
        for (field, value) in fields {
            let at = format!("components.{name}.{field}");
            match &*field {
                "enabled" => {
                    let enabled = value.as_bool().with_context(|| format!("{at}: must be true or false"))?;
                    ensure!(enabled || component == Component::Cni, "{at}: must be true: every installation has it");
                    found.cni |= enabled && component == Component::Cni;
                }
                "k8s" => {
                    Table { at: at.clone(), rows: vec![("overlays".to_owned(), Shape::List)], is_small: true }.judge(&value)?;
                    let read = overlays::read(&format!("{at}.overlays"), &value["overlays"])?;
                    if !read.is_empty() {
                        found.overlays.insert(component, read);
                        found.overlaid[&name] = json!({ "k8s": value });
                    }
                }
                _ => bail!("{at} is not supported: must be enabled or k8s; the rest of its settings are among values"),
            }
        }
    }
    Ok(found)
}

/// What files say, over the profile's lists of gateways: `--set` counts their elements. As with Istio's installer, a file's list is the whole list.
fn over_lists(spec: Value, set: &[String]) -> Result<Value> {
    let by_flag = |path: &str| set.iter().rev().find_map(|setting| setting.strip_prefix(path)?.strip_prefix('='));
    let profile =
        by_flag("profile").or_else(|| spec.get("profile").and_then(Value::as_str)).map_or(Ok(Profile::Default), Profile::named)?;
    // Whether these have a gateway may be said among values, too.
    let mut values = spec.get("values").cloned().unwrap_or_else(|| json!({}));
    for border in Border::ALL {
        if let Some(enabled) = by_flag(&format!("values.gateways.{}.enabled", border.name())) {
            merge(&mut values, json!({ "gateways": { (border.name()): { "enabled": scalar(enabled) } } }));
        }
    }
    let mut whole = json!({ "components": gateways::of_profile(profile, &values) });
    merge(&mut whole, spec);
    Ok(whole)
}

/// MeshConfig of an installation that says nothing.
pub(super) fn defaults() -> Value {
    json!({ "rootNamespace": NAMESPACE, "trustDomain": "cluster.local" })
}

fn check_mesh_config(config: &Value) -> Result<(MeshConfig, Vec<String>)> {
    // JSON is YAML.
    let text = serde_json::to_string_pretty(config)?;
    let line = |problem: &mizzen_api::Problem| problem.to_string();
    match mizzen_api::parse_mesh_config(&text, &Arc::from("meshConfig")) {
        Ok((read, warnings)) => {
            ensure!(&*read.root_namespace == NAMESPACE, "meshConfig.rootNamespace: must be {NAMESPACE}, where the control plane is");
            Ok((read, warnings.iter().map(line).collect()))
        }
        Err(problems) => bail!("{}", problems.iter().map(line).collect::<Vec<_>>().join("\n")),
    }
}

/// The `spec` of a file.
fn of_file(text: &str) -> Result<Value> {
    let document: Value = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    let Value::Object(document) = document else { bail!("must be an IstioOperator") };
    let mut spec = json!({});
    for (name, value) in document {
        match (&*name, &value) {
            ("apiVersion", Value::String(version)) if version == "install.istio.io/v1alpha1" => {}
            ("kind", Value::String(kind)) if kind == "IstioOperator" => {}
            ("apiVersion" | "kind", other) => bail!("{name}: {other}: must be an IstioOperator of install.istio.io/v1alpha1"),
            // A name and a namespace say nothing of what is installed.
            ("metadata", _) => {}
            ("spec", _) => spec = value,
            (other, _) => bail!("{other} is no field of an IstioOperator"),
        }
    }
    Ok(spec)
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str> {
    value.as_str().with_context(|| format!("{name}: must be a text"))
}

/// A value as Istio's installer reads it on the command line: a number, `true` or `false`, or else a text.
fn scalar(text: &str) -> Value {
    match text {
        "true" => json!(true),
        "false" => json!(false),
        _ => text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)),
    }
}

/// Writes one setting. `\.` is a dot within a name, `[N]` an element of a list, which is at most its next.
fn set(into: &mut Value, path: &str, value: Value) -> Result<()> {
    let mut at = into;
    for step in steps(path)? {
        at = match step {
            Step::Name(name) => {
                if at.is_null() {
                    *at = json!({});
                }
                at.as_object_mut().with_context(|| format!("{name} is in something that is no map"))?.entry(name).or_insert(Value::Null)
            }
            Step::Element(n) => {
                if at.is_null() {
                    *at = json!([]);
                }
                let list = at.as_array_mut().with_context(|| format!("[{n}] is of something that is no list"))?;
                ensure!(n <= list.len(), "[{n}]: the list has {} elements so far", list.len());
                if n == list.len() {
                    list.push(Value::Null);
                }
                &mut list[n]
            }
        };
    }
    // Names that are texts stay so, whatever they look like.
    *at = match (path, value) {
        ("tag" | "hub" | "values.global.tag" | "values.global.hub", Value::Number(number)) => json!(number.to_string()),
        (_, value) => value,
    };
    Ok(())
}

enum Step {
    Name(String),
    Element(usize),
}

fn steps(path: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for part in path.replace("\\.", "\0").split('.') {
        let part = part.replace('\0', ".");
        let mut pieces = part.split('[');
        let name = pieces.next().unwrap_or_default();
        ensure!(!name.is_empty(), "{path}: a name is empty");
        steps.push(Step::Name(name.to_owned()));
        for piece in pieces {
            let number = piece.strip_suffix(']').and_then(|number| number.parse().ok());
            steps.push(Step::Element(number.with_context(|| format!("{path}: [{piece} must be a number in brackets"))?));
        }
    }
    Ok(steps)
}

/// Lays `over` over `into`: maps by their keys, anything else whole.
pub(super) fn merge(into: &mut Value, over: Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (name, value) in over {
                merge(into.entry(name).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (into, over) => *into = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[&str]) -> Result<Settings> {
        let args = SettingsArgs { set: set.iter().map(|s| (*s).to_owned()).collect(), filename: Vec::new() };
        Settings::read(&args).map(|(settings, _)| settings)
    }

    #[test]
    fn what_is_set() {
        let settings = read(&[
            "profile=minimal",
            "hub=registry.test/mesh",
            "tag=1",
            "meshConfig.accessLogFile=/dev/stdout",
            "values.meshConfig.enableAutoMtls=false",
            "values.pilot.env.A=b=c",
            "values.pilot.podAnnotations.example\\.com/x=y",
            "values.pilot.tolerations[0].key=k",
        ])
        .unwrap();
        assert_eq!((settings.profile, &*settings.hub, &*settings.tag), (Profile::Minimal, "registry.test/mesh", "1"));
        assert_eq!(settings.mesh_config["accessLogFile"], "/dev/stdout");
        assert_eq!(settings.mesh_config["enableAutoMtls"], false);
        assert_eq!(settings.value("pilot.env.A"), Some(&json!("b=c")));
        let pilot = json!({ "env": { "A": "b=c" }, "podAnnotations": { "example.com/x": "y" }, "tolerations": [{ "key": "k" }] });
        assert_eq!(settings.values["pilot"], pilot);
        let (again, _) = Settings::of_spec(settings.to_spec()).unwrap();
        assert_eq!(again, settings);
        let silent = read(&[]).unwrap();
        assert_eq!((silent.profile, &*silent.hub, &*silent.tag), (Profile::Default, "mizzen", env!("CARGO_PKG_VERSION")));
        let by_values = read(&["values.global.hub=h", "values.global.tag=2"]).unwrap();
        assert_eq!((&*by_values.hub, &*by_values.tag), ("h", "2"));
    }

    #[test]
    fn what_is_refused() {
        for (setting, why) in [
            ("revision=canary", "revision: one control plane per cluster"),
            ("profile=demo", "profile demo: must be default, secure or minimal"),
            ("components.pilot.enabled=false", "components.pilot.enabled: must be true: every installation has it"),
            ("components.pilot.k8s.replicaCount=2", "components.pilot.k8s.replicaCount is not supported: must be overlays"),
            ("components.pilot.k8s.overlays[0].name=x", "components.pilot.k8s.overlays[0].kind: must be a text"),
            ("components.ztunnel.enabled=true", "components.ztunnel is not supported: must be base, pilot, cni"),
            ("values.gateways.istio-egressgateway.enabled=yes", "values.gateways.istio-egressgateway.enabled: must be true or false"),
            (
                "values.gateways.istio-ingressgateway.kind=StatefulSet",
                "values.gateways.istio-ingressgateway.kind: must be Deployment or DaemonSet",
            ),
            ("components.cni.namespace=kube-system", "components.cni.namespace is not supported"),
            ("components.cni.enabled=yes", "components.cni.enabled: must be true or false"),
            ("components.ingressGateways[2].name=x", "[2]: the list has 1 elements so far"),
            ("components.ingressGateways[0].hub=x", "components.ingressGateways[0].hub is not supported: must be name"),
            ("components.egressGateways=true", "components.egressGateways: must be a list"),
            ("values.pilot.autoscaleEnabled=yes", "values.pilot.autoscaleEnabled: must be true or false"),
            ("values.pilot.taint.enabled=yes", "values.pilot.taint.enabled: must be true or false"),
            ("values.pilot.taint.key=x", "values.pilot.taint.key is not supported"),
            ("values.global.defaultTolerations[0]=x", "values.global.defaultTolerations is not supported"),
            ("values.global.jwtPolicy=x", "global.jwtPolicy: must be third-party-jwt or first-party-jwt"),
            ("values.global.dualStack=x", "values.global.dualStack: must be"),
            ("values.global.ipFamilyPolicy=Both", "values.global.ipFamilyPolicy: must be"),
            ("values.pilot.ipFamilies[0]=IPv5", "values.pilot.ipFamilies: must be"),
            ("values.cni.chained=false", "values.cni.chained: must be true"),
            ("values.cni.ambient.enabled=true", "values.cni.ambient.enabled: must be false"),
            ("values.pilot=x", "values.pilot: must be a map"),
            ("meshConfig.noSuchField=1", "noSuchField"),
            ("meshConfig.rootNamespace=mesh", "meshConfig.rootNamespace: must be istio-system"),
            ("tag", "must be PATH=VALUE"),
            ("a..b=c", "a name is empty"),
            ("values.pilot.tolerations[1].key=k", "the list has 0 elements"),
        ] {
            let error = format!("{:#}", read(&[setting]).unwrap_err());
            assert!(error.contains(why), "{setting}: {error}");
        }
    }

    #[test]
    fn the_nodes_plugin() {
        let of = |set: &[&str]| {
            let settings = read(set).unwrap();
            let (again, _) = Settings::of_spec(settings.to_spec()).unwrap();
            assert_eq!(again, settings);
            (settings.cni, settings.flag("pilot.cni.enabled"))
        };
        assert_eq!(of(&[]), (false, false));
        assert_eq!(of(&["components.cni.enabled=true"]), (true, true));
        // The plugin first, and pods that need it later; or somebody else's release of it.
        assert_eq!(of(&["components.cni.enabled=true", "values.pilot.cni.enabled=false"]), (true, false));
        assert_eq!(of(&["values.pilot.cni.enabled=true"]), (false, true));
        let args = SettingsArgs { set: vec!["values.cni.logging.level=default:debug".to_owned()], filename: Vec::new() };
        assert_eq!(Settings::read(&args).unwrap().1, ["values.cni has no effect without components.cni.enabled=true"]);
    }

    /// Which gateways there are by flags, and by flags over a file.
    #[test]
    fn gateways_that_are_set() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        std::fs::write(
            &file,
            "spec:\n  profile: minimal\n  components:\n    ingressGateways:\n    - {name: payments, label: {istio: payments}}\n",
        )
        .unwrap();
        let of = |set: &[&str], files: &[&PathBuf]| {
            let filename = files.iter().map(|file| (*file).clone()).collect();
            let args = SettingsArgs { set: set.iter().map(|s| (*s).to_owned()).collect(), filename };
            Settings::read(&args).map(|(settings, _)| settings)
        };
        let check = |set: &[&str], files: &[&PathBuf], expected: &[&str]| {
            let settings = of(set, files).unwrap();
            let names: Vec<&str> = settings.gateways.iter().map(|gateway| &*gateway.name).collect();
            assert_eq!(names, expected, "{set:?}");
        };
        let (ingress, egress) = ("istio-ingressgateway", "istio-egressgateway");
        check(&["components.egressGateways[0].enabled=true"], &[], &[ingress, egress]);
        check(&["components.egressGateways[0].name=out", "components.egressGateways[0].enabled=true"], &[], &[ingress, "out"]);
        check(&["components.ingressGateways[0].enabled=false"], &[], &[]);
        // Values say it of all that do not say it themselves.
        let [values_in, values_out] = [ingress, egress].map(|name| format!("values.gateways.{name}.enabled"));
        let (off, on) = (format!("{values_in}=false"), format!("{values_out}=true"));
        check(&[&off, &on], &[], &[egress]);
        check(&[&on, "profile=minimal"], &[], &[egress]);
        check(&[&on, &format!("{values_out}=false")], &[], &[ingress]);
        check(&[&on, "components.egressGateways[0].enabled=false"], &[], &[ingress]);
        check(&[&off], &[&file], &[]);
        check(&[&off, "components.ingressGateways[1].enabled=true"], &[&file], &[ingress]);
        check(&["components.ingressGateways[1].name=payments"], &[], &[ingress, "payments"]);
        // The profile's list is that of the profile that holds in the end.
        check(&["components.ingressGateways[1].name=payments", "profile=minimal"], &[], &["payments"]);
        check(&["components.ingressGateways[0].enabled=true", "profile=minimal"], &[], &[ingress]);
        // A file's list is the whole list, and flags count in it.
        check(&[], &[&file], &["payments"]);
        check(&["components.ingressGateways[1].name=istio-ingressgateway"], &[&file], &["payments", ingress]);
        check(&["components.ingressGateways[0].name=tills", "components.egressGateways[0].enabled=true"], &[&file], &["tills", egress]);
        let settings = of(&["components.ingressGateways[0].k8s.service.type=NodePort"], &[&file]).unwrap();
        assert_eq!(settings.value("components.ingressGateways.0.type"), Some(&json!("NodePort")));
        assert_eq!(settings.gateways[0].labels, json!({ "app": "payments", "istio": "payments" }));
        let wrong = "components.ingressGateways[0].enabled: must be true or false";
        let error = format!("{:#}", of(&["components.ingressGateways[0].enabled=1"], &[&file]).unwrap_err());
        assert_eq!(error, wrong);
        std::fs::write(&file, "spec: {components: {ingressGateways: [{enabled: 1}]}}\n").unwrap();
        let error = format!("{:#}", of(&[], &[&file]).unwrap_err());
        assert_eq!(error, format!("{}: {wrong}", file.display()));
    }

    #[test]
    fn files() {
        let file =
            "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: { name: x }\nspec: { profile: secure, tag: v1 }\n";
        let (settings, _) = Settings::of_spec(of_file(file).unwrap()).unwrap();
        assert_eq!((settings.profile, &*settings.tag), (Profile::Secure, "v1"));
        for (text, why) in
            [("kind: Deployment\n", "must be an IstioOperator"), ("specs: {}\n", "specs is no field"), ("[]\n", "must be an IstioOperator")]
        {
            let error = format!("{:#}", of_file(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
