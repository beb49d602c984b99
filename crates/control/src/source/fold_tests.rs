//! Saves over time as data: at a time in milliseconds files get contents, and these events come of it.

use super::*;

const ZERO: Duration = Duration::ZERO;

fn account(name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n")
}

fn labelled(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, labels: {{a: {label}}}}}\n")
}

fn policy(name: &str, action: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: x}}}}\n  action: {action}\n"
    )
}

fn join(documents: &[String]) -> String {
    documents.join("---\n")
}

fn show(event: &Event) -> String {
    match event {
        Event::Init => "init".to_owned(),
        Event::InitDone => "done".to_owned(),
        Event::Apply(object) => format!("+ {} {}", object.key(), object.meta().origin),
        Event::Delete(key) => format!("- {key}"),
        Event::Closed(closed) => format!("closed {} {:?}", closed.key, closed.selector.as_ref().map(|s| s.labels.len())),
        Event::Refused(refused) => {
            let kept = if refused.kept { "kept" } else { "none" };
            let problems: Vec<_> = refused.problems.iter().map(ToString::to_string).collect();
            format!("! {kept} {}", problems.join("; "))
        }
        Event::Mended(fault) => match &fault.key {
            Some(key) => format!("mended {} {key}", fault.file),
            None => format!("mended {} #{}", fault.file, fault.document),
        },
        Event::Warnings(file, list) => format!("warnings {file} {}", list.len()),
    }
}

