//! What reading costs, counted in allocations and bytes: a folder of services with their routes and rules, and an edit of one of its files.

use std::fmt::Write;

use allocation_counter::{AllocationInfo, measure};

use super::{
    fold::{Content, Fold},
    *,
};

/// What an object may hold, on average over [`service`]: what it says, its text, and what the source knows of it.
const BYTES: i64 = 2_400;
/// In how many allocations it may be read.
const ALLOCATIONS: u64 = 200;
const OBJECTS: usize = 3;

/// A service of five endpoints, its route and its rule.
fn service(number: usize, weight: u32) -> String {
    let (name, host) = (format!("s{number:05}"), format!("s{number:05}.shop.example"));
    let head =
        |kind: &str| format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n");
    let mut text = head("ServiceEntry");
    let _ = write!(text, "  hosts: [{host}]\n  location: MESH_INTERNAL\n  resolution: STATIC\n");
    text.push_str("  ports: [{number: 8080, name: http, protocol: HTTP}]\n  endpoints:\n");
    for endpoint in 1..=5 {
        let labels = format!("{{app: {name}, version: v{}}}", endpoint % 2 + 1);
        let _ =
            writeln!(text, "  - {{address: 10.{}.{}.{endpoint}, labels: {labels}, serviceAccount: {name}}}", number / 250, number % 250);
    }
    let destination = |subset: &str, weight: u32| format!("    - {{destination: {{host: {host}, subset: {subset}}}, weight: {weight}}}\n");
    let _ = write!(text, "---\n{}  hosts: [{host}]\n  http:\n  - timeout: 10s\n    route:\n", head("VirtualService"));
    text += &destination("v1", weight);
    text += &destination("v2", 100 - weight);
    let _ = write!(text, "---\n{}  host: {host}\n  subsets:\n", head("DestinationRule"));
    text.push_str("  - {name: v1, labels: {version: v1}}\n  - {name: v2, labels: {version: v2}}\n");
    text
}

fn file(number: usize, weight: u32) -> (Arc<str>, Content) {
    (format!("{number:05}.yaml").into(), Content::Text(service(number, weight)))
}

/// A source that has read so many files, and what that took.
fn read(files: usize, begun: Instant) -> (Fold, AllocationInfo) {
    let mut fold = Fold::new(Duration::ZERO, Vec::new());
    let changes: Vec<_> = (0..files).map(|number| file(number, 90)).collect();
    let cost = measure(|| {
        drop(fold.update(begun, changes));
        fold.touched();
    });
    assert_eq!(fold.objects().count(), files * OBJECTS);
    (fold, cost)
}

#[test]
fn an_object_holds_little_and_is_read_in_few_steps() {
    const FILES: usize = 300;
    let begun = Instant::now();
    // What is made once for all is no object's.
    read(1, begun);
    let (fold, cost) = read(FILES, begun);
    // The texts that were handed in are gone, but were not counted when they were made.
    let texts: usize = (0..FILES).map(|number| service(number, 90).capacity()).sum();
    let objects = (FILES * OBJECTS) as i64;
    let held = (cost.bytes_current + texts as i64) / objects;
    let steps = cost.count_total / objects as u64;
    println!("an object holds {held} bytes and is read in {steps} allocations");
    assert!(held > 100 && steps > 10, "{held} bytes and {steps} allocations cannot be all");
    assert!(held <= BYTES && steps <= ALLOCATIONS, "an object holds {held} bytes and is read in {steps} allocations");
    drop(fold);
}

#[test]
fn an_edit_costs_the_same_among_many_files() {
    let begun = Instant::now();
    let edit = |files: usize| {
        let (mut fold, _) = read(files, begun);
        let mut edit = |weight: u32| {
            let changes = vec![file(files / 2, weight)];
            let before = fold.work();
            let mut events = Vec::new();
            let cost = measure(|| events = fold.update(begun + Duration::from_secs(1), changes));
            fold.touched();
            assert!(matches!(&events[..], [Event::Apply(_)]), "{events:?}");
            assert_eq!((fold.work().parsed - before.parsed, fold.work().keys - before.keys), (1, OBJECTS));
            cost.count_total
        };
        edit(80);
        edit(70)
    };
    let (few, many) = (edit(50), edit(5_000));
    assert_eq!(few, many);
}
