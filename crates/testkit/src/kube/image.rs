//! Images of containers from local files, one layer each: what `docker load`, `podman load` and `ctr images import` read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use tar::{Builder, EntryType, Header};

/// An image from scratch.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its names, each with a tag.
    pub names: Vec<String>,
    /// The program that is run, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Its environment besides `PATH`: `NAME=VALUE`.
    pub env: Vec<String>,
    /// Who runs it: a user and a group as numbers, or root.
    pub user: Option<String>,
    /// Its files: where they are in it, and what they are.
    pub files: Vec<(String, Content)>,
}

/// The images of a mesh, which program each has, and who runs it. A node's folders are root's.
const MESH: [(&str, &str, &str, Option<&str>); 3] = [
    ("proxyv2", "mizzen-proxy", "proxyv2.tar", Some(PROXY)),
    ("pilot", "mizzend", "pilot.tar", Some(PROXY)),
    ("install-cni", "mizzen-cni", "install-cni.tar", None),
];
/// The services of the sample: each is an image by name, and all are one.
const BOOKSHOP: [&str; 6] = ["catalogue", "doorman", "ratings", "reviews", "stock", "storefront"];

/// Where the programs of the mesh's images come from.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// A folder with static programs, one for each.
    Static(&'a Path),
    /// The binary that is all of them, with the libraries that it needs of this machine: what tests have built anyway.
    MultiCall(&'a Path),
}

/// An archive that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The name of its image without hub and tag.
    pub name: &'static str,
    /// The archive.
    pub archive: PathBuf,
    /// Bytes of the image's files.
    pub size: u64,
}

/// Where an image's system has the authorities that it believes.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Writes `proxyv2.tar`, `pilot.tar`, `install-cni.tar` and `bookshop.tar` into a folder: images `HUB/proxyv2:TAG`, `HUB/pilot:TAG` and
/// `HUB/install-cni:TAG`, and those that the sample names. The
/// proxy's system believes these `roots`, in PEM, or nobody.
///
/// # Errors
/// If a program is missing or an archive cannot be written.
pub fn mesh(from: &Source<'_>, roots: Option<&str>, hub: &str, tag: &str, folder: &Path) -> Result<Vec<Written>, String> {
    let mut written = Vec::new();
    // Proxies and control planes are not root, whatever a pod says.
    for (name, program, file, user) in MESH {
        let entrypoint = vec![format!("{BIN}/{program}")];
        let mut files = from.files(program, &[program])?;
        let roots = roots.filter(|_| name == "proxyv2").map(|roots| (ROOTS.to_owned(), Content::Text(roots.to_owned())));
        files.extend(roots);
        let names = vec![format!("{hub}/{name}:{tag}")];
        let image = Image { names, entrypoint, env: Vec::new(), user: user.map(str::to_owned), files };
        let archive = folder.join(file);
        written.push(Written { name, size: image.write(&archive)?, archive });
    }
    let programs: Vec<String> = BOOKSHOP.iter().map(|service| format!("bookshop-{service}")).collect();
    let names: Vec<&str> = programs.iter().map(String::as_str).collect();
    let image = Image {
        names: BOOKSHOP.iter().map(|service| format!("bookshop/{service}:1")).collect(),
        entrypoint: vec![format!("{BIN}/bookshop-storefront")],
        env: Vec::new(),
        user: Some("1000:1000".to_owned()),
        files: from.files("bookshop", &names)?,
    };
    let archive = folder.join("bookshop.tar");
    written.push(Written { name: "bookshop", size: image.write(&archive)?, archive });
    Ok(written)
}

