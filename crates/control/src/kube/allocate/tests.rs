use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::kube::istio::read;

/// A server of objects, as far as the book is concerned: each has a version, and a status that is written over it.
struct World {
    book: Book,
    objects: BTreeMap<String, Value>,
    versions: u64,
}

const RANGES: (&str, &str) = ("240.240.0.0/16", "2001:2::/48");

fn name_of(name: &str) -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: name.into() }
}

impl World {
    fn new((v4, v6): (&str, &str)) -> World {
        let mut book = Book::new(&AutoAllocate::new(true, v4, v6).unwrap());
        book.begin();
        book.complete();
        World { book, objects: BTreeMap::new(), versions: 0 }
    }

    /// Another control plane, which lists what there is.
    fn again(&mut self, (v4, v6): (&str, &str)) {
        self.book = Book::new(&AutoAllocate::new(true, v4, v6).unwrap());
        self.book.begin();
        let names: Vec<String> = self.objects.keys().cloned().collect();
        names.iter().for_each(|name| self.read(name));
        assert_eq!(self.book.next(), None, "nothing is free before all is known");
        self.book.complete();
    }

    fn read(&mut self, name: &str) {
        let mut object: DynamicObject = serde_json::from_value(self.objects[name].clone()).unwrap();
        let reading = read(Kind::ServiceEntry, &mut object);
        self.book.put(name_of(name), entry(&object, &reading));
    }

    /// An object is written: made in this second, if it is new.
    fn put(&mut self, name: &str, second: u32, labels: Value, spec: Value) {
        self.versions += 1;
        let status = self.objects.get(name).map(|object| object["status"].clone());
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {
                "name": name, "namespace": "shop", "labels": labels, "resourceVersion": self.versions.to_string(),
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
            },
            "spec": spec, "status": status,
        });
        self.objects.insert(name.to_owned(), object);
        self.read(name);
    }

    /// Somebody writes what was allocated.
    fn say(&mut self, name: &str, addresses: Value) {
        self.versions += 1;
        let object = self.objects.get_mut(name).unwrap();
        object["metadata"]["resourceVersion"] = json!(self.versions.to_string());
        if object["status"].is_null() {
            object["status"] = json!({});
        }
        object["status"]["addresses"] = addresses;
        self.read(name);
    }

    fn delete(&mut self, name: &str) {
        self.objects.remove(name);
        self.book.remove(&name_of(name));
    }

    /// Writes what is due until nothing is; says how often.
    fn settle(&mut self) -> usize {
        let mut written = 0;
        while let Some(plan) = self.book.next() {
            let (patch, name) = (plan.patch(), plan.entry.name.to_string());
            let object = &self.objects[&name];
            assert_eq!(patch["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"], "{name}");
            self.say(&name, patch["status"]["addresses"].clone());
            written += 1;
            assert!(written < 100_000, "it never ends");
        }
        written
    }

    /// `host=address` of an entry.
    fn has(&self, name: &str) -> Vec<String> {
        let list = self.objects[name]["status"]["addresses"].as_array().cloned().unwrap_or_default();
        list.iter().map(|item| format!("{}={}", item["host"].as_str().unwrap(), item["value"].as_str().unwrap())).collect()
    }
}

fn dns(hosts: &[&str]) -> Value {
    json!({ "hosts": hosts, "ports": [{ "number": 5432, "name": "tcp", "protocol": "TCP" }], "resolution": "DNS" })
}

fn with(spec: Value, field: &str, value: Value) -> Value {
    let mut spec = spec;
    spec[field] = value;
    spec
}

