//! `mizzen install`, `uninstall`, `verify-install` and `manifest generate`: the mesh in a Kubernetes cluster, in the words of Istio's installer.

mod charts;
mod cluster;
mod gateways;
mod helm;
mod manifest;
mod overlays;
mod settings;
mod values;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mizzen_control::names::{self, INJECTOR};
use serde_json::{Value, json};

pub use self::charts::files as chart_files;
use self::{
    cluster::{CONFIG_MAPS, Cluster, LEASES, Outcome, not_established, not_on_all_nodes, not_rolled_out, without_authority},
    manifest::{Component, OWNER, Part, STATE, title},
    settings::{NAMESPACE, Settings, SettingsArgs},
};
use super::{kube::client, output::print, place::Where};
use crate::up::say;

/// Arguments of `install`.
#[derive(Debug, clap::Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Only say what would be made, changed and removed.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
    /// How long all of it may take to be ready.
    #[arg(long, value_name = "DURATION", default_value = "300s", value_parser = crate::up::duration)]
    readiness_timeout: Duration,
    /// Take over what another installer has installed.
    #[arg(long)]
    force: bool,
}

/// Arguments of `uninstall`.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArgs {
    /// Remove Istio's kinds too, with all objects of them, and whatever the control plane has written: nothing stays.
    #[arg(long)]
    purge: bool,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
}

/// Arguments of `verify-install`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Verbs about the objects of an installation.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ManifestVerb {
    /// Print the objects that `install` applies, without asking a cluster.
    Generate(SettingsArgs),
}

/// Prints the objects, with the reasons of roles as comments.
pub(crate) fn manifest(verb: &ManifestVerb) -> Result<()> {
    let ManifestVerb::Generate(args) = verb;
    print(&yaml(&read(args)?)?)
}

fn yaml(settings: &Settings) -> Result<String> {
    let mut text = String::new();
    for part in manifest::objects(settings)? {
        let name = part.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        text += "---\n";
        if part.object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role")) {
            manifest::reasons(name).iter().for_each(|line| text += &format!("# {line}\n"));
        }
        text += &serde_saphyr::to_string(&part.object)?;
    }
    Ok(text)
}

fn read(args: &SettingsArgs) -> Result<Settings> {
    let (settings, warnings) = Settings::read(args)?;
    warnings.iter().for_each(|warning| say::warning(warning));
    Ok(settings)
}

/// Installs, or makes what is installed as it is to be.
pub(crate) async fn install(place: &Where, args: InstallArgs) -> Result<()> {
    let settings = read(&args.settings)?;
    let cluster = cluster(place, args.dry_run).await?;
    look_around(&cluster, &settings).await?;
    let parts = manifest::objects(&settings)?;
    if !args.force {
        refuse_others(&cluster, &parts).await?;
    }
    refuse_gateways(&cluster, &settings, &parts).await?;
    if !args.dry_run {
        let what = format!("Mizzen with profile {} will be installed into the cluster.", settings.profile.name());
        confirm(&what, args.skip_confirmation)?;
    }
    let until = Instant::now() + args.readiness_timeout;
    for component in Component::ALL {
        let mine: Vec<&Part> = parts.iter().filter(|part| part.component == component).collect();
        if mine.is_empty() {
            continue;
        }
        let mut counts = [0; 3];
        for part in &mine {
            if is_foreign_namespace(&cluster, &part.object).await? {
                if settings.overlays(Component::Base).iter().any(|overlay| overlay.is_of(&part.object)) {
                    say::warning(&format!("{} is somebody else's, and stays as it is: its overlay is not applied", title(&part.object)));
                }
                continue;
            }
            let outcome = cluster.apply(&part.object).await?;
            counts[outcome as usize] += 1;
            if args.dry_run && outcome != Outcome::Same {
                let would = if outcome == Outcome::Made { "made" } else { "changed" };
                print(&format!("{} would be {would}\n", title(&part.object)))?;
            }
        }
        // Nothing of a kind can be made before it is served, and nobody is injected before the injector answers.
        for part in &mine {
            match part.object["kind"].as_str() {
                Some("CustomResourceDefinition") => cluster.wait(&part.object, until, not_established).await?,
                Some("Deployment") => cluster.wait(&part.object, until, not_rolled_out).await?,
                Some("DaemonSet") => cluster.wait(&part.object, until, not_on_all_nodes).await?,
                _ => {}
            }
        }
        if component == Component::Pilot {
            for part in parts.iter().filter(|part| is_webhook(&part.object)) {
                cluster.wait(&part.object, until, without_authority).await?;
            }
        }
        if !args.dry_run {
            let [made, changed, same] = counts;
            print(&format!("✔ {}: {made} objects made, {changed} changed, {same} as they were\n", heading(component, &mine)))?;
        }
    }
    remove_rest(&cluster, &parts, until).await?;
    if !args.dry_run {
        print("✔ installation complete\n")?;
    }
    Ok(())
}

