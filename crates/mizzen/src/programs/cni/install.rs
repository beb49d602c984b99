//! The plugin on a node: its program where the runtime looks for programs, and its entry in the configuration of the node's network. Files are replaced
//! by renaming, so that a runtime sees the old one or the new one.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    PLUGIN,
    conf::{self, Form},
};

/// What a file is called that keeps the bytes of a configuration as it was; no runtime reads it.
const ORIGINAL: &str = ".istio-cni-original";
/// What one is called that is not written to its end, behind a dot and its later name; no runtime reads that either.
const UNFINISHED: &str = ".istio-cni-new";

/// Where the plugin is installed, as this process sees the node's folders.
pub(super) struct Installer {
    /// The folder of configurations.
    pub(super) conf_dir: PathBuf,
    /// The file among them; without it the first, which is the one that a runtime takes.
    pub(super) conf_file: Option<String>,
    /// The folder of programs.
    pub(super) bin_dir: PathBuf,
    /// The program.
    pub(super) program: PathBuf,
    /// The plugin's entry.
    pub(super) entry: Value,
    /// What the installed program looked like when it was written.
    written: Option<Stamp>,
}

/// By what it is seen that a file is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let found = fs::metadata(path).ok()?;
        Some(Stamp { inode: found.ino(), size: found.size(), modified: (found.mtime(), found.mtime_nsec()) })
    }
}

fn named(path: &Path) -> impl Fn(io::Error) -> String + use<'_> {
    move |error| format!("{}: {error}", path.display())
}

impl Installer {
    pub(super) fn new(conf_dir: PathBuf, bin_dir: PathBuf, program: PathBuf, entry: Value) -> Installer {
        Installer { conf_dir, conf_file: None, bin_dir, program, entry, written: None }
    }

    /// Makes the node as it is to be. What was written, for people; nothing if all was as it is to be.
    ///
    /// # Errors
    /// What keeps the plugin from being installed; it may not last.
    pub(super) fn install(&mut self) -> Result<Vec<String>, String> {
        let mut done = Vec::new();
        // A configuration must never name a program that is not there.
        let place = self.bin_dir.join(PLUGIN);
        if self.written.is_none() || Stamp::of(&place) != self.written {
            let bytes = fs::read(&self.program).map_err(named(&self.program))?;
            // An agent that starts anew finds what the one before it has written.
            if fs::read(&place).ok().as_ref() != Some(&bytes) {
                replace(&place, &bytes, 0o755)?;
                done.push(place.display().to_string());
            }
            self.written = Stamp::of(&place);
        }
        done.extend(self.chain()?);
        Ok(done)
    }

    /// Puts the entry into the configuration.
    fn chain(&self) -> Result<Option<String>, String> {
        let name = self.file()?;
        let form = Form::of(&name).ok_or_else(|| format!("{name}: must end with .conf, .json or .conflist"))?;
        let path = self.conf_dir.join(&name);
        let text = fs::read_to_string(&path).map_err(named(&path))?;
        let wanted = conf::with(&text, form, &self.entry).map_err(|why| format!("{}: {why}", path.display()))?;
        if form == Form::List && serde_json::from_str::<Value>(&text).is_ok_and(|there| there == wanted) {
            return Ok(None);
        }
        let mode = fs::metadata(&path).map_err(named(&path))?.permissions().mode() & 0o777;
        let original = self.conf_dir.join(format!("{name}{ORIGINAL}"));
        let list = self.conf_dir.join(conf::list_name(&name));
        // Of a list that has the plugin already, in whichever way, the original is kept.
        if form == Form::List && conf::without(&text).map_err(|why| format!("{}: {why}", path.display()))?.is_none() {
            replace(&original, text.as_bytes(), mode)?;
        }
        if form == Form::One && fs::read_to_string(&list).is_ok_and(|there| conf::without(&there).is_ok_and(|without| without.is_none())) {
            return Err(format!(
                "{}: {} is there already, and is another network's: name one of both by cniConfFileName",
                path.display(),
                list.display()
            ));
        }
        replace(&list, format!("{wanted:#}\n").as_bytes(), mode)?;
        if form == Form::One {
            // It comes before the list by its name, and holds until it is away.
            fs::rename(&path, &original).map_err(named(&path))?;
        }
        Ok(Some(list.display().to_string()))
    }

