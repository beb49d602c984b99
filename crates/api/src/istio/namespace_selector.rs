//! Kubernetes' selectors, of namespaces by their labels.

use std::collections::BTreeMap;

use crate::{
    metadata::{label_name, labels},
    read::{Fields, quoted},
};

/// Which namespaces are meant: those of which all of this holds. An empty one means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSelector {
    /// Labels that they have.
    pub labels: BTreeMap<String, String>,
    /// What else holds.
    pub expressions: Vec<LabelExpression>,
}

/// What holds of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelExpression {
    /// The label's name.
    pub key: String,
    /// What holds.
    pub operator: LabelOperator,
    /// Of these values; none for [`LabelOperator::Exists`] and [`LabelOperator::DoesNotExist`].
    pub values: Vec<String>,
}

/// Kubernetes' operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of them, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not.
    DoesNotExist,
}

// An enumeration of Kubernetes is written by name alone: the numbers are none of its own.
pub(crate) const OPERATORS: &[(&str, i64, Option<LabelOperator>); 4] = &[
    ("In", 0, Some(LabelOperator::In)),
    ("NotIn", 1, Some(LabelOperator::NotIn)),
    ("Exists", 2, Some(LabelOperator::Exists)),
    ("DoesNotExist", 3, Some(LabelOperator::DoesNotExist)),
];

impl NamespaceSelector {
    /// Whether a namespace with these labels is meant.
    pub fn matches(&self, of: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| of.get(key) == Some(value)) && self.expressions.iter().all(|expression| expression.holds(of))
    }

    pub(crate) fn read_list(f: &Fields<'_>, name: &'static str) -> Vec<NamespaceSelector> {
        f.list(name).iter().map(|at| at.fields(NamespaceSelector::read)).collect()
    }

    fn read(f: &Fields<'_>) -> NamespaceSelector {
        NamespaceSelector {
            labels: f.get("matchLabels").map(|at| labels(&at)).unwrap_or_default(),
            expressions: f.list("matchExpressions").iter().filter_map(|at| at.fields(LabelExpression::read)).collect(),
        }
    }
}

impl LabelExpression {
    fn holds(&self, of: &BTreeMap<String, String>) -> bool {
        let value = of.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|value| self.values.contains(value)),
            LabelOperator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }

    fn read(f: &Fields<'_>) -> Option<LabelExpression> {
        let key = f.need("key").map(|at| (at.word(), at));
        let operator = f.need("operator").and_then(|at| at.choice(OPERATORS));
        let values = f.text_list("values");
        let (key, at) = key?;
        if !label_name(&key) {
            at.fail(format!("{} is no label name", quoted(&key)));
        }
        let operator = operator?;
        let takes = matches!(operator, LabelOperator::In | LabelOperator::NotIn);
        if takes == values.is_empty() {
            let at = f.get("values").unwrap_or_else(|| f.at.clone());
            at.fail(if takes { "needs values" } else { "takes no values" });
        }
        Some(LabelExpression { key, operator, values })
    }
}
