//! Groups of endpoints by their metadata.

use std::{collections::HashMap, sync::Arc};

use mizzen_ir::config::{self, Criteria, LbValue, SubsetFallback};
use mizzen_types::Name;

use super::{
    super::hosts::{Host, Priorities},
    Pick,
    levels::{Levels, Making},
};

/// The groups, by what their endpoints have in common.
#[derive(Debug)]
pub(super) struct Subsets {
    config: Arc<config::Subsets>,
    groups: HashMap<Criteria, Levels>,
    /// All endpoints, and those of the default group, where they may be needed.
    any: Option<Levels>,
    default: Option<Levels>,
    /// Room for criteria that are cut down.
    cut: Vec<(Name, LbValue)>,
}

/// In so many groups of a selector one endpoint is at most, by lists in its metadata.
const MOST_COMBINATIONS: usize = 1024;

/// Which endpoints serve.
enum Way {
    Group,
    Any,
    Default,
    Nobody,
}

impl Subsets {
    pub(super) fn new(config: Arc<config::Subsets>, making: &Making<'_>) -> Self {
        let priorities = making.all.len();
        let mut members: HashMap<Criteria, Priorities> = HashMap::new();
        for (at, hosts) in making.all.iter().enumerate() {
            for host in hosts {
                for values in config.selectors.iter().flat_map(|selector| combinations(&selector.keys, host, config.list_as_any)) {
                    let group = members.entry(values.into()).or_insert_with(|| vec![Vec::new(); priorities]);
                    if let Some(level) = group.get_mut(at) {
                        level.push(host.clone());
                    }
                }
            }
        }
        let weighted = config.locality_weights.then_some(config.scaled_weights);
        let levels = |members: &Priorities| Levels::new(making, members, weighted, None);
        let used = |fallback: &SubsetFallback| {
            config.fallback == *fallback || config.selectors.iter().any(|selector| selector.fallback.as_ref() == Some(fallback))
        };
        let is_default = |host: &&Arc<Host>| host.has(&config.default, config.list_as_any);
        let default = || making.all.iter().map(|hosts| hosts.iter().filter(is_default).cloned().collect()).collect();
        Subsets {
            groups: members.iter().map(|(values, members)| (values.clone(), levels(members))).collect(),
            any: (config.panic_any || used(&SubsetFallback::Any)).then(|| levels(making.all)),
            default: used(&SubsetFallback::Default).then(|| levels(&default())),
            cut: Vec::new(),
            config,
        }
    }

    pub(super) fn pick(&mut self, pick: &mut Pick<'_>, hash: Option<u64>, wanted: Option<&Criteria>, attempt: u32) -> Option<Arc<Host>> {
        let mut cut = std::mem::take(&mut self.cut);
        let (way, is_cut) = self.way(wanted.map(|c| &**c), &mut cut);
        self.cut = cut;
        match way {
            Some(Way::Nobody) => None,
            Some(Way::Group) => {
                let wanted: &[_] = if is_cut { &self.cut } else { wanted.map(|c| &**c).unwrap_or_default() };
                self.groups.get_mut(wanted)?.pick(pick, hash, attempt)
            }
            Some(Way::Any) => self.any.as_mut()?.pick(pick, hash, attempt),
            Some(Way::Default) => self.default.as_mut()?.pick(pick, hash, attempt),
            None => {
                let fallback = match self.config.fallback {
                    SubsetFallback::Any => self.any.as_mut(),
                    SubsetFallback::Default => self.default.as_mut(),
                    SubsetFallback::None | SubsetFallback::Keys(_) => return None,
                };
                let found = fallback.and_then(|levels| levels.pick(pick, hash, attempt));
                if found.is_none() && self.config.panic_any { self.any.as_mut()?.pick(pick, hash, attempt) } else { found }
            }
        }
    }

    /// Which endpoints serve what is wanted; none: those of the fallback. What is wanted may be cut down, which then is in `cut` (`true`).
    fn way(&self, wanted: Option<&[(Name, LbValue)]>, cut: &mut Vec<(Name, LbValue)>) -> (Option<Way>, bool) {
        let Some(wanted) = wanted else { return (None, false) };
        let mut is_cut = false;
        let names = |wanted: &[(Name, LbValue)], keys: &[Name]| keys.iter().all(|key| wanted.iter().any(|(name, _)| name == key));
        if self.config.redundant_keys
            && let Some(selector) = self.config.selectors.iter().find(|selector| names(wanted, &selector.keys))
        {
            cut.clear();
            cut.extend(wanted.iter().filter(|(name, _)| selector.keys.contains(name)).cloned());
            is_cut = true;
        }
        // Each time around there are fewer keys.
        loop {
            let now: &[_] = if is_cut { cut } else { wanted };
            if self.groups.contains_key(now) {
                return (Some(Way::Group), is_cut);
            }
            let same = |keys: &[Name]| keys.len() == now.len() && names(now, keys);
            let fallback =
                self.config.selectors.iter().find(|selector| same(&selector.keys)).and_then(|selector| selector.fallback.as_ref());
            let keys = match fallback {
                None => return (None, is_cut),
                Some(SubsetFallback::None) => return (Some(Way::Nobody), is_cut),
                Some(SubsetFallback::Any) => return (Some(Way::Any), is_cut),
                Some(SubsetFallback::Default) => return (Some(Way::Default), is_cut),
                Some(SubsetFallback::Keys(keys)) => keys,
            };
            if is_cut {
                cut.retain(|(name, _)| keys.contains(name));
            } else {
                cut.clear();
                cut.extend(wanted.iter().filter(|(name, _)| keys.contains(name)).cloned());
                is_cut = true;
            }
        }
    }
}

/// The values of an endpoint for these keys: none if it lacks one, several if a value is a list of which each counts.
fn combinations(keys: &[Name], host: &Host, list_as_any: bool) -> Vec<Vec<(Name, LbValue)>> {
    let mut all = vec![Vec::with_capacity(keys.len())];
    for key in keys {
        let values = match host.value_of(key) {
            None => return Vec::new(),
            Some(LbValue::List(list)) if list_as_any => &**list,
            Some(value) => std::slice::from_ref(value),
        };
        let with = |known: &Vec<(Name, LbValue)>, value: &LbValue| {
            let mut known = known.clone();
            known.push((key.clone(), value.clone()));
            known
        };
        all = all.iter().flat_map(|known| values.iter().map(move |value| with(known, value))).take(MOST_COMBINATIONS).collect();
    }
    all
}
