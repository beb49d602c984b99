//! What a workload's program sees: its files, its names, its environment.

use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use mizzen_api::core::VolumeMount;
use mizzen_host::{Mount, ProcessKind, RunDir, Sift, Source, Spec, Workload};

use super::{
    address::ROUTER,
    desired::{File, Objects, Wanted},
    https,
    mesh::Mesh,
    proxy,
};

/// Where programs are looked for, after the sample's own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Daemons that start programs for whoever asks: outside the mesh's namespaces, where its state can be reached.
const STARTERS: [&str; 7] =
    ["/run/user", "/run/dbus", "/run/systemd/private", "/run/docker.sock", "/run/containerd", "/run/podman", "/run/crio"];
/// Parts of the names of files that are configuration, and of what editors leave beside these.
const CONFIGURATION: [&str; 3] = [".yaml", ".yml", ".json"];
/// Where the agent answers DNS, in every host.
const NAME_SERVER: &str = "127.0.0.53";

/// The program of a manifest.
///
/// # Errors
/// If something that it refers to is missing.
pub(crate) fn spec(mesh: &Mesh, pod: &Wanted, address: Ipv4Addr, objects: &Objects) -> Result<Spec> {
    let mut env = base_env(mesh, pod);
    for (name, value) in pod.env(objects, address, ROUTER).map_err(|e| anyhow!(e))? {
        env.retain(|(known, _)| *known != name);
        env.push((name, value));
    }
    let argv = pod.argv(&env);
    let mut view = view(mesh, pod, address);
    for mount in &pod.container().volume_mounts {
        view.mounts.push(volume(mesh, pod, mount, objects)?);
    }
    let cwd = pod.container().working_dir.as_ref().map(PathBuf::from);
    Ok(Spec { name: format!("{}/{}", pod.namespace, pod.name), argv, env, cwd, kind: ProcessKind::Workload(view) })
}

/// A program that `mizzen run` brought along, with the environment and the folder of who called it.
pub(crate) fn run_spec(mesh: &Mesh, pod: &Wanted, address: Ipv4Addr, argv: Vec<String>, env: Vec<(String, String)>, cwd: PathBuf) -> Spec {
    let mut all = env;
    for (name, value) in base_env(mesh, pod).into_iter().filter(|(name, _)| name != "PATH") {
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
    let path = all.iter().find(|(name, _)| name == "PATH").map_or(PATH.to_owned(), |(_, path)| path.clone());
    all.retain(|(name, _)| name != "PATH");
    all.push(("PATH".to_owned(), format!("{}:{path}", mesh.dir("sample").display())));
    Spec {
        name: format!("{}/{}", pod.namespace, pod.name),
        argv,
        env: all,
        cwd: Some(cwd),
        kind: ProcessKind::Workload(view(mesh, pod, address)),
    }
}

fn base_env(mesh: &Mesh, pod: &Wanted) -> Vec<(String, String)> {
    let path = format!("{}:{PATH}", mesh.dir("sample").display());
    [("PATH", path), ("HOME", "/".to_owned()), ("HOSTNAME", pod.hostname().to_owned())].map(|(name, value)| (name.to_owned(), value)).into()
}

fn view(mesh: &Mesh, pod: &Wanted, address: Ipv4Addr) -> Workload {
    let search = format!("{}.svc.cluster.local svc.cluster.local cluster.local", pod.namespace);
    let text = |target: &str, text: String| Mount { target: target.into(), source: Source::Text(text), read_only: true };
    Workload {
        hostname: Some(pod.hostname().to_owned()),
        uid: None,
        gid: None,
        mounts: vec![
            text("/etc/resolv.conf", format!("search {search}\nnameserver {NAME_SERVER}\noptions ndots:5\n")),
            text("/etc/hosts", format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{address}\t{}\n", pod.hostname())),
        ],
        hide: [RunDir::base()]
            .into_iter()
            .chain(https::folder())
            .chain(STARTERS.map(PathBuf::from))
            .chain(sockets())
            .chain(linked(&mesh.payload.folder))
            .collect(),
        // Whoever can write the configuration is the mesh, and so is who can write the program of its proxies.
        freeze: mesh.payload.data_plane.foreign().map(PathBuf::from).into_iter().collect(),
        // Secrets are among it.
        sift: Some(Box::new(Sift { folder: mesh.payload.folder.clone(), without: CONFIGURATION.map(str::to_owned).into() })),
        keep: vec![mesh.dir("sample")],
        scratch: mesh.dir("scratch"),
    }
}

/// Sockets of the user's other programs, in the places where such have theirs: a terminal multiplexer or a key agent would do for a workload
/// what the workload itself may not.
fn sockets() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".gnupg"));
    let mut folders: Vec<PathBuf> = ["/tmp", "/var/tmp"].map(PathBuf::from).into_iter().chain(home).collect();
    let mut found = Vec::new();
    for depth in 0..2 {
        let mut below = Vec::new();
        for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flat_map(|entries| entries.flatten().take(10_000)) {
            match entry.file_type() {
                Ok(kind) if kind.is_socket() => found.push(entry.path()),
                Ok(kind) if kind.is_dir() && depth == 0 => below.push(entry.path()),
                _ => {}
            }
        }
        folders = below;
    }
    found.retain(|socket| !socket.starts_with(RunDir::base()));
    found
}

