//! What is fetched on first use: what workers have asked for, since when and why, and whether it is still in use.
//!
//! The mode is on once the server has told an index of the mesh. A name stays asked for as long as something uses it, and for a while beyond.

use std::{collections::BTreeMap, time::Duration};

use mizzen_ir::ResourceKind;
use mizzen_types::Name;

/// Names that workers may have asked for; beyond it the one goes that was in use longest ago.
const MOST: usize = 10_000;

/// What was asked for by workers, or is remembered from an earlier run.
#[derive(Debug)]
pub(crate) struct Demands {
    all: BTreeMap<(ResourceKind, Name), Demand>,
    /// What nothing has used for so long is let go.
    idle: Duration,
    /// When it is looked for next.
    sweep: Duration,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// When it was asked for.
    pub(crate) since: Duration,
    /// When it was last seen to be in use.
    pub(crate) used: Duration,
    /// What for, in words.
    pub(crate) why: Name,
}

impl Demands {
    pub(crate) fn new(idle: Duration) -> Demands {
        Demands { all: BTreeMap::new(), idle, sweep: Duration::ZERO }
    }

    /// Asked for, or asked for again.
    pub(crate) fn insert(&mut self, kind: ResourceKind, name: &Name, why: &Name, now: Duration) -> Option<(ResourceKind, Name)> {
        let key = (kind, name.clone());
        if let Some(known) = self.all.get_mut(&key) {
            known.used = now;
            return None;
        }
        let oldest = (self.all.len() >= MOST).then(|| self.all.iter().min_by_key(|(_, demand)| demand.used).map(|(key, _)| key.clone()));
        let gone = oldest.flatten();
        gone.iter().for_each(|key| drop(self.all.remove(key)));
        self.all.insert(key, Demand { since: now, used: now, why: why.clone() });
        gone
    }

    pub(crate) fn remove(&mut self, key: &(ResourceKind, Name)) {
        self.all.remove(key);
    }

    pub(crate) fn contains(&self, key: &(ResourceKind, Name)) -> bool {
        self.all.contains_key(key)
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(ResourceKind, Name), &Demand)> {
        self.all.iter()
    }

    /// When [`Demands::idle`] has something to look for.
    pub(crate) fn due(&self) -> Option<Duration> {
        (!self.all.is_empty()).then_some(self.sweep)
    }

    /// What nothing has used for long enough. `is_used` says whether something was in use since it was last asked.
    pub(crate) fn idle(&mut self, now: Duration, mut is_used: impl FnMut(ResourceKind, &Name) -> bool) -> Vec<(ResourceKind, Name)> {
        if now < self.sweep {
            return Vec::new();
        }
        // What is used between two looks counts as used at the later one: it is never let go too early.
        self.sweep = now + (self.idle / 4).max(Duration::from_millis(100));
        let mut gone = Vec::new();
        for (key, demand) in &mut self.all {
            if is_used(key.0, &key.1) {
                demand.used = now;
            } else if now >= demand.used + self.idle {
                gone.push(key.clone());
            }
        }
        gone.iter().for_each(|key| drop(self.all.remove(key)));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_nothing_uses_is_let_go() {
        let mut demands = Demands::new(at(100));
        assert_eq!(demands.due(), None);
        for name in ["80/a", "80/b"] {
            assert_eq!(demands.insert(ResourceKind::VirtualHost, &name.into(), &"a request".into(), at(0)), None);
        }
        let used = |_, name: &Name| &**name == "80/a";
        assert!(demands.idle(at(0), used).is_empty() && demands.due() == Some(at(25)));
        assert!(demands.idle(at(10), |_, _| unreachable!("it is not looked at so often")).is_empty());
        assert!(demands.idle(at(99), used).is_empty());
        assert_eq!(demands.idle(at(124), used), [(ResourceKind::VirtualHost, "80/b".into())]);
        // Who is asked for again lives on.
        demands.insert(ResourceKind::VirtualHost, &"80/a".into(), &"".into(), at(200));
        assert!(demands.idle(at(299), |_, _| false).is_empty());
        assert_eq!(demands.idle(at(324), |_, _| false).len(), 1);
        assert_eq!(demands.iter().count(), 0);
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut demands = Demands::new(at(100));
        let name = |n: usize| Name::from(n.to_string());
        for n in 0..MOST {
            assert_eq!(demands.insert(ResourceKind::Listener, &name(n), &"".into(), at(n as u64)), None);
        }
        demands.insert(ResourceKind::Listener, &name(0), &"".into(), at(20_000));
        assert_eq!(
            demands.insert(ResourceKind::Listener, &"one more".into(), &"".into(), at(20_001)),
            Some((ResourceKind::Listener, name(1)))
        );
        assert!(demands.contains(&(ResourceKind::Listener, name(0))) && demands.iter().count() == MOST);
    }
}