/// Writes the image of a sidecar in which an Envoy, as it is, stands in the place of Mizzen's own proxy.
///
/// # Errors
/// As [`mesh`].
pub fn with_envoy(from: &Source<'_>, envoy: &Path, name: &str, archive: &Path) -> Result<(), String> {
    let mut files: BTreeMap<String, Content> = libraries(envoy)?.into_iter().collect();
    files.extend(from.files("mizzen-proxy", &["mizzen-proxy"])?);
    files.insert(format!("{BIN}/envoy"), Content::Program(envoy.to_owned()));
    let image = Image {
        names: vec![name.to_owned()],
        entrypoint: vec![format!("{BIN}/mizzen-proxy")],
        env: vec![format!("MIZZEN_DATA_PLANE=envoy={BIN}/envoy")],
        user: Some(PROXY.to_owned()),
        files: files.into_iter().collect(),
    };
    image.write(archive).map(drop)
}

/// A copy of a program in a folder, without what only a debugger reads: it is much smaller. As it is, if there is no `strip`.
///
/// # Errors
/// If it cannot be copied.
pub fn without_debug(program: &Path, folder: &Path) -> Result<PathBuf, String> {
    super::make_dir(folder)?;
    let copy = folder.join(program.file_name().unwrap_or_default());
    let stripped = std::process::Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, &copy).map_err(|error| format!("{}: {error}", program.display()))?;
    }
    Ok(copy)
}

/// Where programs are in an image.
const BIN: &str = "/usr/local/bin";
/// The user and the group of proxies.
const PROXY: &str = "1337:1337";

impl Source<'_> {
    /// The files of a program that is called by these names.
    fn files(&self, program: &str, names: &[&str]) -> Result<Vec<(String, Content)>, String> {
        let (file, path, mut files) = match self {
            Source::Static(folder) => (program.to_owned(), folder.join(program), Vec::new()),
            Source::MultiCall(binary) => ("mizzen".to_owned(), binary.to_path_buf(), libraries(binary)?),
        };
        files.push((format!("{BIN}/{file}"), Content::Program(path)));
        let links = names.iter().filter(|name| **name != file);
        files.extend(links.map(|name| (format!("{BIN}/{name}"), Content::Link(file.clone()))));
        Ok(files)
    }
}

/// The libraries that a program needs, where it looks for them.
fn libraries(program: &Path) -> Result<Vec<(String, Content)>, String> {
    let output = std::process::Command::new("ldd").arg(program).output().map_err(|error| format!("ldd: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim()));
    }
    // "NAME => PATH (ADDRESS)", or of the loader itself "PATH (ADDRESS)".
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    Ok(text.lines().filter_map(path).map(|path| (path.clone(), Content::Program(path.into()))).collect())
}

/// What stands at a path of an image.
#[derive(Clone, Debug)]
pub enum Content {
    /// A program.
    Program(PathBuf),
    /// A text.
    Text(String),
    /// A symbolic link.
    Link(String),
}

impl Image {
    /// Writes the archive. Returns the number of bytes of the image's files: what it takes of a node's disk.
    ///
    /// # Errors
    /// If a file cannot be read, or the archive not be written.
    pub fn write(&self, archive: &Path) -> Result<u64, String> {
        self.try_write(archive).map_err(|error| format!("{}: {error}", archive.display()))
    }

    fn try_write(&self, archive: &Path) -> std::io::Result<u64> {
        let (layer, size) = self.layer()?;
        let id = hex(digest(&SHA256, &layer).as_ref());
        let env: Vec<&str> = std::iter::once("PATH=/usr/local/bin").chain(self.env.iter().map(String::as_str)).collect();
        let mut config = json!({ "Entrypoint": self.entrypoint, "Env": env, "WorkingDir": "/" });
        if let Some(user) = &self.user {
            config["User"] = json!(user);
        }
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{id}")] },
        })
        .to_string();
        let config_file = format!("{}.json", hex(digest(&SHA256, config.as_bytes()).as_ref()));
        let layer_file = format!("{id}/layer.tar");
        let manifest = json!([{ "Config": config_file, "RepoTags": self.names, "Layers": [layer_file] }]).to_string();
        if let Some(folder) = archive.parent() {
            fs::create_dir_all(folder)?;
        }
        // Whoever reads it while it is made again gets the old one or the new one.
        let partial = archive.with_extension("partial");
        let mut tar = Builder::new(File::create(&partial)?);
        for (name, bytes) in [(&config_file, config.as_bytes()), (&layer_file, &layer), (&"manifest.json".to_owned(), manifest.as_bytes())]
        {
            tar.append_data(&mut header(EntryType::Regular, 0o644, bytes.len()), name, bytes)?;
        }
        tar.into_inner()?.sync_data()?;
        fs::rename(partial, archive)?;
        Ok(size)
    }

    /// The layer, and the bytes of its files.
    fn layer(&self) -> std::io::Result<(Vec<u8>, u64)> {
        let mut tar = Builder::new(Vec::new());
        let mut size = 0;
        for folder in self.folders() {
            let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
            tar.append_data(&mut header(EntryType::Directory, mode, 0), format!("{folder}/"), &[][..])?;
        }
        for (path, content) in &self.files {
            let path = path.trim_start_matches('/');
            let (bytes, mode) = match content {
                Content::Link(to) => {
                    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, to)?;
                    continue;
                }
                Content::Text(text) => (text.clone().into_bytes(), 0o644),
                Content::Program(from) => {
                    let read = fs::read(from);
                    (read.map_err(|error| std::io::Error::other(format!("{}: {error}", from.display())))?, 0o755)
                }
            };
            size += bytes.len() as u64;
            tar.append_data(&mut header(EntryType::Regular, mode, bytes.len()), path, &bytes[..])?;
        }
        Ok((tar.into_inner()?, size))
    }

    /// All folders above files, outer ones first, and those that a container expects.
    fn folders(&self) -> Vec<String> {
        let mut folders: BTreeSet<String> = ["etc", "tmp"].map(str::to_owned).into();
        for (path, _) in &self.files {
            let above = Path::new(path.trim_start_matches('/')).ancestors().skip(1);
            folders.extend(above.filter_map(Path::to_str).filter(|folder| !folder.is_empty()).map(str::to_owned));
        }
        folders.into_iter().collect()
    }
}

