//! `mizzen netpol`: the NetworkPolicies that repeat the mesh's policies at L4.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mizzen_analyze::netpol::{Netpol, NetworkPolicy, Options, Through, World, write};
use mizzen_api::{istio::MeshConfig, parse_mesh_config};
use mizzen_types::IpRange;

use super::{
    analyze::{
        files::{File, gather},
        input::Input,
    },
    output::{self, Objects},
    place::{Extent, Place, Where},
};
use crate::up::say;

/// Arguments of `netpol`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "What is written never stops a call that the mesh allows: what L4 does not show (paths, methods, tokens) is admitted, told on \
standard error, and left to the mesh. Pods are known by the label security.istio.io/tlsMode=istio, which injection writes, and callers of an account \
by the selectors of its workloads; name all of these. Ports 15021 and 15090 of proxies and that of their agents (15020) stay open. What pods may \
reach is written where outboundTrafficPolicy is REGISTRY_ONLY, or with --egress-through.\n\nExamples:\n  \
mizzen netpol                                     from what the running mesh or the cluster has\n  \
mizzen netpol --use-kube=false -R config/         from files alone, with all folders below\n  \
mizzen netpol -n shop | kubectl apply -f -        those of one namespace, into the cluster\n  \
mizzen netpol --egress-through istio-system/istio=egressgateway --egress-to 10.96.0.1/32\n                                                    \
and pods leave the cluster through these pods alone, but for one address"
)]
pub(crate) struct NetpolArgs {
    /// Files of YAML or JSON, folders, or `-` for standard input. With a running mesh they are laid over what it has.
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// Only NetworkPolicies of this namespace; it is also that of objects in files that name none. Without it: all namespaces, and `default` for objects
    /// that name none.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// All namespaces, whatever `--namespace` says.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Whether the running mesh is looked at; `--use-kube=false` looks at files alone.
    #[arg(short = 'k', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_kube: Option<bool>,
    /// Folders with all that are below them.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// A file that holds the mesh's settings (MeshConfig) and nothing else; they are in force before all others.
    #[arg(long = "meshConfigFile", value_name = "FILE")]
    mesh_config_file: Option<PathBuf>,
    /// The pods through which alone all others may leave the cluster, by their namespace and a label. Without it: those that Gateways with the selector
    /// `istio: egressgateway` have, and proxies go themselves to what no route leads there.
    #[arg(long, value_name = "NAMESPACE/LABEL=VALUE")]
    egress_through: Option<Through>,
    /// An address or a block of addresses that all pods may reach besides, such as that of the API server. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    egress_to: Vec<IpRange>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Objects,
}

/// Runs it.
///
/// # Errors
/// If nothing can be looked at.
pub(crate) fn run(place: &Where, args: &NetpolArgs) -> Result<()> {
    let gathered = gather(&args.paths, args.recursive)?;
    for path in &gathered.skipped {
        say::warning(&format!("{} is left out: files of configuration end in .json, .yaml or .yml", path.display()));
    }
    let shown = || args.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    if gathered.files.is_empty() && !args.paths.is_empty() {
        bail!("{}: there is no file that ends in .json, .yaml or .yml", shown());
    }
    let running = if args.use_kube == Some(false) { None } else { super::runtime(place.running())? };
    if running.is_none() && (args.use_kube == Some(true) || place.mesh.is_some() || args.paths.is_empty()) {
        bail!("no mesh is running here as this user: name files or folders to look at them, or start a mesh with `mizzen up DIR`");
    }
    let namespace = args.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let mut input =
        Input { files: gathered.files, namespace, is_installed: running.is_none(), extent: Extent::Callers, ..Input::default() };
    let mut registry_only = false;
    if let Some(mesh) = &running {
        input.lay_over(mesh, args.use_kube.is_none() && !place.is_explicit() && !args.paths.is_empty())?;
        registry_only = matches!(mesh, Place::Host(mesh) if mesh.file()?.secure);
    }
    let options = Options {
        namespace: args.namespace.clone().filter(|_| !args.all_namespaces),
        through: args.egress_through.clone(),
        reach: args.egress_to.clone(),
        registry_only,
        // Of a cluster it is known which namespaces have proxies.
        meshed_by_default: input.is_installed || input.is_stand_alone,
        control_plane: place.istio_namespace.clone(),
    };
    let made = write(&world(&input, args)?, &options);
    tell(&made);
    output::print(&text(&made.policies, args.output)?)
}