/// Who gets addresses, and of which hosts: each has one of each family.
#[test]
fn who_gets_addresses() {
    let check = |labels: Value, spec: Value, hosts: &[&str]| {
        let mut world = World::new(RANGES);
        world.put("a", 0, labels.clone(), spec.clone());
        assert_eq!(world.settle(), usize::from(!hosts.is_empty()), "{labels} {spec}");
        let has = world.has("a");
        let expected: Vec<String> = hosts.iter().flat_map(|host| [format!("{host}=240.240."), format!("{host}=2001:2:")]).collect();
        assert_eq!(has.len(), expected.len(), "{has:?} {spec}");
        assert!(has.iter().zip(&expected).all(|(found, start)| found.starts_with(start)), "{has:?} {spec}");
        assert_eq!(world.settle(), 0);
    };
    let label = |value: &str| json!({ "networking.istio.io/enable-autoallocate-ip": value });
    let one = || dns(&["db.example.com"]);
    check(json!({}), one(), &["db.example.com"]);
    check(json!({}), dns(&["b.example.com", "a.example.com", "b.example.com"]), &["b.example.com", "a.example.com"]);
    check(label("true"), one(), &["db.example.com"]);
    check(label("False"), one(), &[]);
    check(json!({}), with(one(), "addresses", json!(["192.0.2.7"])), &[]);
    check(json!({}), with(one(), "resolution", json!("NONE")), &[]);
    let fixed = json!([{ "address": "192.0.2.7" }]);
    check(json!({}), with(with(one(), "resolution", json!("STATIC")), "endpoints", fixed.clone()), &["db.example.com"]);
    check(json!({}), with(dns(&["*.example.com", "db.example.com"]), "endpoints", fixed), &["db.example.com"]);
    let web = json!([{ "number": 80, "name": "http", "protocol": "HTTP" }]);
    let named = with(with(dns(&["*.example.com"]), "resolution", json!("DYNAMIC_DNS")), "ports", web);
    check(json!({}), named, &["*.example.com"]);
    // What cannot be read gets none.
    check(json!({}), with(one(), "resolution", json!("SOON")), &[]);
}

/// What is said of addresses by hand, or by others, is put right.
#[test]
fn what_is_no_address_goes() {
    let check = |said: Value, expected: &[&str]| {
        let mut world = World::new(RANGES);
        world.put("a", 0, json!({}), dns(&["a.example.com"]));
        world.say("a", said.clone());
        world.settle();
        let has = world.has("a");
        assert!(
            expected.len() == has.len() && expected.iter().all(|start| has.iter().any(|found| found.starts_with(start))),
            "{said} {has:?}"
        );
    };
    let address = |host: &str, value: &str| json!({ "host": host, "value": value });
    let (v4, v6) = (address("a.example.com", "240.240.3.3"), address("a.example.com", "2001:2::3"));
    let (of_v4, of_v6) = ("a.example.com=240.240.3.3", "a.example.com=2001:2::3");
    let (any_v4, any_v6) = ("a.example.com=240.240.", "a.example.com=2001:2:");
    check(json!([v4.clone(), v6.clone()]), &[of_v4, of_v6]);
    check(json!([v6.clone(), v4.clone()]), &[of_v6, of_v4]);
    check(json!([v4.clone()]), &[of_v4, any_v6]);
    check(json!([v6.clone()]), &[any_v4, of_v6]);
    // Another control plane's, of other ranges, stays.
    check(json!([v4.clone(), address("a.example.com", "fd00::9")]), &[of_v4, "a.example.com=fd00::9"]);
    check(json!([v4.clone(), v6.clone(), address("b.example.com", "240.240.3.4")]), &[of_v4, of_v6]);
    check(json!([v4.clone(), v6.clone(), v4.clone()]), &[of_v4, of_v6]);
    check(json!([v4.clone(), v6.clone(), address("a.example.com", "soon")]), &[of_v4, of_v6]);
    check(json!([v4.clone(), v6.clone(), 7]), &[of_v4, of_v6]);
    for useless in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "169.254.169.254", "::1"] {
        check(json!([v4.clone(), v6.clone(), address("a.example.com", useless)]), &[of_v4, of_v6]);
    }
    check(json!("soon"), &[any_v4, any_v6]);
}