/// A part for people, with the names of its gateways where it has several.
fn heading(component: Component, parts: &[&Part]) -> String {
    let names: Vec<&str> = parts
        .iter()
        .filter(|part| component.is_gateways() && has_pods(&part.object))
        .filter_map(|part| part.object.pointer("/metadata/name").and_then(Value::as_str))
        .collect();
    if names.len() > 1 { format!("{}s ({})", component.title(), names.join(", ")) } else { component.title().to_owned() }
}

/// Whether an object is what makes a gateway's pods.
fn has_pods(object: &Value) -> bool {
    object["kind"] == "Deployment" || object["kind"] == "DaemonSet"
}

/// The cluster that is meant.
async fn cluster(place: &Where, dry_run: bool) -> Result<Cluster> {
    let namespace = &place.istio_namespace;
    ensure!(*namespace == NAMESPACE, "-i {namespace}: the mesh is installed into {NAMESPACE} alone");
    Ok(Cluster::new(client(place).await?, dry_run))
}

fn is_webhook(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("WebhookConfiguration"))
}

/// What somebody should know of a cluster before anything is installed.
async fn look_around(cluster: &Cluster, settings: &Settings) -> Result<()> {
    let version = cluster.version().await.context("the cluster does not answer")?;
    let first_party = settings.value("global.jwtPolicy").and_then(Value::as_str) == Some("first-party-jwt");
    match cluster.serves("serviceaccounts/token").await? {
        true => print(&format!("Kubernetes {version}; it issues tokens for an audience (TokenRequest)\n"))?,
        false if first_party => say::warning(&format!("Kubernetes {version}; it issues no tokens for an audience (TokenRequest)")),
        false => bail!(
            "the cluster (Kubernetes {version}) issues no tokens for an audience (TokenRequest), by which proxies say who they are: \
             --set values.global.jwtPolicy=first-party-jwt takes what tokens there are, which other servers may see too"
        ),
    }
    Ok(())
}

/// An installation of somebody else's is not changed unasked: two installers would undo each other's work.
async fn refuse_others(cluster: &Cluster, parts: &[Part]) -> Result<()> {
    for part in parts {
        let name = part.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let kind = part.object["kind"].as_str();
        // A gateway may have any name, also one that a program has: what is taken over would be removed with the gateway later.
        let tells = (kind == Some("Deployment") && name == "istiod")
            || name == INJECTOR && is_webhook(&part.object)
            || part.component.is_gateways();
        if !tells {
            continue;
        }
        if let Some(found) = cluster.find(&part.object).await?.filter(|found| !is_ours(found)) {
            let helms = found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm";
            let whose = if helms { "Helm's, which would undo what is done here" } else { "not Mizzen's" };
            bail!("{} is there and is {whose}: uninstall what it belongs to first, or take it over with --force", title(&part.object));
        }
    }
    Ok(())
}