/// Files of configuration that lie elsewhere, where links of the folder lead to. Such a file is hidden where it lies, for as long as nobody replaces it.
fn linked(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut known) = (Vec::new(), BTreeSet::new());
    let mut folders = vec![(folder.to_owned(), false)];
    while let Some((folder, is_elsewhere)) = folders.pop() {
        if !folder.canonicalize().is_ok_and(|path| known.insert(path)) {
            continue;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_elsewhere = is_elsewhere || entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().to_lowercase());
            if path.is_dir() {
                folders.push((path, is_elsewhere));
            } else if is_elsewhere && CONFIGURATION.iter().any(|part| name.contains(part)) {
                found.extend(path.canonicalize());
            }
        }
    }
    found
}

/// The mount of a volume, its files written below the workload's folder.
fn volume(mesh: &Mesh, pod: &Wanted, mount: &VolumeMount, objects: &Objects) -> Result<Mount> {
    let folder = proxy::folder(mesh, pod).join("volumes").join(&mount.name);
    fs::create_dir_all(&folder)?;
    let files = pod.files(objects, &mount.name).map_err(|e| anyhow!(e))?;
    write_files(&folder, &files)?;
    let config = is_config(pod, &mount.name);
    let source = match &mount.sub_path {
        Some(path) => folder.join(path),
        None => folder,
    };
    if mount.sub_path.is_some() && !source.exists() {
        if config {
            return Err(anyhow!("volume {} has no {}", mount.name, mount.sub_path.as_deref().unwrap_or_default()));
        }
        fs::create_dir_all(&source)?;
    }
    Ok(Mount { target: PathBuf::from(&mount.mount_path), source: Source::Bind(source), read_only: mount.read_only || config })
}

fn is_config(pod: &Wanted, volume: &str) -> bool {
    pod.spec.volumes.iter().any(|v| v.name == volume && matches!(v.source, mizzen_api::core::VolumeSource::ConfigMap { .. }))
}

/// Writes the config maps' files anew, for a running program to see, as Kubernetes does.
pub(crate) fn refresh(mesh: &Mesh, pod: &Wanted, objects: &Objects) {
    for volume in pod.spec.volumes.iter().filter(|v| is_config(pod, &v.name)) {
        let folder = proxy::folder(mesh, pod).join("volumes").join(&volume.name);
        if let (true, Ok(files)) = (folder.exists(), pod.files(objects, &volume.name)) {
            let _ = write_files(&folder, &files);
        }
    }
}

/// Makes the folder hold exactly these files; what did not change is not touched. An empty list leaves all as it is: an emptyDir.
fn write_files(folder: &Path, files: &[File]) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let mut kept = BTreeSet::new();
    for file in files {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::read(&path).ok().as_deref() != Some(&file.bytes) {
            let partial = path.with_file_name(".mizzen-partial");
            fs::write(&partial, &file.bytes)?;
            fs::set_permissions(&partial, fs::Permissions::from_mode(file.mode))?;
            fs::rename(&partial, &path)?;
        }
        kept.insert(path);
    }
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.is_file() && !kept.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