/// One save: when, which files, what comes of it.
type Step<'a> = (u64, &'a [(&'a str, Option<String>)], &'a [&'a str]);

#[track_caller]
fn check(remembered: Vec<Arc<Object>>, steps: &[Step<'_>]) -> Fold {
    let start = Instant::now();
    let mut fold = Fold::new(Duration::from_millis(500), remembered.into_iter().map(Remembered::from).collect());
    for (number, (at, files, expected)) in steps.iter().enumerate() {
        let content = |text: &Option<String>| text.clone().map_or(Content::Gone, Content::Text);
        let changes = files.iter().map(|(name, text)| ((*name).into(), content(text))).collect();
        let events = fold.update(start + Duration::from_millis(*at), changes);
        let found: Vec<_> = events.iter().map(show).collect();
        assert_eq!(found, *expected, "step {number}");
    }
    fold
}

#[test]
fn start_change_delete() {
    let fold = check(
        vec![],
        &[
            (
                0,
                &[("b", Some(join(&[account("b"), account("c")]))), ("a", Some(account("a")))],
                &["init", "+ ServiceAccount default/a a:1", "+ ServiceAccount default/b b:1", "+ ServiceAccount default/c b:5", "done"],
            ),
            (100, &[("a", Some(account("a")))], &[]),
            (200, &[("a", Some(labelled("a", "x")))], &["+ ServiceAccount default/a a:1"]),
            // Only moved within its file.
            (300, &[("a", Some(format!("# comment\n{}", labelled("a", "x"))))], &["+ ServiceAccount default/a a:2"]),
            (400, &[("b", Some(account("b")))], &[]),
            (899, &[], &[]),
            (900, &[], &["- ServiceAccount default/c"]),
            (1000, &[("a", None)], &[]),
            (1500, &[], &["- ServiceAccount default/a"]),
        ],
    );
    assert_eq!(fold.due(), None);
    assert_eq!(fold.files.len(), 1);
}

#[test]
fn an_emptied_file_deletes_only_after_a_while() {
    check(
        vec![],
        &[
            (0, &[("a", Some(account("a")))], &["init", "+ ServiceAccount default/a a:1", "done"]),
            (100, &[("a", Some(String::new()))], &[]),
            (500, &[("a", Some("# still nothing\n".to_owned()))], &[]),
            (999, &[], &[]),
            (999, &[("a", Some(account("a")))], &[]),
            (2000, &[("a", None)], &[]),
            (2400, &[("a", Some(labelled("a", "new")))], &["+ ServiceAccount default/a a:1"]),
            (3000, &[("a", None)], &[]),
            (3500, &[], &["- ServiceAccount default/a"]),
        ],
    );
}

#[test]
fn what_is_of_another_kind_keeps_nothing() {
    let gateway = |group: &str, spec: &str| format!("apiVersion: {group}/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {spec}\n");
    let istio = gateway("networking.istio.io", "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}");
    let other = gateway("gateway.networking.k8s.io", "{gatewayClassName: istio}");
    let refused = |line: u32| format!("! none a:{line}: kind: Gateway.gateway.networking.k8s.io is not supported yet");
    check(
        vec![],
        &[
            (
                0,
                &[("a", Some(join(&[istio.clone(), account("x")])))],
                &["init", "+ ServiceAccount default/x a:6", "+ Gateway default/g a:1", "done"],
            ),
            (100, &[("a", Some(join(&[istio, other.clone()])))], &[&refused(7)]),
            (600, &[], &["- ServiceAccount default/x"]),
            // Another kind's object of the same name is another object.
            (700, &[("a", Some(other))], &["mended a #1", &refused(2)]),
            (1200, &[], &["- Gateway default/g"]),
            // What nobody can tell may be any.
            (1300, &[("a", Some(account("x")))], &["+ ServiceAccount default/x a:1", "mended a #0"]),
            (
                1400,
                &[("a", Some("kind: Gateway\nmetadata: {name: g}\n".to_owned()))],
                &["! kept a:1: apiVersion: is required: Gateway is a kind of networking.istio.io and of gateway.networking.k8s.io"],
            ),
            (9000, &[], &[]),
        ],
    );
}

#[test]
fn a_moved_object_is_not_deleted() {
    check(
        vec![],
        &[
            (0, &[("a", Some(account("a")))], &["init", "+ ServiceAccount default/a a:1", "done"]),
            // Renamed in one go, and by way of nothing.
            (100, &[("a", None), ("b", Some(account("a")))], &["+ ServiceAccount default/a b:1"]),
            (1000, &[("b", None)], &[]),
            (1300, &[("c", Some(account("a")))], &["+ ServiceAccount default/a c:1"]),
            (5000, &[], &[]),
            // Copied first, then removed where it was.
            (6000, &[("a", Some(account("a")))], &["! kept a:1: ServiceAccount default/a: metadata.name: is declared at c:1 already"]),
            (6100, &[("c", Some(String::new()))], &["+ ServiceAccount default/a a:1", "mended a ServiceAccount default/a"]),
            (9000, &[], &[]),
        ],
    );
}

#[test]
fn a_broken_object_keeps_its_last_good_version() {
    let broken = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, nam: b}\n".to_owned();
    let refused = "! kept a:3: ServiceAccount default/a: metadata.nam: unknown field, did you mean `name`?";
    check(
        vec![],
        &[
            (
                0,
                &[("a", Some(join(&[account("a"), account("b")])))],
                &["init", "+ ServiceAccount default/a a:1", "+ ServiceAccount default/b a:5", "done"],
            ),
            // The other object of the same save applies.
            (100, &[("a", Some(join(&[broken.clone(), labelled("b", "x")])))], &["+ ServiceAccount default/b a:5", refused]),
            (9000, &[("a", Some(join(&[broken.clone(), labelled("b", "x")])))], &[]),
            (9100, &[("a", Some(join(&[account("a"), labelled("b", "x")])))], &["mended a ServiceAccount default/a"]),
            // Broken, then given up.
            (9200, &[("a", Some(join(&[broken, labelled("b", "x")])))], &[refused]),
            (9300, &[("a", Some(labelled("b", "x")))], &["+ ServiceAccount default/b a:1", "mended a ServiceAccount default/a"]),
            (9800, &[], &["- ServiceAccount default/a"]),
        ],
    );
}

#[test]
fn a_document_that_cannot_be_told_keeps_the_objects_of_its_file() {
    check(
        vec![],
        &[
            (
                0,
                &[("a", Some(join(&[account("a"), account("b")]))), ("z", Some(account("z")))],
                &["init", "+ ServiceAccount default/a a:1", "+ ServiceAccount default/b a:5", "+ ServiceAccount default/z z:1", "done"],
            ),
            (
                100,
                &[("a", Some(join(&["x: [\n".to_owned(), account("b")])))],
                &["+ ServiceAccount default/b a:3", "! kept a:1: unclosed bracket '['"],
            ),
            (9000, &[], &[]),
            (9100, &[("a", Some(account("b")))], &["+ ServiceAccount default/b a:1", "mended a #0"]),
            (9600, &[], &["- ServiceAccount default/a"]),
            (9700, &[("y", Some("x: [\n".to_owned()))], &["! none y:1: unclosed bracket '['"]),
        ],
    );
}

#[test]
fn an_object_whose_namespace_becomes_impossible_stays() {
    let deny = |namespace: &str| {
        format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{}}\n")
    };
    check(
        vec![],
        &[
            (0, &[("p", Some(deny("app")))], &["init", "+ AuthorizationPolicy app/p p:1", "done"]),
            (
                100,
                &[("p", Some(deny("App")))],
                &[
                    "closed AuthorizationPolicy App/p#0 None",
                    "! kept p:3: metadata.namespace: `App` is not a valid name: 1 to 63 lower-case letters, digits and inner hyphens",
                ],
            ),
            (9000, &[], &[]),
        ],
    );
}

#[test]
fn unreadable_files_keep_what_they_had() {
    let mut fold = check(vec![], &[(0, &[("a", Some(account("a")))], &["init", "+ ServiceAccount default/a a:1", "done"])]);
    let later = Instant::now() + Duration::from_secs(60);
    let events = fold.update(later, vec![("a".into(), Content::Unreadable("cannot be read: no".to_owned(), String::new()))]);
    assert_eq!(events.iter().map(show).collect::<Vec<_>>(), ["! kept a: cannot be read: no"]);
    assert_eq!(fold.objects().count(), 1);
}

#[test]
fn policies_in_files_that_are_no_text_close() {
    let mut fold = check(
        vec![],
        &[(
            0,
            &[("a", Some(account("a"))), ("p", Some(policy("p", "ALLOW")))],
            &["init", "+ ServiceAccount default/a a:1", "+ AuthorizationPolicy default/p p:1", "done"],
        )],
    );
    let text = format!("{}---\n{}---\n{}", account("x"), policy("p", "ALLOW"), policy("new", "DENY"));
    let later = Instant::now() + Duration::from_secs(60);
    let events = fold.update(later, vec![("p".into(), Content::Unreadable("is no text".to_owned(), text))]);
    let line =
        |name: &str, line: u32, kept: &str| format!("! {kept} p:{line}: AuthorizationPolicy default/{name}: is in a file that is not read");
    let mut shown: Vec<_> = events.iter().map(show).collect();
    shown.sort();
    let mut expected = vec![
        "! none p: is no text".to_owned(),
        line("new", 12, "none"),
        line("p", 5, "kept"),
        "closed AuthorizationPolicy default/new None".to_owned(),
    ];
    expected.sort();
    assert_eq!(shown, expected);
    assert_eq!(fold.objects().count(), 2, "what was in force stays");
}

#[test]
fn duplicates() {
    check(
        vec![],
        &[
            (
                0,
                &[("b", Some(account("a"))), ("a", Some(join(&[labelled("a", "x"), account("a")])))],
                &[
                    "init",
                    "+ ServiceAccount default/a a:1",
                    "! kept a:5: ServiceAccount default/a: metadata.name: is declared at a:1 already",
                    "! kept b:1: ServiceAccount default/a: metadata.name: is declared at a:1 already",
                    "done",
                ],
            ),
            (
                100,
                &[("a", Some(String::new()))],
                &["+ ServiceAccount default/a b:1", "mended a ServiceAccount default/a", "mended b ServiceAccount default/a"],
            ),
        ],
    );
}

#[test]
fn a_duplicate_has_its_own_problems_too() {
    let taken = "p:6: AuthorizationPolicy default/p: metadata.name: is declared at o:1 already";
    let audit = "p:6: AuthorizationPolicy default/p: spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is `NONE`";
    check(
        vec![],
        &[(
            0,
            &[("o", Some(policy("p", "ALLOW"))), ("p", Some(policy("p", "NONE")))],
            &["init", "+ AuthorizationPolicy default/p o:1", &format!("! kept {taken}; {audit}"), "done"],
        )],
    );
}

#[test]
fn a_refused_policy_closes_unless_there_is_a_good_version() {
    let audit = "spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is `NONE`";
    check(
        vec![],
        &[
            (
                0,
                &[("p", Some(policy("p", "NONE")))],
                &[
                    "init",
                    "closed AuthorizationPolicy default/p Some(1)",
                    &format!("! none p:6: AuthorizationPolicy default/p: {audit}"),
                    "done",
                ],
            ),
            (
                100,
                &[("p", Some("kind: AuthorizationPolicy\nmetadata:\n  name: p\nspec: [\n".to_owned()))],
                &["closed AuthorizationPolicy default/p None", "! none p:4: AuthorizationPolicy default/p: unclosed bracket '['"],
            ),
            // Mended: the good version ends it.
            (200, &[("p", Some(policy("p", "ALLOW")))], &["+ AuthorizationPolicy default/p p:1", "mended p AuthorizationPolicy default/p"]),
            (300, &[("p", Some(policy("p", "NONE")))], &[&format!("! kept p:6: AuthorizationPolicy default/p: {audit}")]),
            // Another one, and it vanishes: open again after a while.
            (
                400,
                &[("q", Some(policy("q", "NONE")))],
                &["closed AuthorizationPolicy default/q Some(1)", &format!("! none q:6: AuthorizationPolicy default/q: {audit}")],
            ),
            (500, &[("q", None)], &["mended q AuthorizationPolicy default/q"]),
            (999, &[], &[]),
            (1000, &[], &["- AuthorizationPolicy default/q"]),
            // One without a name.
            (
                2000,
                &[("r", Some("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop}\n".to_owned()))],
                &["closed AuthorizationPolicy shop/r#0 None", "! none r:3: metadata.name: is required"],
            ),
            (2100, &[("r", Some(String::new()))], &["mended r #0"]),
            (2600, &[], &["- AuthorizationPolicy shop/r#0"]),
        ],
    );
}

#[test]
fn pods_are_deleted_at_once() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n".to_owned();
    check(vec![], &[(0, &[("a", Some(pod))], &["init", "+ Pod default/a a:1", "done"]), (10, &[("a", None)], &["- Pod default/a"])]);
}

#[test]
fn what_was_accepted_is_remembered() {
    let remembered = || {
        let mut earlier = Fold::new(ZERO, vec![]);
        let text = join(&[policy("p", "ALLOW"), account("a")]);
        let files = vec![
            ("p".into(), Content::Text(text)),
            ("gone".into(), Content::Text(account("g"))),
            ("s".into(), Content::Text(account("s"))),
        ];
        earlier.update(Instant::now(), files);
        earlier.objects().cloned().collect::<Vec<_>>()
    };
    check(
        remembered(),
        &[
            (
                0,
                &[("p", Some(policy("p", "NONE"))), ("s", Some(account("s")))],
                &[
                    "init",
                    "+ ServiceAccount default/s s:1",
                    // What no file names any more is waited for, as ever.
                    "+ ServiceAccount default/a p:8",
                    "+ ServiceAccount default/g gone:1",
                    "+ AuthorizationPolicy default/p p:1",
                    "! kept p:6: AuthorizationPolicy default/p: spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is `NONE`",
                    "done",
                ],
            ),
            (500, &[], &["- ServiceAccount default/a", "- ServiceAccount default/g"]),
        ],
    );
}

/// Some document: one in two is good.
fn document(state: &mut u64) -> String {
    let name = ["a", "b", "c", "d"][next(state, 4)];
    match next(state, 8) {
        0 => "x: [\n".to_owned(),
        1 => policy(name, "NONE"),
        2 => policy(name, "DENY"),
        3 => "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {labels: {a: b}}\n".to_owned(),
        4 => format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, nam: b}}\n"),
        5 => account(name),
        _ => labelled(name, ["x", "y"][next(state, 2)]),
    }
}

