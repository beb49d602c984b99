//! The processes of a mesh, as the machine sees them.

use std::fs;

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
