//! What is said after any sequence of changes is what is said of the same objects by somebody who has seen nothing else, in whatever order they come.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{Node, Source};
use proptest::prelude::*;

use crate::{Analysis, Id, Item, Options, items};

/// All documents of all cases, so that whatever rules look at is among them.
fn pool() -> Vec<(Node, Source, Arc<str>)> {
    let mut all = Vec::new();
    for (number, case) in super::all().iter().enumerate() {
        let file: Arc<str> = format!("case{number}.yaml").into();
        items(&case.yaml, &file, "default", &mut |item| all.push((item.node.clone(), item.source.clone(), file.clone())));
    }
    all
}

fn item<'a>((node, source, file): &'a (Node, Source, Arc<str>)) -> Item<'a> {
    Item::of(node, source.clone(), file, "default")
}

fn said(analysis: &Analysis) -> Vec<String> {
    analysis.messages().iter().map(|message| format!("{message} | {} {}", message.field, message.pos.column)).collect()
}

fn afresh<'a>(objects: impl Iterator<Item = &'a (Node, Source, Arc<str>)>) -> Vec<String> {
    let mut analysis = Analysis::new(Options::default());
    objects.for_each(|object| analysis.put(&item(object)));
    analysis.update();
    said(&analysis)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn changes_and_order_do_not_matter(steps in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<bool>()), 1..160)) {
        let pool = pool();
        let mut analysis = Analysis::new(Options { follows: true, ..Options::default() });
        let mut now: BTreeMap<Id, usize> = BTreeMap::new();
        for (which, removes, updates) in steps {
            let which = which.index(pool.len());
            let item = item(&pool[which]);
            if removes == 0 {
                // Whoever bears this name.
                analysis.remove(&item.id);
                now.remove(&item.id);
            } else {
                analysis.put(&item);
                now.insert(item.id.clone(), which);
            }
            if updates {
                analysis.update();
            }
        }
        analysis.update();
        prop_assert_eq!(analysis.len(), now.len());
        let expected = afresh(now.values().map(|which| &pool[*which]));
        prop_assert_eq!(&said(&analysis), &expected);
        prop_assert_eq!(&afresh(now.values().rev().map(|which| &pool[*which])), &expected);
    }
}
