//! Results by the answers that led to them.
//!
//! A translation is a function of its answers: which question comes next depends on nothing but the answers before it, and on what is the same for all.
//! So the results of one name form a tree. Who asks walks down by the answers that it gets, and is then asked what else was asked for the one result that
//! hangs there. What two results were asked is compared once: when the second comes to where the first hangs alone.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use mizzen_model::{Answer, ProxyView, Query, Question, Snapshot};

use super::slot::Built;

/// The results of one name that differ by who asks. A copy shares all of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(Option<Arc<Node>>);

#[derive(Clone, Debug)]
enum Node {
    /// The only result with the answers that lead here: what else was asked for it has to be asked as well.
    Leaf(Arc<Built>),
    Ask(Question, HashMap<Answer, Arc<Node>, RandomState>),
}

impl Tree {
    /// The result for a proxy, if another one with the same answers has had it. What its own answers follow from is added to `under`: two proxies may get
    /// the same answer for different reasons.
    pub(super) fn find(&self, snapshot: &Snapshot, view: &ProxyView, under: &mut Vec<Query>) -> Option<Arc<Built>> {
        let mut ask = |question: &Question| {
            let (answer, _, queries) = question.answer_with(snapshot, view);
            under.extend(queries);
            answer
        };
        let (mut node, mut depth) = (self.0.as_ref()?, 0);
        loop {
            match &**node {
                Node::Leaf(built) => {
                    let is_same = |(question, answer): &(Question, Answer)| ask(question) == *answer;
                    return rest(built, depth).iter().all(is_same).then(|| built.clone());
                }
                Node::Ask(question, edges) => node = edges.get(&ask(question))?,
            }
            depth += 1;
        }
    }

    /// The result that a record of all questions that a proxy was asked, in their order, leads to.
    pub(super) fn follow(&self, asked: &[(Question, Answer)]) -> Option<Arc<Built>> {
        let (mut node, mut depth) = (self.0.as_ref()?, 0);
        loop {
            match (&**node, asked.get(depth)) {
                (Node::Leaf(built), _) => return (rest(built, depth) == asked.get(depth..)?).then(|| built.clone()),
                (Node::Ask(asks, edges), Some((question, answer))) if asks == question => node = edges.get(answer)?,
                (Node::Ask(..), _) => return None,
            }
            depth += 1;
        }
    }

    /// Whether it is this very one, to which nothing was added since.
    pub(super) fn is(&self, other: &Tree) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Takes one more result. What asks another question at the same place is of an earlier snapshot, and goes.
    pub(super) fn add(&mut self, built: &Arc<Built>) {
        let leaf = || Arc::new(Node::Leaf(built.clone()));
        let mut node = self.0.get_or_insert_with(leaf);
        for (depth, (question, answer)) in built.reads.asked().iter().enumerate() {
            if let Node::Leaf(there) = &**node {
                if !Arc::ptr_eq(there, built) {
                    *node = parted(there, built, depth).unwrap_or_else(leaf);
                }
                return;
            }
            if !matches!(&**node, Node::Ask(same, _) if same == question) {
                break;
            }
            // What nobody else has is changed where it is.
            let Node::Ask(_, edges) = Arc::make_mut(node) else { return };
            node = edges.entry(answer.clone()).or_insert_with(leaf);
        }
        *node = leaf();
    }

    /// Any one result.
    pub(super) fn any(&self) -> Option<&Arc<Built>> {
        let mut node = self.0.as_ref()?;
        loop {
            match &**node {
                Node::Leaf(built) => return Some(built),
                Node::Ask(_, edges) => node = edges.values().next()?,
            }
        }
    }
}

/// What else was asked for a result that is `depth` questions deep.
fn rest(built: &Built, depth: usize) -> &[(Question, Answer)] {
    built.reads.asked().get(depth..).unwrap_or_default()
}

/// Two results of which one was alone here; `None`: the other one takes its place, as it asks something else after the same answers, or has the same.
fn parted(there: &Arc<Built>, built: &Arc<Built>, depth: usize) -> Option<Arc<Node>> {
    let (old, new) = (rest(there, depth), rest(built, depth));
    let alike = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let ((question, was), (asks, is)) = (old.get(alike)?, new.get(alike)?);
    if question != asks {
        return None;
    }
    let leaves = [(was, there), (is, built)].map(|(answer, one)| (answer.clone(), Arc::new(Node::Leaf(one.clone()))));
    let both = Arc::new(Node::Ask(question.clone(), HashMap::from_iter(leaves)));
    let above = |below, (question, answer): &(Question, Answer)| {
        Arc::new(Node::Ask(question.clone(), HashMap::from_iter([(answer.clone(), below)])))
    };
    Some(new.iter().take(alike).rev().fold(both, above))
}

/// A tree is as deep as a result asks questions, one or more for each service: it is taken apart in a loop, as it is walked and made.
impl Drop for Node {
    fn drop(&mut self) {
        let mut last = match self {
            Node::Ask(_, edges) => edges.drain().map(|(_, node)| node).collect(),
            Node::Leaf(_) => Vec::new(),
        };
        while let Some(node) = last.pop() {
            if let Some(Node::Ask(_, edges)) = Arc::into_inner(node).as_mut() {
                last.extend(edges.drain().map(|(_, node)| node));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mizzen_model::{ProxyFacts, ProxyType, Reader};

    use super::{super::slot::Value, *};

    /// What a result asks is bounded by nothing but the mesh: no thread's stack is.
    #[test]
    fn any_number_of_questions() {
        const MANY: usize = 100_000;
        let snapshot = Snapshot::default();
        let view = |namespace: &str| {
            ProxyView::from(ProxyFacts {
                kind: ProxyType::Sidecar,
                ip: "10.0.0.1".parse().unwrap(),
                more_ips: Vec::new(),
                id: "p".into(),
                pod: "p".into(),
                namespace: namespace.into(),
                service_account: "default".into(),
                workload: "w".into(),
                cluster: "c".into(),
                locality: Default::default(),
                labels: Default::default(),
                extensions: Default::default(),
                topology: Default::default(),
                metadata: Default::default(),
            })
        };
        // Two of them part at the last question.
        let views = ["ns0".to_owned(), format!("ns{}", MANY - 1), "elsewhere".to_owned()].map(|namespace| view(&namespace));
        let built = views.each_ref().map(|view| {
            let reader = Reader::new(&snapshot);
            (0..MANY).for_each(|i| _ = view.is_in(&reader, &format!("ns{i}")));
            Arc::new(Built { value: Value::Names(None), brings: Arc::default(), reads: reader.finish() })
        });
        assert_eq!(built[0].reads.asked().len(), MANY);
        let mut tree = Tree::default();
        let empty = tree.clone();
        for one in &built {
            tree.add(one);
        }
        for (view, one) in views.iter().zip(&built) {
            assert!(Arc::ptr_eq(&tree.find(&snapshot, view, &mut Vec::new()).unwrap(), one));
            assert!(Arc::ptr_eq(&tree.follow(one.reads.asked()).unwrap(), one));
            assert!(tree.follow(&one.reads.asked()[1..]).is_none() && empty.follow(one.reads.asked()).is_none());
        }
        let before = tree.clone();
        assert!(before.is(&tree) && empty.is(&Tree::default()) && !tree.is(&empty));
        tree.add(&built[0]);
        assert!(!before.is(&tree), "what somebody holds stays as it is");
        assert_eq!((tree.any().is_some(), empty.any().is_some()), (true, false));
    }
}