#[test]
fn the_oldest_keeps_an_address() {
    let both = |host: &str| json!([{ "host": host, "value": "240.240.3.3" }, { "host": host, "value": "2001:2::3" }]);
    let kept = |host: &str| vec![format!("{host}=240.240.3.3"), format!("{host}=2001:2::3")];
    // Whoever comes first, and whatever is listed first.
    for (first, second) in [("old", "young"), ("young", "old")] {
        let mut world = World::new(RANGES);
        for name in [first, second] {
            world.put(name, if name == "old" { 1 } else { 2 }, json!({}), dns(&["db.example.com"]));
            world.say(name, both("db.example.com"));
        }
        world.again(RANGES);
        assert_eq!(world.settle(), 1, "{first} first");
        assert_eq!(world.has("old"), kept("db.example.com"), "{first} first");
        let other = world.has("young");
        assert!(other.len() == 2 && other.iter().all(|address| !kept("db.example.com").contains(address)), "{other:?}");
    }
    // Two hosts of one entry; of one age the first by name.
    let mut world = World::new(RANGES);
    world.put("a", 1, json!({}), dns(&["b.example.com", "a.example.com"]));
    world.say("a", json!([both("a.example.com")[0], both("b.example.com")[0]]));
    world.settle();
    assert!(world.has("a").contains(&"a.example.com=240.240.3.3".to_owned()) && world.has("a").len() == 4, "{:?}", world.has("a"));
    assert!(!world.has("a").contains(&"b.example.com=240.240.3.3".to_owned()));
    world.put("b", 1, json!({}), dns(&["c.example.com"]));
    world.say("b", both("c.example.com"));
    world.settle();
    assert!(world.has("a").contains(&"a.example.com=240.240.3.3".to_owned()), "{:?}", world.has("a"));

    // An entry that names an address itself has it, however young it is; and keeps it.
    world.put("own", 9, json!({}), with(dns(&["own.example.com"]), "addresses", json!(["240.240.3.3"])));
    assert_eq!(world.settle(), 1);
    assert!(!world.has("a").contains(&"a.example.com=240.240.3.3".to_owned()) && world.has("a").len() == 4, "{:?}", world.has("a"));
    assert_eq!(world.has("own"), Vec::<String>::new());
}

#[test]
fn addresses_are_given_back() {
    let mut world = World::new(("240.240.0.0/30", "2001:2::/126"));
    let host = |name: &str| dns(&[&format!("{name}.example.com")]);
    ["a", "b"].iter().for_each(|name| world.put(name, 0, json!({}), host(name)));
    assert_eq!(world.settle(), 2);
    // Two of IPv4 there are, and three of IPv6.
    world.put("c", 0, json!({}), host("c"));
    world.settle();
    assert_eq!(world.has("c").len(), 1);
    assert_eq!(world.book.newly_empty(), ["240.240.0.0/30".parse::<IpRange>().unwrap()]);
    world.put("c", 0, json!({ "x": "y" }), host("c"));
    assert_eq!((world.settle(), world.book.newly_empty()), (0, vec![]), "it is told once");
    let of_a = world.has("a")[0].rsplit_once('=').unwrap().1.to_owned();
    for how in ["label", "own", "resolution", "gone"] {
        match how {
            "label" => world.put("a", 0, json!({ "networking.istio.io/enable-autoallocate-ip": "false" }), host("a")),
            "own" => world.put("a", 0, json!({}), with(host("a"), "addresses", json!(["192.0.2.1"]))),
            "resolution" => world.put("a", 0, json!({}), with(host("a"), "resolution", json!("NONE"))),
            _ => world.delete("a"),
        }
        world.settle();
        // Who waited has it.
        assert_eq!(world.has("c").first().map(String::as_str), Some(&*format!("c.example.com={of_a}")), "{how}");
        world.delete("c");
        world.put("a", 0, json!({}), host("a"));
        world.settle();
        assert!(world.has("a").iter().any(|address| address.ends_with(&format!("={of_a}"))), "{how} {:?}", world.has("a"));
        world.put("c", 0, json!({}), host("c"));
        world.settle();
        assert_eq!(world.has("c").len(), 1, "{how}");
    }
}

/// A host that comes gets addresses, one that goes gives its own back, and nobody else's change.
#[test]
fn hosts_come_and_go() {
    let mut world = World::new(RANGES);
    world.put("a", 0, json!({}), dns(&["a.example.com", "b.example.com"]));
    world.settle();
    let before = world.has("a");
    world.put("a", 0, json!({}), dns(&["c.example.com", "b.example.com"]));
    assert_eq!(world.settle(), 1);
    let after = world.has("a");
    assert_eq!((after.len(), &after[2..]), (4, &before[2..]));
    assert!(after[0].starts_with("c.example.com="), "{after:?}");
}

