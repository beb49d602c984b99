//! Labels that are many: those of endpoints and subsets.
//!
//! A `BTreeMap` takes half a kilobyte for a single label. [`Labels`] is a sorted list that its copies share; what is equal within a document is there once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Whatever has labels.
pub trait LabelSet {
    /// The value of the label of this name.
    fn label(&self, name: &str) -> Option<&str>;
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Labels by name. A copy shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Option<Arc<[Label]>>);

/// A name and its value.
type Label = (Arc<str>, Arc<str>);

impl Labels {
    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|pairs| pairs.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// Whether other labels hold all of these.
    pub fn is_within(&self, other: &impl LabelSet) -> bool {
        self.iter().all(|(name, value)| other.label(name) == Some(value))
    }

    fn sorted(pairs: BTreeMap<Arc<str>, Arc<str>>) -> Labels {
        Labels((!pairs.is_empty()).then(|| pairs.into_iter().collect()))
    }
}

impl LabelSet for Labels {
    fn label(&self, name: &str) -> Option<&str> {
        let pairs = self.0.as_deref()?;
        let at = pairs.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        pairs.get(at).map(|(_, value)| &**value)
    }
}

impl<N: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(N, V)> for Labels {
    /// The last one of a name counts.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Labels {
        Labels::sorted(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// What a document has said once, so that it is kept once.
#[derive(Debug, Default)]
pub(crate) struct Known {
    texts: RefCell<BTreeSet<Arc<str>>>,
    sets: RefCell<BTreeSet<Labels>>,
}

impl Known {
    /// These labels, shared with all that are equal.
    pub(crate) fn labels<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Labels {
        let labels = Labels::sorted(pairs.map(|(name, value)| (self.text(name), self.text(value))).collect());
        let mut sets = self.sets.borrow_mut();
        if let Some(known) = sets.get(&labels) {
            return known.clone();
        }
        sets.insert(labels.clone());
        labels
    }

    fn text(&self, text: &str) -> Arc<str> {
        let mut texts = self.texts.borrow_mut();
        if let Some(known) = texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        texts.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_as_in_a_map() {
        for pairs in [&[][..], &[("b", "1")], &[("b", "1"), ("a", "2"), ("c", "")], &[("b", "1"), ("a", "2"), ("b", "3")]] {
            let (labels, map) = (pairs.iter().copied().collect::<Labels>(), pairs.iter().copied().collect::<BTreeMap<_, _>>());
            assert_eq!(labels.iter().collect::<Vec<_>>(), map.iter().map(|(name, value)| (*name, *value)).collect::<Vec<_>>());
            for name in ["", "a", "b", "c", "d"] {
                assert_eq!(labels.label(name), map.get(name).copied(), "{pairs:?} {name}");
            }
            assert_eq!(labels == Labels::default(), map.is_empty());
            assert!(labels.is_within(&labels) && Labels::default().is_within(&labels));
            let other: Labels = [("b", "1"), ("x", "y")].into_iter().collect();
            assert_eq!(labels.is_within(&other), map.iter().all(|pair| pair == (&"b", &"1")), "{pairs:?}");
        }
    }

    #[test]
    fn equal_ones_are_there_once() {
        let known = Known::default();
        let of = |pairs: &[(&'static str, &'static str)]| known.labels(pairs.iter().copied());
        let [one, again, other] = [of(&[("app", "a"), ("v", "1")]), of(&[("v", "1"), ("app", "a")]), of(&[("app", "a"), ("v", "2")])];
        let pairs = |labels: &Labels| labels.0.clone().unwrap();
        assert!(Arc::ptr_eq(&pairs(&one), &pairs(&again)));
        assert!(!Arc::ptr_eq(&pairs(&one), &pairs(&other)) && Arc::ptr_eq(&pairs(&one)[0].1, &pairs(&other)[0].1));
        assert_eq!(of(&[]), Labels::default());
    }
}
