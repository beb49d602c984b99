//! Results by the answers that led to them.
//!
//! A translation is a function of its answers: which question comes next depends on nothing but the answers before it, and on what is the same for all.
//! So the results of one name form a tree. Who asks walks down by the answers that it gets; no two results are ever compared.

use std::{collections::HashMap, sync::Arc};

use mizzen_model::{Answer, ProxyView, Query, Question, Snapshot};

use super::slot::Built;

/// The results of one name that differ by who asks. A copy shares all of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(Option<Arc<Node>>);

#[derive(Debug)]
enum Node {
    Leaf(Arc<Built>),
    Ask(Question, HashMap<Answer, Arc<Node>>),
}

impl Tree {
    /// The result for a proxy, if another one with the same answers has had it. What its own answers follow from is added to `under`: two proxies may get
    /// the same answer for different reasons.
    pub(super) fn find(&self, snapshot: &Snapshot, view: &ProxyView, under: &mut Vec<Query>) -> Option<Arc<Built>> {
        let mut node = self.0.as_ref()?;
        loop {
            match &**node {
                Node::Leaf(built) => return Some(built.clone()),
                Node::Ask(question, edges) => {
                    let (answer, _, queries) = question.answer_with(snapshot, view);
                    under.extend(queries);
                    node = edges.get(&answer)?;
                }
            }
        }
    }

    /// The tree with one more result. What asks another question at the same place is of an earlier snapshot, and goes.
    #[must_use]
    pub(super) fn with(&self, built: &Arc<Built>) -> Tree {
        Tree(Some(insert(self.0.as_ref(), built.reads.asked(), built)))
    }

    /// All results.
    pub(super) fn leaves(&self) -> Vec<&Arc<Built>> {
        let mut found = Vec::new();
        let mut nodes: Vec<&Arc<Node>> = self.0.iter().collect();
        while let Some(node) = nodes.pop() {
            match &**node {
                Node::Leaf(built) => found.push(built),
                Node::Ask(_, edges) => nodes.extend(edges.values()),
            }
        }
        found
    }
}

fn insert(node: Option<&Arc<Node>>, asked: &[(Question, Answer)], built: &Arc<Built>) -> Arc<Node> {
    let Some(((question, answer), rest)) = asked.split_first() else { return Arc::new(Node::Leaf(built.clone())) };
    let mut edges = match node.map(|node| &**node) {
        Some(Node::Ask(same, edges)) if same == question => edges.clone(),
        _ => HashMap::new(),
    };
    let next = insert(edges.get(answer), rest, built);
    edges.insert(answer.clone(), next);
    Arc::new(Node::Ask(question.clone(), edges))
}
