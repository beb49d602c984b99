//! Which localities of a service are called.

use std::collections::BTreeMap;

use mizzen_types::Locality;

use crate::{
    metadata::{label_name, label_text},
    read::{At, Fields, quoted},
};

/// Which localities of a service are called. At most one of `distribute` and `failover` is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityLbSetting {
    /// Whether any of it holds; the default is yes.
    pub enabled: bool,
    /// Shares by the caller's locality: the first that holds for the caller counts.
    pub distribute: Vec<Distribute>,
    /// The regions to turn to, by the caller's.
    pub failover: Vec<Failover>,
    /// Labels, the weightiest first: an endpoint is the nearer the more of them it shares with the caller from the first on.
    pub failover_priority: Vec<FailoverLabel>,
}

impl Default for LocalityLbSetting {
    fn default() -> Self {
        LocalityLbSetting { enabled: true, distribute: Vec::new(), failover: Vec::new(), failover_priority: Vec::new() }
    }
}

/// Where the calls from some place go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribute {
    /// Where they come from.
    pub from: LocalityPattern,
    /// The shares, in percent; their sum is 100, and no locality belongs to two of them.
    pub to: BTreeMap<LocalityPattern, u32>,
}

/// Where the calls of one region go when its own endpoints fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// The caller's region.
    pub from: String,
    /// The other one.
    pub to: String,
}

/// A label that decides how near an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverLabel {
    /// Its name.
    pub name: String,
    /// The value that counts as near; none: the caller's own.
    pub value: Option<String>,
}

/// A region, perhaps with zone and subzone; an empty part or `*` stands for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalityPattern(Locality);

impl LocalityPattern {
    /// Whether a locality belongs to it.
    pub fn matches(&self, locality: &Locality) -> bool {
        let Locality { region, zone, subzone } = &self.0;
        let one = |wanted: &str, is: &str| matches!(wanted, "*" | "") || wanted == is;
        (region == "*" || *region == locality.region) && one(zone, &locality.zone) && one(subzone, &locality.subzone)
    }

    /// Whether some locality may belong to both.
    fn overlaps(&self, other: &LocalityPattern) -> bool {
        let one = |a: &str, b: &str| matches!(a, "*" | "") || matches!(b, "*" | "") || a == b;
        one(&self.0.region, &other.0.region) && one(&self.0.zone, &other.0.zone) && one(&self.0.subzone, &other.0.subzone)
    }

    fn parse(at: &At<'_>, text: &str) -> LocalityPattern {
        let parts: Vec<&str> = text.split('/').collect();
        let star = parts.iter().position(|part| part.contains('*'));
        let whole = star.is_none_or(|star| star + 1 == parts.len() && parts[star..] == ["*"]);
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) || !whole {
            at.fail(format!("{} is no locality: region, region/zone or region/zone/subzone, of which the last may be `*`", quoted(text)));
        }
        let Ok(locality) = text.parse();
        LocalityPattern(locality)
    }
}

impl LocalityLbSetting {
    pub(crate) fn read(f: &Fields<'_>) -> LocalityLbSetting {
        let distribute = f.list("distribute").iter().map(|at| (at.fields(Distribute::read), at.clone())).collect::<Vec<_>>();
        for (i, (one, at)) in distribute.iter().enumerate() {
            if distribute.iter().take(i).any(|(other, _)| other.from.overlaps(&one.from)) {
                at.fail("from overlaps with another one");
            }
        }
        let setting = LocalityLbSetting {
            enabled: f.get("enabled").is_none_or(|at| at.flag()),
            distribute: distribute.into_iter().map(|(one, _)| one).collect(),
            failover: f.list("failover").iter().map(|at| at.fields(Failover::read)).collect(),
            failover_priority: f.list("failoverPriority").iter().map(FailoverLabel::read).collect(),
        };
        if !setting.distribute.is_empty() && !setting.failover.is_empty() {
            f.slot("failover").fail("excludes `distribute`");
        }
        if !setting.distribute.is_empty() && !setting.failover_priority.is_empty() {
            f.slot("failoverPriority").warn("has no effect beside distribute");
        }
        let topology = |label: &FailoverLabel| {
            matches!(&*label.name, "topology.kubernetes.io/region" | "topology.kubernetes.io/zone" | "topology.istio.io/subzone")
        };
        if !setting.failover.is_empty() && setting.failover_priority.iter().any(topology) {
            f.slot("failover").fail("excludes labels of the topology in `failoverPriority`");
        }
        setting
    }
}

impl Distribute {
    fn read(f: &Fields<'_>) -> Distribute {
        let from = f.need("from").map(|at| LocalityPattern::parse(&at, &at.text()));
        let mut to: BTreeMap<LocalityPattern, u32> = BTreeMap::new();
        if let Some(at) = f.need("to") {
            for (key, at) in at.entries() {
                let pattern = LocalityPattern::parse(&at, key);
                if to.keys().any(|other| other.overlaps(&pattern)) {
                    at.fail("overlaps with another one");
                }
                to.insert(pattern, at.count());
            }
            let sum: u32 = to.values().sum();
            if sum != 100 {
                at.fail(format!("the sum of the weights must be 100, is {sum}"));
            }
        }
        Distribute { from: from.unwrap_or_else(|| LocalityPattern(Locality::default())), to }
    }
}

impl Failover {
    fn read(f: &Fields<'_>) -> Failover {
        let region = |name| {
            let Some(at) = f.need(name) else { return String::new() };
            let text = at.word();
            if text.contains(['/', '*']) {
                at.fail(format!("{} is no region: zones and `*` have no place here", quoted(&text)));
            }
            text
        };
        let failover = Failover { from: region("from"), to: region("to") };
        if failover.from == failover.to && !failover.from.is_empty() {
            f.at.fail("from and to are the same region");
        }
        failover
    }
}

impl FailoverLabel {
    fn read(at: &At<'_>) -> FailoverLabel {
        let text = at.word();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&*text, None),
        };
        if !text.is_empty() && (!label_name(name) || !value.as_deref().is_none_or(label_text)) {
            at.fail(format!("{} is neither a label's name nor `name=value`", quoted(&text)));
        }
        FailoverLabel { name: name.to_owned(), value }
    }
}
