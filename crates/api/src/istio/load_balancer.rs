//! How an endpoint of a service is chosen.

use std::time::Duration;

use super::{LocalityLbSetting, header_name};
use crate::read::{At, Fields, quoted};

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancer {
    /// Which of the endpoints that come into question.
    pub policy: LbPolicy,
    /// Which endpoints come into question, by where they run; none: as the service or the mesh says.
    pub locality: Option<LocalityLbSetting>,
    /// How new endpoints are led up to their share. For [`SimpleLb::LeastRequest`] and [`SimpleLb::RoundRobin`].
    pub warmup: Option<Warmup>,
}

/// Which endpoint is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    /// By itself, whatever the request.
    Simple(SimpleLb),
    /// Always the same for the same key.
    Hash(ConsistentHash),
}

/// Which endpoint is taken, whatever the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SimpleLb {
    /// The one with the fewest requests of two at random; Istio's default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The address that the caller asked for.
    Passthrough,
}

impl Default for LbPolicy {
    fn default() -> Self {
        LbPolicy::Simple(SimpleLb::default())
    }
}

/// An endpoint by a key of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// The key. Without one, endpoints are taken at random.
    pub key: Option<HashKey>,
    /// How keys lead to endpoints.
    pub table: HashTable,
}

/// What of a request is the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header; its name is lower case.
    Header(String),
    /// A cookie, which is made if it is missing.
    Cookie(HashCookie),
    /// The caller's address.
    SourceIp,
    /// A parameter of the query.
    QueryParameter(String),
}

/// A cookie that is a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// The path for which it holds, if it is made here.
    pub path: String,
    /// How long it holds if it is made here; zero: as long as the client's session. None: it is not made.
    pub ttl: Option<Duration>,
    /// Further attributes with their values, such as `SameSite`; in their order.
    pub attributes: Vec<(String, String)>,
}

/// How keys lead to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    /// A ring with at least so many entries; none: the proxy's default, 1024.
    Ring(Option<u64>),
    /// Maglev's table with so many entries, a prime; none: the proxy's default, 65537.
    Maglev(Option<u64>),
}

/// How new endpoints are led up to their share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// How long that takes.
    pub duration: Duration,
    /// What they begin with at least, in percent of their share; none: the proxy's default, 10.
    pub minimum_percent: Option<f64>,
    /// How the share grows: linearly with 1 (the default), at first slower with more.
    pub aggression: Option<f64>,
}

/// The largest ring that a proxy takes.
pub(crate) const MAX_RING: i64 = 8 << 20;
/// The largest of Maglev's tables that a proxy takes.
pub(crate) const MAX_MAGLEV: i64 = 5_000_011;

pub(crate) const LB_POLICIES: &[(&str, i64, Option<SimpleLb>); 6] = &[
    ("UNSPECIFIED", 0, Some(SimpleLb::LeastRequest)),
    ("LEAST_CONN", 1, Some(SimpleLb::LeastRequest)),
    ("RANDOM", 2, Some(SimpleLb::Random)),
    ("PASSTHROUGH", 3, Some(SimpleLb::Passthrough)),
    ("ROUND_ROBIN", 4, Some(SimpleLb::RoundRobin)),
    ("LEAST_REQUEST", 5, Some(SimpleLb::LeastRequest)),
];

impl LoadBalancer {
    pub(crate) fn read(f: &Fields<'_>) -> LoadBalancer {
        let policy = match f.one_of(&["simple", "consistentHash"]) {
            Some(("simple", at)) => LbPolicy::Simple(at.choice(LB_POLICIES).unwrap_or_default()),
            Some((_, at)) => LbPolicy::Hash(at.fields(ConsistentHash::read)),
            None => LbPolicy::default(),
        };
        let old = f.duration("warmupDurationSecs").map(|duration| Warmup { duration, minimum_percent: None, aggression: None });
        let warmup = f.opt_sub("warmup", Warmup::read);
        if old.is_some() && warmup.is_some() {
            f.slot("warmupDurationSecs").fail("excludes `warmup`, which takes its place");
        }
        let warms_up = matches!(policy, LbPolicy::Simple(SimpleLb::LeastRequest | SimpleLb::RoundRobin));
        for name in ["warmup", "warmupDurationSecs"].into_iter().filter(|name| !warms_up && f.written(name)) {
            f.slot(name).warn("has an effect only with LEAST_REQUEST and ROUND_ROBIN");
        }
        LoadBalancer {
            locality: f.opt_sub("localityLbSetting", LocalityLbSetting::read),
            warmup: warmup.or(old).filter(|_| warms_up),
            policy,
        }
    }
}