/// What is looked at; of objects with one name the first is in force.
fn world(input: &Input, args: &NetpolArgs) -> Result<World> {
    let mut world = World::default();
    if let Some(path) = &args.mesh_config_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("--meshConfigFile {}: cannot be read", path.display()))?;
        world.settings(settings(&File { name: path.to_string_lossy().into(), path: None, text })?);
    }
    input.files.iter().for_each(|file| world.add(&file.text, &file.name, &input.namespace));
    input.below.iter().for_each(|file| world.add(&file.text, &file.name, "default"));
    input.refused.iter().for_each(|kind| world.lacks(kind));
    if let Some(file) = &input.fallback {
        world.settings(settings(file)?);
    }
    Ok(world)
}

fn settings(file: &File) -> Result<MeshConfig> {
    let parsed = parse_mesh_config(&file.text, &file.name);
    let (config, _) =
        parsed.map_err(|problems| anyhow::anyhow!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    Ok(config)
}

fn tell(made: &Netpol) {
    made.notes.iter().for_each(|note| say::warning(&note.to_string()));
    if made.policies.is_empty() {
        say::warning(
            "no NetworkPolicy is written: no AuthorizationPolicy says anything at L4, and nothing says that pods may not leave the cluster",
        );
    }
}

fn text(policies: &[NetworkPolicy], form: Objects) -> Result<String> {
    let text = form.render(policies)?;
    // So that it can be put behind other documents.
    let begins = form == Objects::Yaml && !policies.is_empty();
    Ok(if begins { format!("---\n{text}") } else { text })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: NetpolArgs,
    }

    fn args(words: &[&str]) -> NetpolArgs {
        Line::try_parse_from(["netpol"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}")).args
    }

    const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n\
                          spec: {rules: [{from: [{source: {namespaces: [\"on\"]}}]}]}\n";

    #[test]
    fn yaml_and_json_say_the_same() {
        let files = vec![File { name: "a.yaml".into(), path: None, text: POLICY.to_owned() }];
        let mut input = Input { files, namespace: "shop".to_owned(), ..Input::default() };
        let made = write(&world(&input, &args(&[])).expect("a world"), &Options::default());
        let (yaml, json) = (text(&made.policies, Objects::Yaml).expect("a text"), text(&made.policies, Objects::Json).expect("a text"));
        let list: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let read = mizzen_api::parse_value(yaml.trim_start_matches("---\n"), &"out.yaml".into(), 0).expect("YAML").to_json();
        assert_eq!(list["items"][0], read, "{yaml}");
        assert_eq!(read["metadata"]["namespace"], "shop");
        assert_eq!(
            read["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "on",
            "{yaml}"
        );
        assert_eq!(text(&[], Objects::Yaml).expect("a text"), "");
        input.refused.push("AuthorizationPolicy".to_owned());
        assert_eq!(write(&world(&input, &args(&[])).expect("a world"), &Options::default()).policies, []);
    }

    #[test]
    fn settings_in_a_file_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mesh.yaml");
        let check = |text: &str, expected: Result<usize, &str>| {
            std::fs::write(&path, text).expect("a file");
            let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {containers: [{name: c, image: x}]}\n";
            let files = vec![File { name: "a.yaml".into(), path: None, text: pod.to_owned() }];
            let input = Input { files, namespace: "default".to_owned(), ..Input::default() };
            let made = world(&input, &args(&["--meshConfigFile", path.to_str().expect("a path")]));
            match (made, expected) {
                (Ok(world), Ok(count)) => assert_eq!(write(&world, &Options::default()).policies.len(), count, "{text}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
                (made, _) => panic!("{text}: {made:?}"),
            }
        };
        check("outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n", Ok(1));
        check("outboundTrafficPolicy: {mode: ALLOW_ANY}\n", Ok(0));
        check("outboundTraficPolicy: {}\n", Err("outboundTraficPolicy: unknown field"));
    }

    #[test]
    fn words_that_are_not_understood() {
        for (words, part) in [
            (["--egress-through", "istio=egressgateway"], "is not NAMESPACE/LABEL=VALUE"),
            (["--egress-to", "example.org"], "is neither an IP address nor a CIDR block"),
        ] {
            let Err(error) = Line::try_parse_from(["netpol"].iter().chain(&words)).map(|_| ()) else { panic!("{words:?}") };
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
