//! What is analyzed: files, and below them what a running mesh has.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result};
use mizzen_analyze::{Analysis, INSTALLED, Id, Item, Message, Options, Sort, items};
use mizzen_api::{Node, Object, Pos, Source, parse_mesh_config};

use super::{
    files::{File, gather},
    say, together,
};
use crate::cli::{
    find::Mesh,
    place::{Extent, Place},
    runtime,
};

/// All that is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Input {
    /// What the question is about.
    pub(crate) files: Vec<File>,
    /// What there is already: an object of `files` takes the place of its own earlier version.
    pub(crate) below: Vec<File>,
    /// How much of a cluster is looked at.
    pub(crate) extent: Extent,
    /// The kinds of it that may not be read.
    pub(crate) refused: Vec<String>,
    /// A file that holds nothing but the mesh's settings, in force before those of a config map.
    pub(crate) settings: Option<File>,
    /// The mesh's settings if nothing else says them.
    pub(crate) fallback: Option<File>,
    /// That of objects in `files` that name none.
    pub(crate) namespace: String,
    /// Whether documents that are no objects are passed over.
    pub(crate) ignore_unknown: bool,
    /// Whether what an installation brings along is taken for granted.
    pub(crate) is_installed: bool,
    /// Whether it is for a mesh without Kubernetes.
    pub(crate) is_stand_alone: bool,
    /// The time, in seconds since 1970, at which certificates have to be valid.
    pub(crate) now: Option<i64>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// All of it.
    pub(crate) messages: Vec<Message>,
    /// Documents that are no objects, by file and the name that messages have for them.
    pub(crate) unparsed: BTreeSet<(Arc<str>, Id)>,
    /// How many objects there are.
    pub(crate) objects: usize,
}

impl Input {
    /// What a running mesh reads.
    ///
    /// # Errors
    /// If its folders cannot be read.
    fn add_mesh(&mut self, mesh: &Mesh) -> Result<()> {
        let folders: Vec<PathBuf> = [mesh.dir.join("objects"), mesh.file()?.folder].into_iter().filter(|path| path.exists()).collect();
        self.below = gather(&folders, true).context("the running mesh (--use-kube=false leaves it out)")?.files;
        self.fallback = gather(&[mesh.dir.join("mizzend/mesh.yaml")], false).ok().and_then(|found| found.files.into_iter().next());
        Ok(())
    }