impl Warmup {
    fn read(f: &Fields<'_>) -> Warmup {
        Warmup {
            duration: f.need("duration").map(|at| at.duration()).unwrap_or_default(),
            minimum_percent: Some(f.get("minimumPercent").map_or(10.0, |at| at.number())),
            aggression: Some(f.get("aggression").map_or(1.0, |at| at.number())),
        }
    }
}

impl ConsistentHash {
    fn read(f: &Fields<'_>) -> ConsistentHash {
        let key = match f.one_of(&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"]) {
            Some(("httpHeaderName", at)) => Some(HashKey::Header(header_name(&at, &at.text()))),
            Some(("httpCookie", at)) => Some(HashKey::Cookie(at.fields(HashCookie::read))),
            Some(("useSourceIp", at)) => at.flag().then_some(HashKey::SourceIp),
            Some((_, at)) => Some(HashKey::QueryParameter(at.word())),
            None => None,
        };
        if key.is_none() {
            f.at.warn("has no key, so that endpoints are taken at random: write httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName");
        }
        let minimum = |f: &Fields<'_>| f.get("minimumRingSize").map(|at| at.size()).filter(|size| *size > 0);
        let old = minimum(f);
        let table = match f.one_of(&["ringHash", "maglev"]) {
            Some(("ringHash", at)) => HashTable::Ring(at.fields(minimum)),
            Some((_, at)) => HashTable::Maglev(at.fields(|f| f.get("tableSize").and_then(|at| prime(&at)))),
            None => HashTable::Ring(Some(old.unwrap_or(1024))),
        };
        if old.is_some() && (f.written("ringHash") || f.written("maglev")) {
            f.slot("minimumRingSize").warn("has no effect beside ringHash and maglev");
        }
        ConsistentHash { key, table }
    }
}

/// The size of a table of Maglev's; 0 is the default.
fn prime(at: &At<'_>) -> Option<u64> {
    let size = at.size();
    let divisible = (2..=size.isqrt()).any(|by| size.is_multiple_of(by));
    if size == 1 || divisible {
        at.fail(format!("must be a prime number, is {size}"));
    }
    (size > 0).then_some(size)
}

impl HashCookie {
    fn read(f: &Fields<'_>) -> HashCookie {
        let name = f.need("name").map(|at| cookie_name(&at)).unwrap_or_default();
        let attribute = |f: &Fields<'_>| {
            let name = f.need("name").map(|at| cookie_name(&at)).unwrap_or_default();
            (name, f.get("value").map(|at| cookie_text(&at)).unwrap_or_default())
        };
        HashCookie {
            name,
            path: f.get("path").map(|at| cookie_text(&at)).unwrap_or_default(),
            ttl: f.get("ttl").map(|at| at.duration()),
            attributes: f.list("attributes").iter().map(|at| at.fields(attribute)).collect(),
        }
    }
}

/// A token, as RFC 6265 has names.
fn cookie_name(at: &At<'_>) -> String {
    let name = at.word();
    if !name.is_empty() && !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        at.fail(format!("{} is no name of a cookie or of its attribute", quoted(&name)));
    }
    name
}

/// What may stand in an attribute: no control character and no semicolon, which would begin another one.
fn cookie_text(at: &At<'_>) -> String {
    let text = at.text();
    if text.bytes().any(|b| b == b';' || !(b' '..=b'~').contains(&b)) {
        at.fail(format!("{} cannot stand in a cookie's attribute", quoted(&text)));
    }
    text
}
