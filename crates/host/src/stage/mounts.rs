//! What a workload sees of the machine's files.
//!
//! The view starts as the machine's own and is changed by mounts alone, in a mount namespace that ends with
//! the workload. A mount needs an existing target; where there is none, room is made without touching the
//! machine's files: by an overlay of the nearest existing ancestor, or, where that is `/` or holds other
//! mounts (which an overlay would hide), by a folder in memory with the ancestor's entries bound in. For `/`
//! that folder becomes the root by pivot_root.

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, symlink},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{stat::Mode, statvfs::FsFlags},
    unistd::pivot_root,
};

use super::{Failed, Step};
use crate::{Sift, Source, Workload};

/// Daemons that would answer look-ups from outside the mesh's view: nscd, systemd-resolved, avahi.
const RESOLVERS: [&str; 5] = ["/run/nscd", "/var/run/nscd", "/run/systemd/resolve", "/run/systemd/io.systemd.Resolve", "/run/avahi-daemon"];

/// Parts of `/proc` by which the machine is configured. A program with root's number may write there without a single capability.
const SETTINGS: [&str; 5] = ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// Devices that give nothing of the machine away. `tty` is the terminal of whoever opens it, if it has one.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

const NONE: Option<&str> = None;

/// Makes the view. The process must be pid 1 of new PID and mount namespaces, with all capabilities.
pub(super) fn arrange(workload: &Workload) -> Result<(), Failed> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).step("make the mounts private")?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), plain, NONE).step("mount a fresh /proc")?;
    freeze_settings()?;
    fresh_devices()?;
    let mut view = View::new(&workload.scratch)?;
    let mut mounts: Vec<_> = workload.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.target.components().count());
    for mount in &mounts {
        check_path(&mount.target)?;
    }
    if mounts.iter().any(|mount| nearest(&mount.target).is_ok_and(|(ancestor, _)| ancestor == Path::new("/"))) {
        view.new_root()?;
    }
    let resolvers: Vec<PathBuf> = RESOLVERS.iter().map(PathBuf::from).collect();
    // Writable: `/etc/resolv.conf` often is a link into one of them.
    view.hide(&resolvers, &[], false)?;
    let sources = mounts.iter().map(|mount| view.source(&mount.source)).collect::<Result<Vec<_>, _>>()?;
    for (mount, source) in mounts.iter().zip(sources) {
        view.place(&mount.target, source, mount.read_only)?;
    }
    if let Some(sift) = &workload.sift {
        let targets: Vec<PathBuf> = mounts.iter().filter_map(|mount| mount.target.canonicalize().ok()).collect();
        view.sift(sift, &targets)?;
    }
    for path in workload.freeze.iter().filter_map(|path| path.canonicalize().ok()) {
        freeze(&path)?;
    }
    view.hide(&workload.hide, &workload.keep, true)?;
    std::env::set_current_dir("/").step("change to /")
}

/// A `/dev` of its own with what every program may need. The machine's one holds its disks and terminals, which root's number alone opens.
fn fresh_devices() -> Result<(), Failed> {
    let dev = Path::new("/dev");
    let nodes = DEVICES.iter().map(|name| dev.join(name)).filter(|path| path.exists());
    let nodes = nodes.map(|path| Ok((hold(&path)?, path))).collect::<Result<Vec<_>, Failed>>()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), dev, Some("tmpfs"), flags, Some("mode=0755")).step("mount a fresh /dev")?;
    for (held, path) in nodes {
        let step = || format!("show {}", path.display());
        fs::File::create(&path).step(step())?;
        if let Held::Path { fd, .. } = held {
            bind(&proc_path(&fd), &path).step(step())?;
        }
    }
    for (link, to) in LINKS {
        symlink(to, dev.join(link)).step(format!("link /dev/{link}"))?;
    }
    fs::create_dir(dev.join("pts")).step("make /dev/pts")?;
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), flags, options).step("mount a fresh /dev/pts")?;
    fs::create_dir(dev.join("shm")).step("make /dev/shm")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &dev.join("shm"), Some("tmpfs"), flags, Some("mode=1777")).step("mount /dev/shm")?;
    make_read_only(dev).step("make /dev read-only")
}

/// Makes a file or folder read-only where it is.
fn freeze(path: &Path) -> Result<(), Failed> {
    let step = || format!("make {} read-only", path.display());
    bind(path, path).step(step())?;
    make_read_only(path).step(step())
}