/// Some of three files, each with some documents.
fn folder(state: &mut u64) -> Vec<(Arc<str>, Content)> {
    let mut files = Vec::new();
    for name in ["f", "g", "h"] {
        if next(state, 4) > 0 {
            let documents: Vec<String> = (0..next(state, 4)).map(|_| document(state)).collect();
            files.push((name.into(), Content::Text(join(&documents))));
        }
    }
    files
}

#[test]
fn what_is_not_read_of_an_earlier_run_makes_no_difference() {
    let begun = Instant::now();
    let (mut read, mut there) = (0, 0);
    for seed in 0..1000 {
        let mut state = seed;
        let mut earlier = Fold::new(ZERO, vec![]);
        earlier.update(begun, folder(&mut state));
        let files = if next(&mut state, 4) == 0 { folder(&mut seed.clone()) } else { folder(&mut state) };
        let remembered: Vec<Remembered> = earlier.objects().cloned().map(Remembered::from).collect();
        there += remembered.len();
        let mut fold = Fold::new(Duration::from_millis(500), remembered.clone());
        // The same with all of it in force from the beginning.
        let mut eager = Fold::new(Duration::from_millis(500), vec![]);
        for Remembered { key, file, .. } in &remembered {
            let object = earlier.objects().find(|object| object.key() == *key).unwrap().clone();
            eager.entries.insert(key.clone(), Entry { live: Some(Live { object, owner: file.clone(), sent: false }), ..Entry::default() });
        }
        for (number, (after, files)) in
            [(0, files), (499, vec![]), (501, vec![]), (600, folder(&mut state)), (2000, vec![])].into_iter().enumerate()
        {
            let now = begun + Duration::from_millis(after);
            assert_eq!(fold.update(now, files.clone()), eager.update(now, files), "seed {seed}, step {number}");
            assert_eq!(fold.objects().collect::<Vec<_>>(), eager.objects().collect::<Vec<_>>(), "seed {seed}, step {number}");
        }
        read += fold.work().recalled;
    }
    assert!(read * 4 < there * 3, "{read} of {there}");
}

