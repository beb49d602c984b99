//! What the mesh's processes cost: CPU time and memory by program, over restarts.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use serde::Serialize;

use crate::{Memory, Mesh, cpu, memory};

/// What the processes of one program have used.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Of all its processes since they began, in seconds.
    pub cpu: f64,
    /// Anonymous memory at the end, in KiB.
    pub anonymous: u64,
    /// The most that it ever held, files included, in KiB.
    pub peak: u64,
}

/// Of all processes of control plane and proxies.
#[derive(Default)]
pub(super) struct Meter {
    /// The last that was seen of each process.
    seen: HashMap<i32, (String, Usage)>,
}

impl Meter {
    /// Looks once more. What a process has used after the last look before its end is not seen.
    pub(super) fn look(&mut self, mesh: &Mesh) {
        for program in ["mizzend", "mizzen-proxy"] {
            for pid in mesh.running(program) {
                if let Some(usage) = usage(pid) {
                    let name =
                        || if program == "mizzend" { program.to_owned() } else { pod(pid).unwrap_or_else(|| format!("proxy {pid}")) };
                    let seen = self.seen.entry(pid).or_insert_with(|| (name(), Usage::default()));
                    seen.1 = usage;
                }
            }
        }
    }

    /// By program: of several processes one after the other, all of the CPU time and the most memory.
    pub(super) fn total(&self) -> BTreeMap<String, Usage> {
        let mut total: BTreeMap<String, Usage> = BTreeMap::new();
        for (name, usage) in self.seen.values() {
            let all = total.entry(name.clone()).or_default();
            all.cpu += usage.cpu;
            all.anonymous = all.anonymous.max(usage.anonymous);
            all.peak = all.peak.max(usage.peak);
        }
        total
    }
}

/// What a process has used, while it lives.
pub fn usage(pid: i32) -> Option<Usage> {
    let Memory { anonymous, peak, .. } = memory(pid).ok()?;
    Some(Usage { cpu: cpu(pid).ok()?.as_secs_f64(), anonymous, peak })
}

/// The pod beside which a proxy stands, where its environment may be read.
pub fn pod(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let name = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"POD_NAME="))?;
    Some(String::from_utf8_lossy(name).into_owned())
}