/// Makes the kernel's settings read-only: those of the network decide what is captured, others what root runs on the machine.
fn freeze_settings() -> Result<(), Failed> {
    for path in SETTINGS.iter().map(Path::new).filter(|path| path.exists()) {
        freeze(path)?;
    }
    let sys = Path::new("/sys");
    for point in mount_points().step("read the mount table")?.into_iter().filter(|point| point.starts_with(sys)) {
        match make_read_only(&point) {
            Err(error) if point == sys => return Err(error).step("make /sys read-only"),
            // Its owner is not in this user namespace, or it is covered by another.
            _ => {}
        }
    }
    Ok(())
}

fn check_path(path: &Path) -> Result<(), Failed> {
    let good = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && path != Path::new("/");
    if good {
        return Ok(());
    }
    Err(io::Error::from(io::ErrorKind::InvalidInput)).step(format!("mount on {}", path.display()))
}

/// Something to be shown somewhere: a file or folder held by a descriptor, or a new folder in memory.
enum Held {
    Path { fd: std::os::fd::OwnedFd, folder: bool },
    Tmpfs,
}

struct View {
    /// A folder in memory that nobody else sees.
    scratch: PathBuf,
    next: u32,
    /// The file systems in which a missing target may simply be created.
    own: HashSet<u64>,
}