    /// The name of the file that is meant.
    fn file(&self) -> Result<String, String> {
        let Some(asked) = &self.conf_file else {
            let none =
                || format!("there is no configuration of a network in {} yet: the cluster's own plugin makes it", self.conf_dir.display());
            let first = self.files()?.into_iter().next().ok_or_else(none)?;
            return Ok(self.made_of(&first).unwrap_or(first));
        };
        // It is a list once the plugin is in it.
        let known = [asked.clone(), conf::list_name(asked)].into_iter().find(|name| self.conf_dir.join(name).is_file());
        known.ok_or_else(|| format!("there is no {asked} in {} yet", self.conf_dir.display()))
    }

    /// The `.json` beside a list that was made of it: the network's own agent has written it anew, or it was not put away yet. It comes after the list by
    /// its name, unlike a `.conf`.
    fn made_of(&self, list: &str) -> Option<String> {
        let (file, path) = (format!("{}json", list.strip_suffix("conflist")?), self.conf_dir.join(list));
        let is_made = !self.conf_dir.join(format!("{list}{ORIGINAL}")).exists()
            && fs::read_to_string(path).is_ok_and(|text| conf::without(&text).is_ok_and(|rest| rest.is_some()));
        (self.conf_dir.join(&file).is_file() && is_made).then_some(file)
    }

    /// The files that a runtime would read, in its order.
    fn files(&self) -> Result<Vec<String>, String> {
        let entries = fs::read_dir(&self.conf_dir).map_err(named(&self.conf_dir))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| Form::of(name).is_some()).collect();
        names.sort();
        Ok(names)
    }

    /// Makes the node as it was: the configurations first, then the program. What was changed, for people.
    ///
    /// # Errors
    /// What could not be changed, after all else was.
    pub(super) fn remove(&self) -> Result<Vec<String>, String> {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        let files = self.files().unwrap_or_else(|why| {
            failed.push(why);
            Vec::new()
        });
        for name in files.iter().filter(|name| Form::of(name) == Some(Form::List)) {
            match self.unchain(name) {
                Ok(true) => done.push(self.conf_dir.join(name).display().to_string()),
                Ok(false) => {}
                Err(why) => failed.push(why),
            }
        }
        if failed.is_empty() {
            failed.extend([&self.conf_dir, &self.bin_dir].into_iter().filter_map(|folder| clean(folder).err()));
            let place = self.bin_dir.join(PLUGIN);
            match fs::remove_file(&place) {
                Ok(()) => done.push(place.display().to_string()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed.push(named(&place)(error)),
            }
        }
        if failed.is_empty() { Ok(done) } else { Err(failed.join("; ")) }
    }

    /// Takes the entry out of a list, and puts what was there before it in its place, unless somebody has changed it since.
    fn unchain(&self, name: &str) -> Result<bool, String> {
        let path = self.conf_dir.join(name);
        let text = fs::read_to_string(&path).map_err(named(&path))?;
        let Some(rest) = conf::without(&text).map_err(|why| format!("{}: {why}", path.display()))? else { return Ok(false) };
        let mode = fs::metadata(&path).map_err(named(&path))?.permissions().mode() & 0o777;
        let kept = self.conf_dir.join(format!("{name}{ORIGINAL}"));
        if fs::read_to_string(&kept).is_ok_and(|text| conf::says(&text, Form::List, &rest)) {
            fs::rename(&kept, &path).map_err(named(&kept))?;
            return Ok(true);
        }
        let start = name.strip_suffix("conflist").unwrap_or(name);
        for end in ["conf", "json"] {
            if self.unlist(&path, &format!("{start}{end}"), &rest)? {
                return Ok(true);
            }
        }
        replace(&path, format!("{rest:#}\n").as_bytes(), mode)?;
        Ok(true)
    }

    /// Removes a list that was made of a file with one network, and puts that file back: the one that was kept, unless there is one already. It is there
    /// if an agent was killed before it could put it away, or after it had put it back, and if the network's own agent has written it anew. Whether the
    /// list was made of this file.
    fn unlist(&self, list: &Path, name: &str, rest: &Value) -> Result<bool, String> {
        let (place, kept) = (self.conf_dir.join(name), self.conf_dir.join(format!("{name}{ORIGINAL}")));
        let is_it = |path: &Path| fs::read_to_string(path).is_ok_and(|text| conf::says(&text, Form::One, rest));
        let was_kept = is_it(&kept);
        if !was_kept && !is_it(&place) {
            return Ok(false);
        }
        if was_kept && !place.exists() {
            // It comes before the list by its name, or says the same: the network is there at each moment.
            fs::rename(&kept, &place).map_err(named(&kept))?;
        }
        fs::remove_file(list).map_err(named(list))?;
        Ok(true)
    }
}