#[test]
fn a_start_reads_of_an_earlier_run_what_the_files_do_not_have() {
    let begun = Instant::now();
    let files = |broken: usize| -> Vec<(Arc<str>, Content)> {
        let text = |n| if n < broken { "x: [".to_owned() } else { account(&format!("a{n}")) };
        (0..1000).map(|n| (format!("{n:04}").into(), Content::Text(text(n)))).collect()
    };
    let mut earlier = Fold::new(ZERO, vec![]);
    earlier.update(begun, files(0));
    for broken in [0, 3] {
        let mut fold = Fold::new(ZERO, earlier.objects().cloned().map(Remembered::from).collect());
        fold.update(begun, files(broken));
        assert_eq!(fold.work(), Work { parsed: 1000, keys: 1000, recalled: broken });
        assert_eq!((fold.objects().count(), fold.touched().len()), (1000, 1000));
    }
}

#[test]
fn what_only_a_cluster_acts_on() {
    let told = |text: &str| {
        let mut fold = Fold::new(Duration::ZERO, Vec::new());
        let events = fold.update(Instant::now(), vec![("a".into(), Content::Text(text.to_owned()))]);
        let warnings = events.into_iter().filter_map(|event| if let Event::Warnings(_, list) = event { Some(list) } else { None });
        warnings.flatten().map(|warning| warning.to_string()).collect::<Vec<_>>()
    };
    let proxy =
        "\napiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {name: p, namespace: shop}\nspec: {concurrency: 1}\n";
    assert_eq!(told(proxy), ["a:2: ProxyConfig shop/p: is not acted on: it is for proxies that are put into pods of a Kubernetes cluster"]);
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    discoverySelectors: [{}]\n";
    assert_eq!(
        told(mesh),
        ["a:6: MeshConfig istio-system/istio: discoverySelectors: is not acted on: of files, all namespaces belong to the mesh"]
    );
    assert!(told("{apiVersion: v1, kind: Namespace, metadata: {name: a}}").is_empty());
}