/// Another control plane finds what there is, and has nothing to write; so does one with other ranges.
#[test]
fn a_status_is_the_memory() {
    let mut world = World::new(RANGES);
    (0..50).for_each(|at| world.put(&format!("e{at}"), at % 7, json!({}), dns(&[&format!("h{at}.example.com")])));
    assert_eq!(world.settle(), 50);
    let before: Vec<_> = (0..50).map(|at| world.has(&format!("e{at}"))).collect();
    for ranges in [RANGES, ("10.200.0.0/16", "fd00:9::/64")] {
        world.again(ranges);
        assert_eq!(world.settle(), 0, "{ranges:?}");
    }
    assert_eq!(before, (0..50).map(|at| world.has(&format!("e{at}"))).collect::<Vec<_>>());
    // An entry that cannot be read keeps what it has, and so nobody else gets it.
    world.put("e0", 0, json!({}), with(dns(&["h0.example.com"]), "wrong", json!(true)));
    assert_eq!((world.settle(), world.has("e0")), (0, before[0].clone()));
    // One that was deleted and comes again has its old address.
    world.again(RANGES);
    world.delete("e1");
    world.put("e1", 9, json!({}), dns(&["h1.example.com"]));
    world.settle();
    assert_eq!(world.has("e1"), before[1]);
}

/// What was not written is planned anew, and what nobody writes is reserved for nobody.
#[test]
fn what_fails_is_due_again() {
    let mut world = World::new(RANGES);
    world.put("a", 0, json!({}), dns(&["a.example.com"]));
    let plan = world.book.next().unwrap();
    assert_eq!(world.book.next(), None, "it is under way");
    world.book.failed(&plan, true);
    assert_eq!(world.book.next().as_ref(), Some(&plan), "the same addresses, since they are free again");
    // It has changed, and comes by itself.
    world.book.failed(&plan, false);
    assert_eq!(world.book.next(), None);
    world.put("a", 0, json!({ "x": "y" }), dns(&["a.example.com"]));
    let newer = world.book.next().unwrap();
    assert_eq!((&newer.addresses, newer.version == plan.version), (&plan.addresses, false));
    // What is said of the older one concerns nobody.
    world.book.failed(&plan, true);
    assert_eq!(world.book.next(), None);
    // Who wrote leads no more, and whoever leads next begins anew.
    world.book.restart();
    assert_eq!(world.book.next(), Some(newer));
}