impl View {
    fn new(scratch: &Path) -> Result<View, Failed> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let step = || format!("mount scratch space on {}", scratch.display());
        mount(Some("tmpfs"), scratch, Some("tmpfs"), flags, Some("mode=0755")).step(step())?;
        let own = HashSet::from([fs::metadata(scratch).step(step())?.dev()]);
        Ok(View { scratch: scratch.to_owned(), next: 0, own })
    }

    fn scratch_path(&mut self, kind: &str) -> PathBuf {
        self.next += 1;
        self.scratch.join(format!("{kind}{}", self.next))
    }

    fn source(&mut self, source: &Source) -> Result<Held, Failed> {
        match source {
            Source::Tmpfs => Ok(Held::Tmpfs),
            Source::Bind(path) => hold(path),
            Source::Text(text) => {
                let path = self.scratch_path("text");
                fs::write(&path, text).step("write a file for a mount")?;
                hold(&path)
            }
        }
    }

    fn place(&mut self, target: &Path, source: Held, read_only: bool) -> Result<(), Failed> {
        let folder = !matches!(source, Held::Path { folder: false, .. });
        let target = self.make_room(target, folder)?;
        let step = || format!("mount on {}", target.display());
        if target.is_dir() != folder {
            let (is, is_not) = if folder { ("file", "folder") } else { ("folder", "file") };
            return Err(io::Error::other(format!("it is a {is}, and what is to be mounted a {is_not}"))).step(step());
        }
        match source {
            Held::Path { fd, .. } => bind(&proc_path(&fd), &target).step(step())?,
            Held::Tmpfs => {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some("mode=0777")).step(step())?;
            }
        }
        if read_only { make_read_only(&target).step(step()) } else { Ok(()) }
    }

    /// Sees to it that the target exists, and returns where it really is.
    fn make_room(&mut self, target: &Path, folder: bool) -> Result<PathBuf, Failed> {
        let step = || format!("make room for a mount on {}", target.display());
        let (ancestor, rest) = nearest(target).step(step())?;
        let Some(rest) = rest else { return Ok(ancestor) };
        if !self.own.contains(&fs::metadata(&ancestor).step(step())?.dev()) {
            if ancestor == Path::new("/") {
                self.new_root()?;
            } else if mounts_below(&ancestor).step(step())? || self.overlay(&ancestor).is_err() {
                let copy = self.entries(&ancestor).step(step())?;
                bind(&copy, &ancestor).step(step())?;
            }
        }
        let place = ancestor.join(&rest);
        if folder {
            fs::create_dir_all(&place).step(step())?;
        } else {
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent).step(step())?;
            }
            fs::File::create(&place).step(step())?;
        }
        Ok(place)
    }

    fn overlay(&mut self, ancestor: &Path) -> io::Result<()> {
        let (upper, work) = (self.scratch_path("upper"), self.scratch_path("work"));
        let text = ancestor.to_str().filter(|text| !text.contains([':', ',', '\\']));
        let text = text.ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        fs::set_permissions(&upper, fs::metadata(ancestor)?.permissions())?;
        let options = format!("lowerdir={text},upperdir={},workdir={},userxattr", upper.display(), work.display());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("overlay"), ancestor, Some("overlay"), flags, Some(options.as_str()))?;
        self.own.insert(fs::metadata(ancestor)?.dev());
        Ok(())
    }

    /// A folder in memory with all that a folder holds bound in.
    fn entries(&mut self, folder: &Path) -> io::Result<PathBuf> {
        let copy = self.scratch_path("entries");
        fs::create_dir(&copy)?;
        // A mount of its own, so that it can be moved and pivoted to.
        mount(Some("tmpfs"), &copy, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))?;
        fs::set_permissions(&copy, fs::metadata(folder)?.permissions())?;
        self.own.insert(fs::metadata(&copy)?.dev());
        let mut names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        // What holds the scratch space comes first, before the space holds copies of everything else.
        let scratch = self.scratch.clone();
        names.sort_by_key(|name| !scratch.starts_with(folder.join(name)));
        for name in names {
            let (from, to) = (folder.join(&name), copy.join(&name));
            let Ok(meta) = fs::symlink_metadata(&from) else { continue };
            if meta.is_symlink() {
                symlink(fs::read_link(&from)?, &to)?;
                continue;
            }
            if meta.is_dir() {
                fs::create_dir(&to)?;
            } else {
                fs::File::create(&to)?;
            }
            bind(&from, &to)?;
        }
        Ok(copy)
    }

    /// Shows a folder without some of its files; what was mounted in it stays as it is.
    fn sift(&mut self, sift: &Sift, targets: &[PathBuf]) -> Result<(), Failed> {
        let step = || format!("show a part of {}", sift.folder.display());
        let Ok(folder) = sift.folder.canonicalize() else { return Ok(()) };
        if !folder.is_dir() {
            return self.hide(&[folder], &[], true);
        }
        let copy = self.scratch_path("sifted");
        fs::create_dir(&copy).step(step())?;
        mount(Some("tmpfs"), &copy, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755")).step(step())?;
        self.fill(&folder, &copy, sift, targets).step(step())?;
        // A folder is replaced as a whole: over a file that is replaced by another one no mount would stay.
        bind(&copy, &folder).and_then(|()| make_read_only(&folder)).step(step())
    }

    /// Fills a folder with what another one has, but for what is sifted out.
    fn fill(&self, from: &Path, to: &Path, sift: &Sift, targets: &[PathBuf]) -> io::Result<()> {
        fs::set_permissions(to, fs::metadata(from)?.permissions())?;
        for entry in fs::read_dir(from)?.flatten() {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let Ok(kind) = entry.file_type() else { continue };
            let is_mounted = targets.contains(&from);
            if (!kind.is_dir() && !is_mounted && is_out(&from, sift)) || self.scratch.starts_with(&from) {
                continue;
            }
            if kind.is_symlink() {
                symlink(fs::read_link(&from)?, &to)?;
                continue;
            }
            if kind.is_dir() {
                fs::create_dir(&to)?;
                if !is_mounted && holds_any(&from, sift, 0) {
                    self.fill(&from, &to, sift, targets)?;
                    continue;
                }
            } else {
                fs::File::create(&to)?;
            }
            bind(&from, &to)?;
            if !is_mounted {
                make_read_only(&to)?;
            }
        }
        Ok(())
    }

    /// Exchanges `/` for a folder in memory with the same entries.
    fn new_root(&mut self) -> Result<(), Failed> {
        let step = "replace the root folder";
        if self.own.contains(&fs::metadata("/").step(step)?.dev()) {
            return Ok(());
        }
        let root = self.entries(Path::new("/")).step(step)?;
        let old = root.join(".old");
        fs::create_dir(&old).step(step)?;
        if pivot_root(&root, &old).is_ok() {
            std::env::set_current_dir("/").step(step)?;
            umount2("/.old", MntFlags::MNT_DETACH).step(step)?;
        } else {
            // An initial RAM file system cannot be pivoted away from, only covered.
            std::env::set_current_dir(&root).step(step)?;
            mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).step(step)?;
            nix::unistd::chroot(".").step(step)?;
            std::env::set_current_dir("/").step(step)?;
        }
        fs::remove_dir("/.old").step(step)
    }

    fn hide(&mut self, paths: &[PathBuf], keep: &[PathBuf], read_only: bool) -> Result<(), Failed> {
        let mut paths: Vec<_> = paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
        // Files first: the scratch space with what covers them lies in one of the folders.
        paths.sort_by_key(|path| path.is_dir());
        for path in paths {
            let step = || format!("hide {}", path.display());
            if !path.is_dir() {
                let empty = self.scratch_path("empty");
                fs::write(&empty, "").step(step())?;
                bind(&empty, &path).step(step())?;
                continue;
            }
            let kept: Vec<_> = keep.iter().filter_map(|kept| kept.canonicalize().ok()).collect();
            let kept: Vec<_> = kept.iter().filter_map(|kept| Some((kept.strip_prefix(&path).ok()?, kept))).collect();
            let held = kept.iter().map(|(_, kept)| hold(kept)).collect::<Result<Vec<_>, _>>()?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some("mode=0755")).step(step())?;
            self.own.insert(fs::metadata(&path).step(step())?.dev());
            for ((below, _), held) in kept.iter().zip(held) {
                let target = path.join(below);
                fs::create_dir_all(&target).step(step())?;
                let Held::Path { fd, .. } = held else { continue };
                bind(&proc_path(&fd), &target).step(step())?;
                make_read_only(&target).step(step())?;
            }
            if read_only {
                make_read_only(&path).step(step())?;
            }
        }
        Ok(())
    }
}