/// Without a time, so that equal files make equal images.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_archive() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("p");
        fs::write(&program, "program").unwrap();
        let image = Image {
            names: vec!["mizzen/proxyv2:1".to_owned()],
            entrypoint: vec!["/usr/local/bin/p".to_owned()],
            env: vec!["A=b".to_owned()],
            user: Some("1337:1337".to_owned()),
            files: vec![
                ("/usr/local/bin/p".to_owned(), Content::Program(program)),
                ("/usr/local/bin/q".to_owned(), Content::Link("p".to_owned())),
                ("/etc/passwd".to_owned(), Content::Text("x".to_owned())),
            ],
        };
        let (one, two) = (dir.path().join("1.tar"), dir.path().join("2.tar"));
        assert_eq!(image.write(&one).unwrap(), 8);
        assert_eq!(image.write(&two).unwrap(), 8);
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap(), "equal files make equal images");
        let files = contents(&fs::read(&one).unwrap());
        let text = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.clone()).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&text("manifest.json")).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["mizzen/proxyv2:1"]));
        let config: serde_json::Value = serde_json::from_slice(&text(manifest[0]["Config"].as_str().unwrap())).unwrap();
        assert_eq!(config["config"]["User"], "1337:1337");
        assert_eq!(config["config"]["Env"], json!(["PATH=/usr/local/bin", "A=b"]));
        let layer = text(manifest[0]["Layers"][0].as_str().unwrap());
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(digest(&SHA256, &layer).as_ref())));
        let names: Vec<_> = contents(&layer).into_iter().map(|(name, _)| name).collect();
        let folders = ["etc/", "tmp/", "usr/", "usr/local/", "usr/local/bin/"];
        assert_eq!(names, [&folders[..], &["usr/local/bin/p", "usr/local/bin/q", "etc/passwd"]].concat());
    }

    fn contents(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let read = |mut entry: tar::Entry<'_, &[u8]>| {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
        };
        archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
    }
}