#[test]
fn warnings_follow_their_file() {
    let service = |more: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 1}}]{more}}}\n");
    check(
        vec![],
        &[
            (0, &[("a", Some(service(", type: NodePort")))], &["init", "+ Service default/a a:1", "warnings a 1", "done"]),
            (10, &[("a", Some(service("")))], &["warnings a 0"]),
        ],
    );
}

#[test]
fn a_change_costs_what_it_changes() {
    let mut fold = Fold::new(Duration::from_millis(500), vec![]);
    let begun = Instant::now();
    let file = |n: usize, text: String| (format!("{n:05}").into(), Content::Text(text));
    fold.update(begun, (0..10_000).map(|n| file(n, account(&format!("a{n}")))).collect());
    assert_eq!(fold.work(), Work { parsed: 10_000, keys: 10_000, recalled: 0 });
    let mut cost = |at: u64, changes: Vec<(Arc<str>, Content)>| {
        let before = fold.work();
        let events = fold.update(begun + Duration::from_millis(at), changes).len();
        (events, fold.work().parsed - before.parsed, fold.work().keys - before.keys)
    };
    assert_eq!(cost(1, vec![file(5, labelled("a5", "x"))]), (1, 1, 1));
    assert_eq!(cost(2, vec![file(6, join(&[account("a6"), account("a7")]))]), (1, 1, 2), "a duplicate");
    assert_eq!(cost(3, vec![file(8, "x: [".to_owned())]), (1, 1, 1));
    assert_eq!(cost(4, vec![]), (0, 0, 0));
    // What is gone is looked at until it is deleted, and then no more.
    assert_eq!(cost(5, vec![("00009".into(), Content::Gone)]), (0, 0, 1));
    assert_eq!(cost(400, vec![]), (0, 0, 1));
    assert_eq!(cost(505, vec![]), (1, 0, 1));
    assert_eq!(cost(506, vec![]), (0, 0, 0));
}