fn is_out(path: &Path, sift: &Sift) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    sift.without.iter().any(|part| name.contains(part.as_str()))
}

/// Whether a folder, or one below it, has something that is sifted out. What may not be read has nothing.
fn holds_any(folder: &Path, sift: &Sift, depth: usize) -> bool {
    const DEEPEST: usize = 64;
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| match entry.file_type() {
        // What lies deeper still is told apart below.
        Ok(kind) if kind.is_dir() => depth >= DEEPEST || holds_any(&entry.path(), sift, depth + 1),
        _ => is_out(&entry.path(), sift),
    })
}

fn proc_path(fd: &std::os::fd::OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn hold(path: &Path) -> Result<Held, Failed> {
    let step = || format!("mount {}", path.display());
    let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(step())?;
    let folder = fs::metadata(path).step(step())?.is_dir();
    Ok(Held::Path { fd, folder })
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    // Recursive: the kernel does not show parts of a tree whose mounts it has locked together.
    mount(Some(from), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    Ok(())
}

/// The kernel refuses a remount that drops a flag which the mount was given outside.
fn make_read_only(target: &Path) -> io::Result<()> {
    let has = nix::sys::statvfs::statvfs(target)?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let pairs = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    for (given, flag) in pairs {
        if has.contains(given) {
            flags |= flag;
        }
    }
    mount(NONE, target, NONE, flags, NONE)?;
    Ok(())
}

/// The nearest existing ancestor of a path with all links resolved, and what is missing below it, if
/// anything is. A link that leads nowhere is followed as far as it goes: `/etc/resolv.conf` may be one.
fn nearest(path: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let mut path = path.to_owned();
    for _ in 0..16 {
        if let Ok(found) = path.canonicalize() {
            return Ok((found, None));
        }
        let mut ancestor = path.as_path();
        let found = loop {
            ancestor = ancestor.parent().ok_or(io::ErrorKind::NotFound)?;
            if let Ok(found) = ancestor.canonicalize() {
                break found;
            }
        };
        let rest = path.strip_prefix(ancestor).map_err(io::Error::other)?.to_owned();
        let mut parts = rest.components();
        let first = parts.next().ok_or(io::ErrorKind::NotFound)?;
        match fs::read_link(found.join(first)) {
            Ok(link) => path = normal(&found.join(link).join(parts.as_path())),
            Err(_) => return Ok((found, Some(rest))),
        }
    }
    Err(io::Error::other("too many links"))
}

/// Takes `.` and `..` out of a path whose beginning has no links.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

fn mounts_below(folder: &Path) -> io::Result<bool> {
    Ok(mount_points()?.iter().any(|point| point != folder && point.starts_with(folder)))
}

fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(mount_point).collect())
}

/// The fifth field, in which spaces and the like are written in octal.
fn mount_point(line: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let field = line.split(' ').nth(4)?.as_bytes();
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal = field
            .get(at + 1..at + 4)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(octal.unwrap_or(byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt 2\x")));
        assert_eq!(mount_point("36 35"), None);
    }

    #[test]
    fn nearest_existing_ancestor() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        fs::create_dir(base.join("a")).unwrap();
        symlink("../gone/file", base.join("a/link")).unwrap();
        symlink("a", base.join("b")).unwrap();
        let check = |path: &str, ancestor: &str, rest: Option<&str>| {
            let got = nearest(&base.join(path)).unwrap();
            assert_eq!(got, (base.join(ancestor), rest.map(PathBuf::from)), "{path}");
        };
        check("a", "a", None);
        check("b", "a", None);
        check("b/x/y", "a", Some("x/y"));
        check("a/link", "", Some("gone/file"));
    }
}