#[test]
fn a_patch_says_nothing_else() {
    let mut world = World::new(RANGES);
    world.put("a", 0, json!({}), dns(&["a.example.com"]));
    let patch = world.book.next().unwrap().patch();
    assert_eq!(patch["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["addresses"]);
    assert_eq!(patch["metadata"], json!({ "resourceVersion": "1" }));
    world.say("a", patch["status"]["addresses"].clone());
    world.put("a", 0, json!({}), with(dns(&["a.example.com"]), "resolution", json!("NONE")));
    assert_eq!(world.book.next().unwrap().patch()["status"], json!({ "addresses": null }));
}

/// An entry costs what it has itself: with ten thousand others as many looks as with few.
#[test]
fn many_entries() {
    let mut book = World::new(RANGES).book;
    let count = 10_000;
    let host = |at: usize| -> Hostname { format!("h{at}.example.com").parse().unwrap() };
    let entry = |at: usize, version: u32, has: Vec<HostAddress>| Entry {
        version: version.to_string(),
        hosts: Some(vec![host(at)]),
        has,
        ..Entry::default()
    };
    (0..count).for_each(|at| book.put(name_of(&format!("e{at}")), entry(at, 1, Vec::new())));
    let mut written = BTreeMap::new();
    while let Some(plan) = book.next() {
        let at = plan.entry.name[1..].parse().unwrap();
        book.put(plan.entry, entry(at, 2, plan.addresses.clone()));
        written.insert(at, plan.addresses);
    }
    assert_eq!(written.len(), count);
    let distinct: BTreeSet<IpAddr> = written.values().flatten().map(|(_, ip)| *ip).collect();
    assert_eq!(distinct.len(), 2 * count);
    assert!(book.looked_at < 3 * count, "{} looks for {count} entries", book.looked_at);

    // Another control plane reads all of them, and has nothing to do; what changes otherwise is no work, a new one is a few looks.
    let mut book = World::new(RANGES).book;
    book.begin();
    written.iter().for_each(|(at, has)| book.put(name_of(&format!("e{at}")), entry(*at, 2, has.clone())));
    book.complete();
    assert_eq!((book.next(), book.looked_at), (None, 0));
    written.iter().take(100).for_each(|(at, has)| book.put(name_of(&format!("e{at}")), entry(*at, 3, has.clone())));
    assert_eq!((book.next(), book.looked_at), (None, 0));
    book.put(name_of("new"), entry(count, 1, Vec::new()));
    assert_eq!(book.next().unwrap().addresses.len(), 2);
    assert!(book.looked_at < 100, "{}", book.looked_at);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8),
    Say(u8, u8, bool),
    Delete(u8),
    Again,
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8, 0..4_u8, 0..5_u8).prop_map(|(name, second, kind)| Step::Put(name, second, kind)),
        3 => (0..6_u8, 0..6_u8, any::<bool>()).prop_map(|(name, last, v4)| Step::Say(name, last, v4)),
        1 => (0..6_u8).prop_map(Step::Delete),
        1 => Just(Step::Again),
        2 => Just(Step::Settle),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    /// Whatever happens, in the end no address is two hosts', all that may have one do while there are any, nothing has what it should not, and another
    /// control plane has nothing to add.
    #[test]
    fn addresses_are_distinct(steps in steps(), small in any::<bool>()) {
        let ranges = if small { ("240.240.0.0/29", "2001:2::/125") } else { RANGES };
        let mut world = World::new(ranges);
        for step in steps {
            match step {
                Step::Put(name, second, kind) => {
                    let entry = format!("e{name}");
                    let hosts = [format!("h{name}.example.com"), format!("g{name}.example.com")];
                    let hosts: Vec<&str> = hosts.iter().take(1 + usize::from(kind % 2)).map(String::as_str).collect();
                    let spec = match kind {
                        2 => with(dns(&hosts), "addresses", json!([format!("240.240.0.{}", 1 + name)])),
                        3 => with(dns(&hosts), "resolution", json!("NONE")),
                        _ => dns(&hosts),
                    };
                    world.put(&entry, u32::from(second), json!({}), spec);
                }
                Step::Say(name, last, v4) if world.objects.contains_key(&format!("e{name}")) => {
                    let value = if v4 { format!("240.240.0.{last}") } else { format!("2001:2::{last}") };
                    world.say(&format!("e{name}"), json!([{ "host": format!("h{name}.example.com"), "value": value }]));
                }
                Step::Say(..) => {}
                Step::Delete(name) => world.delete(&format!("e{name}")),
                Step::Again => world.again(ranges),
                Step::Settle => { world.settle(); }
            }
        }
        world.settle();
        let all: Vec<String> = world.objects.keys().flat_map(|name| world.has(name)).collect();
        let own = |object: &Value| object["spec"]["addresses"].as_array().cloned().unwrap_or_default();
        let own: BTreeSet<String> = world.objects.values().flat_map(own).filter_map(|text| Some(text.as_str()?.to_owned())).collect();
        let mut seen = BTreeSet::new();
        for address in &all {
            let ip = address.rsplit_once('=').unwrap().1.to_owned();
            prop_assert!(!own.contains(&ip), "{address} is named by an entry");
            prop_assert!(seen.insert(ip), "{address} is there twice: {all:?}");
        }
        for (name, object) in &world.objects {
            let may = object["spec"]["resolution"] == "DNS" && object["spec"]["addresses"].is_null();
            let hosts = if may { object["spec"]["hosts"].as_array().unwrap().len() } else { 0 };
            let has = world.has(name).len();
            prop_assert!(has <= 2 * hosts && (small || has == 2 * hosts), "{name} has {:?}", world.has(name));
        }
        world.again(ranges);
        prop_assert_eq!(world.settle(), 0);
    }
}