/// The next of a row of numbers that look random.
fn next(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % below
}

#[test]
fn looking_at_everything_shows_no_more_than_looking_at_what_has_changed() {
    for seed in 0..200 {
        let mut state = seed;
        let mut fold = Fold::new(Duration::from_millis(500), vec![]);
        let (mut now, mut told, mut refused) = (Instant::now(), BTreeMap::new(), BTreeMap::new());
        for step in 0..30 {
            now += Duration::from_millis(next(&mut state, 300) as u64);
            let mut changes: Vec<(Arc<str>, Content)> = Vec::new();
            for _ in 0..next(&mut state, 3) {
                let file = ["f", "g", "h"][next(&mut state, 3)].into();
                let documents: Vec<String> = (0..next(&mut state, 4)).map(|_| document(&mut state)).collect();
                let gone = documents.is_empty() && next(&mut state, 2) == 0;
                changes.push((file, if gone { Content::Gone } else { Content::Text(join(&documents)) }));
            }
            for event in fold.update(now, changes) {
                match event {
                    Event::Apply(object) => drop(told.insert(object.key(), Some(object))),
                    Event::Closed(closed) => drop(told.insert(closed.key, None)),
                    Event::Delete(key) => assert!(told.remove(&key).is_some(), "seed {seed}, step {step}: {key} was not there"),
                    Event::Refused(fault) => drop(refused.insert(fault.fault.clone(), fault)),
                    Event::Mended(fault) => assert!(refused.remove(&fault).is_some(), "seed {seed}, step {step}: {fault:?} was in order"),
                    _ => {}
                }
            }
            let round =
                Round { keys: fold.entries.keys().cloned().collect(), files: fold.files.keys().cloned().collect(), ..Round::default() };
            let more: Vec<_> = fold.settle(now, round).iter().map(show).collect();
            assert!(more.is_empty(), "seed {seed}, step {step}: {more:?}");
            // What was told is what there is.
            let objects: Vec<_> = told.values().flatten().cloned().collect();
            assert_eq!(fold.objects().cloned().collect::<Vec<_>>(), objects, "seed {seed}, step {step}");
            assert_eq!(fold.faults, refused, "seed {seed}, step {step}");
            let closed: Vec<_> = fold.entries.iter().filter(|(_, entry)| entry.closed.is_some()).map(|(key, _)| key).collect();
            assert_eq!(
                closed,
                told.iter().filter(|(_, now)| now.is_none()).map(|(key, _)| key).collect::<Vec<_>>(),
                "seed {seed}, step {step}"
            );
        }
        // At rest nothing is looked at that nobody claims.
        let events = fold.update(now + Duration::from_secs(10), vec![]);
        assert!(fold.unclaimed.is_empty() && fold.due().is_none(), "seed {seed}: {events:?}");
    }
}