    /// Lays it over what a running mesh reads. A cluster that does not answer is left out, and told, if it need not be there.
    ///
    /// # Errors
    /// If that cannot be read.
    pub(crate) fn lay_over(&mut self, mesh: &Place, may_be_left_out: bool) -> Result<()> {
        match mesh {
            Place::Host(mesh) => {
                self.is_stand_alone = true;
                self.add_mesh(mesh)
            }
            Place::Cluster(cluster) => match runtime(cluster.documents(self.extent)) {
                Ok(documents) => {
                    (self.below, self.refused) = (documents.files, documents.refused);
                    Ok(())
                }
                Err(error) if may_be_left_out => {
                    say(&format!("the cluster is left out (--use-kube=false says so without asking it): {error:#}"));
                    self.is_installed = true;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Looks at all of it.
    pub(crate) fn look(&self) -> Found {
        let options = Options { default_gateway: self.is_installed, stand_alone: self.is_stand_alone, now: self.now, ..Options::default() };
        let mut analysis = Analysis::new(options);
        let (mut known, mut found) = (BTreeSet::new(), Found::default());
        // Of those with one name the first one is in force.
        let mut objects = Vec::new();
        for file in &self.files {
            objects.push(items(&file.text, &file.name, &self.namespace, &mut |mut item| {
                if is_unknown(&item) {
                    if self.ignore_unknown {
                        return;
                    }
                    item.id = no_object(&item, &known);
                    found.unparsed.insert((file.name.clone(), item.id.clone()));
                }
                known.insert(item.id.clone());
                analysis.put_first(&item);
            }));
        }
        let mut has_settings = known.contains(&config_map());
        for file in &self.below {
            objects.push(items(&file.text, &file.name, "default", &mut |item| {
                has_settings |= item.id == config_map();
                if !known.contains(&item.id) {
                    analysis.put_first(&item);
                }
            }));
        }
        let fallback = self.fallback.as_ref().filter(|_| !has_settings);
        if let Some(file) = self.settings.as_ref().or(fallback) {
            settings(&mut analysis, file);
        }
        if self.is_installed {
            objects.push(items(INSTALLED, &"".into(), "default", &mut |item| {
                if !known.contains(&item.id) {
                    analysis.put(&item);
                }
            }));
        }
        analysis.update();
        found.messages = analysis.messages().into_iter().cloned().collect();
        found.objects = analysis.len() - if self.is_installed { installed(&known) } else { 0 };
        // What follows needs as much memory again.
        drop(analysis);
        let mut objects: Vec<Object> = objects.into_iter().flatten().rev().collect();
        let settings = self.settings.as_ref().and_then(|file| parse_mesh_config(&file.text, &file.name).ok());
        objects.extend(settings.map(|(config, _)| Object::from(config)));
        mizzen_analyze::add(&mut found.messages, together::look(objects));
        found
    }

    /// The texts of all files, by their names.
    pub(crate) fn texts(&self) -> BTreeMap<Arc<str>, String> {
        self.files.iter().chain(&self.below).chain(&self.settings).map(|file| (file.name.clone(), file.text.clone())).collect()
    }
}

fn config_map() -> Id {
    Id::new(Sort::ConfigMap, "istio-system", "istio")
}

/// What messages call a document that is no object: the file, with a line if it has several.
fn no_object(item: &Item<'_>, known: &BTreeSet<Id>) -> Id {
    let id = Id { kind: "File".into(), name: item.pos.file.clone(), ..Id::default() };
    if known.contains(&id) { Id { name: item.pos.to_string().into(), ..id } } else { id }
}

/// How many of the objects that an installation brings along are not in the files.
fn installed(known: &BTreeSet<Id>) -> usize {
    let mut count = 0;
    items(INSTALLED, &"".into(), "default", &mut |item| count += usize::from(!known.contains(&item.id)));
    count
}

/// Whether this is no object: no YAML, or nothing that says of which kind it is.
fn is_unknown(item: &Item<'_>) -> bool {
    item.id.sort() != Sort::MeshConfig && item.node.get("kind").and_then(Node::text).is_none()
}

/// Puts a file with the mesh's settings in the place of the config map that would hold them.
fn settings(analysis: &mut Analysis, file: &File) {
    let map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": file.text},
    });
    items(&map.to_string(), &file.name, "istio-system", &mut |item| {
        if item.id.sort() != Sort::MeshConfig {
            analysis.put(&item);
        }
    });
    // What is wrong in it is told by the lines of the file itself.
    let (problems, warnings) = match parse_mesh_config(&file.text, &file.name) {
        Ok((_, warnings)) => (Vec::new(), warnings),
        Err(problems) => (problems, Vec::new()),
    };
    let pos = Pos::new(file.name.clone(), 0, 0);
    let id = Id::new(Sort::MeshConfig, "istio-system", "istio");
    let (node, source) = (&Node::default(), Source::default());
    analysis.put(&Item { id, pos, node, source, problems: &problems, warnings: &warnings });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { name: name.into(), path: None, text: text.to_owned() }
    }

    const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {actoin: DENY}\n";

    fn told(input: &Input) -> Vec<String> {
        input.look().messages.iter().filter(|m| m.code.id == "IST0106" || m.code.id == "MZ0003").map(ToString::to_string).collect()
    }

    #[test]
    fn files_are_laid_over_what_there_is() {
        let good = POLICY.replace("actoin", "action");
        let mut input = Input { below: vec![file("below.yaml", POLICY)], namespace: "default".into(), ..Input::default() };
        assert!(told(&input)[0].starts_with("Error [IST0106] (AuthorizationPolicy default/p below.yaml:4) spec.actoin"));
        input.files = vec![file("a.yaml", &good)];
        assert_eq!(told(&input), [""; 0], "the newer version is in its place");
        input.files.push(file("b.yaml", &good));
        assert!(told(&input)[0].contains("[MZ0003]"), "{:?}", told(&input));
        input.namespace = "shop".into();
        let told = told(&input);
        assert!(told.iter().any(|line| line.contains("MZ0003") && line.contains("shop/p")), "{told:?}");
        assert!(told.iter().any(|line| line.contains("IST0106") && line.contains("default/p")), "{told:?}");
    }

    #[test]
    fn what_is_no_object() {
        let texts = ["replicas: 3\n", "a: [\n", "apiVersion: v1\nkind: [\n", "just words\n"];
        let files: Vec<File> = texts.iter().enumerate().map(|(n, text)| file(&format!("{n}.yaml"), text)).collect();
        let mut input = Input { files, namespace: "default".into(), ..Input::default() };
        assert_eq!(input.look().unparsed.len(), 4);
        input.ignore_unknown = true;
        let found = input.look();
        assert_eq!((found.unparsed.len(), found.messages.len(), found.objects), (0, 0, 0), "{found:?}");
    }

    #[test]
    fn settings_of_the_mesh() {
        let bad = file("mesh.yaml", "trustDomain: x.example\nacessLogFile: /dev/stdout\n");
        let input = Input { settings: Some(bad), namespace: "default".into(), is_installed: true, ..Input::default() };
        assert!(told(&input)[0].contains("mesh.yaml:2) acessLogFile: unknown field"), "{:?}", told(&input));
        assert_eq!(input.look().objects, 2, "the settings, as a map and as what they say");
    }
}
