//! The processes of a mesh, as the machine sees them.

use std::{fs, io, time::Duration};

use nix::{time::ClockId, unistd::Pid};

use crate::Mesh;

/// A process of a mesh, by its number outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub pid: i32,
    /// Its parent's number.
    pub parent: i32,
    /// Its command line, with spaces between the words.
    pub command: String,
}

/// What a process holds, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// In memory, files included.
    pub resident: u64,
    /// Of it, what is no file's.
    pub anonymous: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// CPU time of all threads of a process, those that have ended included: what schedstat counts, not the kernel's ticks.
///
/// # Errors
/// If it has ended.
pub fn cpu(pid: i32) -> io::Result<Duration> {
    Ok(ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?.now()?.into())
}

/// What a process holds.
///
/// # Errors
/// If it has ended.
pub fn memory(pid: i32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let number = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no {name}")))
    };
    Ok(Memory { resident: field("VmRSS:")?, anonymous: field("RssAnon:")?, peak: field("VmHWM:")? })
}

/// Whether the tests run as root, so that they can be somebody else too.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// All processes that descend from this one, parents before children.
pub fn descendants(of: i32) -> Vec<Seen> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<Seen> = entries.filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).collect();
    let mut found: Vec<Seen> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|seen| seen.parent == parent) {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

fn look(pid: i32) -> Option<Seen> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    // A zombie runs no more.
    if rest.next()? == "Z" {
        return None;
    }
    let parent = rest.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>();
    Some(Seen { pid, parent, command: words.join(" ").trim().to_owned() })
}

impl Mesh {
    /// All processes of the mesh but the outer one.
    ///
    /// # Panics
    /// If the outer one has an impossible number.
    pub fn processes(&self) -> Vec<Seen> {
        descendants(i32::try_from(self.pid()).expect("a process number"))
    }

    /// Those that run this program, such as `mizzen-proxy`, by their sorted numbers.
    pub fn running(&self, program: &str) -> Vec<i32> {
        let is_it = |seen: &Seen| seen.command.split(' ').next().is_some_and(|first| first.rsplit('/').next() == Some(program));
        let mut pids: Vec<i32> = self.processes().iter().filter(|seen| is_it(seen)).map(|seen| seen.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// The process that made the mesh's namespaces and waits in them.
    ///
    /// # Panics
    /// If the mesh does not run.
    pub(crate) fn holder(&self) -> i32 {
        self.processes().first().map(|seen| seen.pid).expect("the mesh runs")
    }
}