/// Gateways that the cluster would not take are told before anything is changed.
async fn refuse_gateways(cluster: &Cluster, settings: &Settings, parts: &[Part]) -> Result<()> {
    for gateway in settings.gateways.iter().filter(|gateway| gateway.namespace != NAMESPACE) {
        let namespace = &gateway.namespace;
        let wanted = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        // It is not made here: `uninstall --purge` would remove it with all that others have put into it.
        let found = cluster.find(&wanted).await?;
        ensure!(
            found.is_some(),
            "{}.namespace: the cluster has no namespace {namespace}: make it first (kubectl create namespace {namespace})",
            gateway.at
        );
    }
    for part in parts.iter().filter(|part| part.component.is_gateways() && has_pods(&part.object)) {
        let selector = |object: &Value| object.pointer("/spec/selector/matchLabels").cloned();
        if let Some(found) = cluster.find(&part.object).await?
            && selector(&found) != selector(&part.object)
        {
            bail!(
                "{} is there with other labels app and istio, which Kubernetes lets nobody change: give the gateway another name, or remove \
                 that {} first (kubectl delete)",
                title(&part.object),
                manifest::word(&part.object["kind"])
            );
        }
    }
    Ok(())
}

fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][OWNER.0] == OWNER.1
}

/// A namespace that was there before is left as it is, so that `uninstall --purge` leaves it too.
async fn is_foreign_namespace(cluster: &Cluster, object: &Value) -> Result<bool> {
    Ok(object["kind"] == "Namespace" && cluster.find(object).await?.is_some_and(|found| !is_ours(&found)))
}

/// Removes what an earlier installation had and this one has not.
async fn remove_rest(cluster: &Cluster, parts: &[Part], until: Instant) -> Result<()> {
    let is_wanted = |found: &Value| parts.iter().any(|part| title(&part.object) == title(found));
    for object in cluster.installed().await?.iter().filter(|found| !is_wanted(found)) {
        // A kind takes all its objects with it, and they are somebody's.
        if object["kind"] == "CustomResourceDefinition" || object["kind"] == "Namespace" {
            continue;
        }
        cluster.remove(object, until).await?;
        let removed = if cluster.dry_run { "would be removed" } else { "is removed: it is not part of this installation any more" };
        print(&format!("{} {removed}\n", title(object)))?;
    }
    Ok(())
}

/// Removes what was installed.
pub(crate) async fn uninstall(place: &Where, args: UninstallArgs) -> Result<()> {
    let cluster = cluster(place, args.dry_run).await?;
    let mut objects = cluster.installed().await?;
    if !args.purge {
        objects.retain(|object| object["kind"] != "CustomResourceDefinition" && object["kind"] != "Namespace");
    }
    if objects.is_empty() && !args.purge {
        bail!("nothing of Mizzen's is installed in this cluster");
    }
    if !args.dry_run {
        let what = match args.purge {
            false => "Mizzen will be removed from the cluster. Istio's kinds and their objects stay.",
            true => "Mizzen will be removed from the cluster, with Istio's kinds and ALL objects of them in every namespace.",
        };
        confirm(what, args.skip_confirmation)?;
    }
    let until = Instant::now() + REMOVAL;
    let (last, first): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| object["kind"] == "Namespace");
    remove_all(&cluster, &first, until).await?;
    if args.purge {
        // Its writer is gone, so that they stay gone.
        let mut written = cluster.those(CONFIG_MAPS, is_root_certificate).await?;
        written.extend(cluster.those(LEASES, is_lease).await?);
        remove_all(&cluster, &written, until).await?;
        if last.is_empty() {
            say::warning(&format!(
                "namespace {NAMESPACE} was not made by this installer: it stays, with the keys of the certificate authority"
            ));
        }
        remove_all(&cluster, &last, until).await?;
    }
    if !args.dry_run {
        print("✔ removed\n")?;
    }
    Ok(())
}

/// How long a removal may take: pods end in their time, and a namespace when all in it is gone.
const REMOVAL: Duration = Duration::from_secs(300);

fn is_root_certificate(object: &Value) -> bool {
    object["metadata"]["name"] == names::ROOT && object["data"][names::ROOT_KEY].is_string()
}