/// Removes what nothing needs any more: originals of lists without the entry, and what an agent was killed over.
fn clean(folder: &Path) -> Result<(), String> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(named(folder))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.ends_with(ORIGINAL) || name.starts_with('.') && name.ends_with(UNFINISHED)) {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(named(&path))?;
    }
    Ok(())
}

/// Writes a file beside its place and renames it.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let fresh = path.with_file_name(format!(".{name}{UNFINISHED}"));
    let write = || {
        use std::io::Write;
        let mut file = fs::File::create(&fresh)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&fresh);
        named(path)(error)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    const LIST: &str = "{ \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\", \"plugins\": [{ \"type\": \"bridge\" }] }\n";
    const ONE: &str = "{\"cniVersion\": \"1.0.0\", \"name\": \"pods\", \"type\": \"bridge\"}";

    struct Node {
        folder: tempfile::TempDir,
        installer: Installer,
    }

    fn node(files: &[(&str, &str)]) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let (conf, bin, program) = (folder.path().join("conf"), folder.path().join("bin"), folder.path().join("program"));
        [&conf, &bin].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        fs::write(&program, "one").unwrap();
        files.iter().for_each(|(name, text)| fs::write(conf.join(name), text).unwrap());
        Node { installer: Installer::new(conf, bin, program, json!({ "type": PLUGIN, "v": 1 })), folder }
    }

    impl Node {
        /// All files, by their path.
        fn files(&self) -> BTreeMap<String, String> {
            let mut files = BTreeMap::new();
            for folder in ["conf", "bin"] {
                for entry in fs::read_dir(self.folder.path().join(folder)).unwrap() {
                    let path = entry.unwrap().path();
                    files.insert(format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap()), fs::read_to_string(&path).unwrap());
                }
            }
            files
        }

        fn plugins(&self, name: &str) -> Vec<String> {
            let list: Value = serde_json::from_str(&self.files()[&format!("conf/{name}")]).unwrap();
            list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
        }
    }

    #[test]
    fn installed_and_removed() {
        for (name, text, list) in
            [("10-a.conflist", LIST, "10-a.conflist"), ("10-a.conf", ONE, "10-a.conflist"), ("10-a.json", ONE, "10-a.conflist")]
        {
            let mut node = node(&[(name, text), ("20-b.conflist", LIST), ("README", "x")]);
            let before = node.files();
            assert_eq!(node.installer.install().unwrap().len(), 2, "{name}");
            assert_eq!(node.plugins(list), ["bridge", PLUGIN], "{name}");
            assert_eq!(node.plugins("20-b.conflist"), ["bridge"], "{name}: it is not the first");
            assert_eq!(node.files()["bin/istio-cni"], "one");
            let mode = fs::metadata(node.installer.bin_dir.join(PLUGIN)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
            let settled = node.files();
            assert_eq!(node.installer.install(), Ok(vec![]), "{name}");
            // Another agent of the same version changes nothing either.
            node.installer.written = None;
            assert_eq!(node.installer.install(), Ok(vec![]), "{name}");
            assert_eq!(node.files(), settled, "{name}");
            node.installer.remove().unwrap();
            assert_eq!(node.files(), before, "{name}: byte by byte as it was");
            assert_eq!(node.installer.remove(), Ok(vec![]), "{name}");
        }
    }

    #[test]
    fn what_others_change_is_mended() {
        let mut node = node(&[("10-a.conflist", LIST)]);
        node.installer.install().unwrap();
        // The network's own agent writes its file anew.
        let other = LIST.replace("bridge", "calico");
        fs::write(node.installer.conf_dir.join("10-a.conflist"), &other).unwrap();
        assert_eq!(node.installer.install().unwrap().len(), 1);
        assert_eq!(node.plugins("10-a.conflist"), ["calico", PLUGIN]);
        fs::remove_file(node.installer.bin_dir.join(PLUGIN)).unwrap();
        assert_eq!(node.installer.install().unwrap().len(), 1);
        fs::write(node.installer.bin_dir.join(PLUGIN), "two").unwrap();
        assert_eq!(node.installer.install().unwrap().len(), 1);
        assert_eq!(node.files()["bin/istio-cni"], "one");
        // A newer agent has another program and other settings.
        fs::write(&node.installer.program, "three").unwrap();
        (node.installer.written, node.installer.entry) = (None, json!({ "type": PLUGIN, "v": 2 }));
        assert_eq!(node.installer.install().unwrap().len(), 2);
        assert_eq!(
            (node.plugins("10-a.conflist"), &*node.files()["bin/istio-cni"]),
            (vec!["calico".to_owned(), PLUGIN.to_owned()], "three")
        );
        // A file that comes before it is the one that a runtime takes.
        fs::write(node.installer.conf_dir.join("05-b.conf"), ONE).unwrap();
        assert_eq!(node.installer.install().unwrap().len(), 1);
        assert_eq!(node.plugins("05-b.conflist"), ["bridge", PLUGIN]);
        node.installer.remove().unwrap();
        let files = node.files();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["conf/05-b.conf", "conf/10-a.conflist"]);
        assert_eq!((&files["conf/05-b.conf"], &files["conf/10-a.conflist"]), (&ONE.to_owned(), &other));
    }

    /// A node on which an agent was killed: with the program, these files, and nothing else in the folder of configurations.
    fn killed(files: &[(&str, &str)]) -> Node {
        let node = node(files);
        fs::write(node.installer.bin_dir.join(PLUGIN), "one").unwrap();
        node
    }

    #[test]
    fn an_agent_may_be_killed_at_each_step() {
        for (name, text) in [("10-a.conf", ONE), ("10-a.json", ONE), ("10-a.conflist", LIST)] {
            let mut settled = node(&[(name, text)]);
            let before = settled.files();
            settled.installer.install().unwrap();
            let (list, kept) = (settled.files()["conf/10-a.conflist"].clone(), format!("{name}{ORIGINAL}"));
            let half = [".10-a.conflist".to_owned(), format!(".{kept}")].map(|name| format!("{name}{UNFINISHED}"));
            let (list, kept, [half_list, half_kept]) = (list.as_str(), kept.as_str(), [half[0].as_str(), half[1].as_str()]);
            let steps = match name {
                "10-a.conflist" => vec![
                    vec![(name, text), (half_kept, "{")],
                    vec![(name, text), (kept, text)],
                    vec![(name, text), (kept, text), (half_list, "{")],
                    vec![(name, list), (kept, text)],
                ],
                _ => vec![
                    vec![(name, text), (half_list, "{")],
                    // The list is there, and the file is not put away yet, or is put back already.
                    vec![(name, text), ("10-a.conflist", list)],
                    vec![(kept, text), ("10-a.conflist", list)],
                ],
            };
            for step in std::iter::once(vec![(name, text)]).chain(steps) {
                let mut next = killed(&step);
                next.installer.install().unwrap();
                assert_eq!(next.files()["conf/10-a.conflist"], list, "{step:?}");
                assert_eq!(next.files().contains_key(&format!("conf/{name}")), name == "10-a.conflist", "{step:?}");
                for node in [next, killed(&step)] {
                    node.installer.remove().unwrap();
                    assert_eq!(node.files(), before, "{step:?}: as it was before the first agent");
                }
            }
        }
    }

    #[test]
    fn a_network_whose_own_agent_writes_its_file_anew() {
        for name in ["10-a.conf", "10-a.json"] {
            let mut node = node(&[(name, ONE)]);
            node.installer.install().unwrap();
            let (place, other) = (node.installer.conf_dir.join(name), ONE.replace("bridge", "calico"));
            fs::write(&place, &other).unwrap();
            // An agent that is removed before it has seen that leaves what the network has now.
            let removed = killed(&[]);
            for (name, text) in node.files() {
                fs::write(removed.folder.path().join(name), text).unwrap();
            }
            removed.installer.remove().unwrap();
            let as_it_is = BTreeMap::from([(format!("conf/{name}"), other)]);
            assert_eq!(removed.files(), as_it_is, "{name}");
            assert_eq!(node.installer.install().unwrap().len(), 1, "{name}");
            assert_eq!(node.plugins("10-a.conflist"), ["calico", PLUGIN], "{name}");
            assert!(!place.exists(), "{name} is put away");
            assert_eq!(node.installer.install(), Ok(vec![]), "{name}");
            // Another version has other settings.
            node.installer.entry = json!({ "type": PLUGIN, "v": 2 });
            assert_eq!(node.installer.install().unwrap().len(), 1, "{name}");
            node.installer.remove().unwrap();
            assert_eq!(node.files(), as_it_is, "{name}");
        }
    }

    #[test]
    fn a_list_of_another_network_stays() {
        let mut node = node(&[("10-a.conf", ONE), ("10-a.conflist", LIST)]);
        let before = node.files();
        let refused = node.installer.install().unwrap_err();
        assert!(refused.contains("10-a.conflist is there already"), "{refused}");
        assert_eq!(node.files().into_iter().filter(|(name, _)| name.starts_with("conf/")).collect::<BTreeMap<_, _>>(), before);
    }

    #[test]
    fn a_change_that_others_made_beside_it_stays() {
        let mut node = node(&[("10-a.conflist", LIST)]);
        node.installer.install().unwrap();
        let path = node.installer.conf_dir.join("10-a.conflist");
        let mut list: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        list["plugins"].as_array_mut().unwrap().insert(1, json!({ "type": "portmap" }));
        fs::write(&path, list.to_string()).unwrap();
        node.installer.remove().unwrap();
        assert_eq!(node.plugins("10-a.conflist"), ["bridge", "portmap"]);
        assert_eq!(node.files().len(), 1);
    }

    #[test]
    fn a_file_by_its_name() {
        let mut node = node(&[("10-a.conflist", LIST), ("20-b.conf", ONE)]);
        node.installer.conf_file = Some("20-b.conf".to_owned());
        node.installer.install().unwrap();
        assert_eq!((node.plugins("10-a.conflist").len(), node.plugins("20-b.conflist")), (1, vec!["bridge".to_owned(), PLUGIN.to_owned()]));
        assert_eq!(node.installer.install(), Ok(vec![]));
    }

    #[test]
    fn what_is_not_there_yet() {
        let mut node = node(&[]);
        let why = node.installer.install().unwrap_err();
        assert!(why.starts_with("there is no configuration of a network in "), "{why}");
        fs::write(node.installer.conf_dir.join("a.conflist"), "{").unwrap();
        let why = node.installer.install().unwrap_err();
        assert!(why.contains("a.conflist: it is no map in JSON"), "{why}");
        // What cannot be read is left to whoever wrote it, and nothing names a program that is away.
        assert!(node.installer.remove().is_err());
        assert!(node.files().contains_key("bin/istio-cni"));
    }
}