fn is_lease(object: &Value) -> bool {
    object["metadata"]["name"] == names::LEASE && object["metadata"]["namespace"] == NAMESPACE
}

async fn remove_all(cluster: &Cluster, objects: &[Value], until: Instant) -> Result<()> {
    for object in objects {
        if cluster.remove(object, until).await? {
            let removed = if cluster.dry_run { "would be removed" } else { "is removed" };
            print(&format!("{} {removed}\n", title(object)))?;
        }
    }
    Ok(())
}

/// Whether everything that was installed is there and ready: by this installer, as it is said or as it was, or else by Helm.
pub(crate) async fn verify(place: &Where, args: VerifyArgs) -> Result<ExitCode> {
    let cluster = cluster(place, true).await?;
    let settings = match args.settings.is_silent() {
        false => Some(read(&args.settings)?),
        true => remembered(&cluster).await?,
    };
    let mut seen = Seen::default();
    let what = match settings {
        Some(settings) => {
            for part in manifest::objects(&settings)? {
                seen.look(&cluster, &part.object, "is not Mizzen's", is_ours).await?;
            }
            format!("profile {}", settings.profile.name())
        }
        None => {
            let releases = helm::releases(cluster.client()).await?;
            ensure!(
                !releases.is_empty(),
                "nothing of Mizzen's is installed in this cluster: it has no config map {NAMESPACE}/{STATE}, and no release of its charts"
            );
            for release in &releases {
                let not_its = format!("is not of release {}", release.name);
                for object in &release.objects {
                    seen.look(&cluster, object, &not_its, |found| release.has(found)).await?;
                }
            }
            format!("releases {}", releases.iter().map(|release| &*release.name).collect::<Vec<_>>().join(", "))
        }
    };
    seen.bad.iter().for_each(|line| say::problem(line));
    print(&format!("{} objects of {what} are as they should be, {} are not\n", seen.good, seen.bad.len()))?;
    Ok(if seen.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was seen of an installation.
#[derive(Debug, Default)]
struct Seen {
    good: usize,
    /// A line for each object that is not as it should be.
    bad: Vec<String>,
}

impl Seen {
    /// Looks at the cluster's object of this kind and name; `foreign` is what is said of one that is another installer's.
    async fn look(&mut self, cluster: &Cluster, object: &Value, foreign: &str, is_its: impl Fn(&Value) -> bool) -> Result<()> {
        let lacks = match cluster.find(object).await? {
            None => Some("is missing".to_owned()),
            Some(_) if object["kind"] == "Namespace" => None,
            Some(found) if !is_its(&found) => Some(foreign.to_owned()),
            Some(found) => match object["kind"].as_str() {
                Some("Deployment") => not_rolled_out(&found),
                Some("DaemonSet") => not_on_all_nodes(&found),
                Some("CustomResourceDefinition") => not_established(&found),
                Some(kind) if kind.ends_with("WebhookConfiguration") => without_authority(&found),
                _ => None,
            }
            .map(|lacks| format!("is not ready: {lacks}")),
        };
        match lacks {
            None => self.good += 1,
            Some(lacks) => self.bad.push(format!("{} {lacks}", title(object))),
        }
        Ok(())
    }
}

/// The settings that were installed, if this installer has installed something.
async fn remembered(cluster: &Cluster) -> Result<Option<Settings>> {
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": STATE, "namespace": NAMESPACE } });
    let Some(found) = cluster.find(&map).await? else { return Ok(None) };
    let text = found.pointer("/data/settings").and_then(Value::as_str).with_context(|| format!("{STATE} has no settings"))?;
    let operator: Value = serde_json::from_str(text).with_context(|| format!("{STATE}: settings"))?;
    Ok(Some(Settings::of_spec(operator["spec"].clone()).with_context(|| format!("{STATE}: settings"))?.0))
}

/// Asks whoever sits at the terminal.
fn confirm(what: &str, skip: bool) -> Result<()> {
    if skip {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("{what} Nobody can be asked whether that is meant: say so with -y");
    }
    print(&format!("{what} Proceed? (y/N) "))?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}
