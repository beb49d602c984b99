//! Which of many policies can match at all, by the exact values that they ask for.
//!
//! Most policies name a path, a principal or a namespace. Such a policy is looked at only where one of its values is there, so that what a decision costs
//! does not grow with the number of policies. An index never says that a policy matches: that is for its conditions.

use std::collections::HashMap;

use super::{Expr, HeaderMatch, HeaderTest, Policy, Regex, StringMatch, StringTest};

/// Fewer policies are looked at one after the other.
const LEAST: usize = 8;

/// A value without which a policy does not match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The request's path, in its one spelling.
    Path(Box<str>),
    /// The request's host, lower case.
    Host(Box<str>),
    /// A name of the verified peer.
    Principal(Box<str>),
    /// The namespace in a name of the verified peer.
    Namespace(Box<str>),
    /// The connection's port.
    Port(u16),
}

/// Policies by a value; each list in the order of the policies.
type Bucket<K> = HashMap<K, Box<[u32]>>;

/// Policies by what they need.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RbacIndex {
    /// Those that nothing is known of.
    pub(crate) others: Box<[u32]>,
    pub(crate) paths: Bucket<Box<str>>,
    pub(crate) hosts: Bucket<Box<str>>,
    pub(crate) principals: Bucket<Box<str>>,
    pub(crate) namespaces: Bucket<Box<str>>,
    pub(crate) ports: Bucket<u16>,
}

impl RbacIndex {
    pub(crate) fn of(policies: &[Policy]) -> RbacIndex {
        let mut index = RbacIndex::default();
        if policies.len() < LEAST {
            index.others = (0..).take(policies.len()).collect();
            return index;
        }
        let choices: Vec<Vec<Vec<Key>>> = policies.iter().map(choices).collect();
        // A value that many share helps little.
        let mut shared: HashMap<&Key, usize> = HashMap::new();
        choices.iter().flatten().flatten().for_each(|key| *shared.entry(key).or_default() += 1);
        let cost = |keys: &&Vec<Key>| keys.iter().map(|key| shared.get(key).copied().unwrap_or_default()).max().unwrap_or_default();
        let (mut others, mut found): (Vec<u32>, HashMap<&Key, Vec<u32>>) = Default::default();
        for (at, choices) in (0u32..).zip(&choices) {
            match choices.iter().min_by_key(cost) {
                None => others.push(at),
                Some(keys) => {
                    for key in keys {
                        let bucket = found.entry(key).or_default();
                        // The same value twice in one policy.
                        if bucket.last() != Some(&at) {
                            bucket.push(at);
                        }
                    }
                }
            }
        }
        for (key, bucket) in found {
            let bucket: Box<[u32]> = bucket.into();
            match key.clone() {
                Key::Path(text) => drop(index.paths.insert(text, bucket)),
                Key::Host(text) => drop(index.hosts.insert(text, bucket)),
                Key::Principal(text) => drop(index.principals.insert(text, bucket)),
                Key::Namespace(text) => drop(index.namespaces.insert(text, bucket)),
                Key::Port(port) => drop(index.ports.insert(port, bucket)),
            }
        }
        index.others = others.into();
        index
    }
}

/// Sets of values of a policy, of each of which one must be there if it is to match. A set is empty if it never matches.
fn choices(policy: &Policy) -> Vec<Vec<Key>> {
    [&policy.permissions, &policy.principals].into_iter().flat_map(|list| one_of(list)).collect()
}

/// The sets of a condition; none: it may hold whatever is there.
fn of_expr(expr: &Expr) -> Vec<Vec<Key>> {
    let one = |key: Option<Key>| key.map(|key| vec![key]).into_iter().collect();
    match expr {
        Expr::And(list) => list.iter().flat_map(of_expr).collect(),
        Expr::Or(list) => one_of(list),
        Expr::UrlPath(m) => one(exact(m).map(|path| Key::Path(path.into()))),
        Expr::Header(m) => one(host(m)),
        Expr::DestinationPort(ports) if ports.start() == ports.end() => one(Some(Key::Port(*ports.start()))),
        Expr::Authenticated(Some(m)) | Expr::PeerPrincipal(m) => one(match &m.test {
            StringTest::Regex(regex) => namespace(regex).map(|name| Key::Namespace(name.into())),
            _ => exact(m).map(|name| Key::Principal(name.into())),
        }),
        _ => Vec::new(),
    }
}

/// Of alternatives one must hold: of each the smallest set, all together. One that may hold anyway makes it useless.
fn one_of(list: &[Expr]) -> Vec<Vec<Key>> {
    let mut all = Vec::new();
    for expr in list {
        match of_expr(expr).into_iter().min_by_key(Vec::len) {
            Some(keys) => all.extend(keys),
            None => return Vec::new(),
        }
    }
    vec![all]
}

fn exact(m: &StringMatch) -> Option<&str> {
    match &m.test {
        StringTest::Exact(text) if !m.ignore_case => Some(text),
        _ => None,
    }
}

fn host(m: &HeaderMatch) -> Option<Key> {
    let HeaderMatch { name, test: HeaderTest::Text(StringMatch { test: StringTest::Exact(text), .. }), invert: false, .. } = m else {
        return None;
    };
    // An absent header counts as an empty text if that is asked for.
    (&**name == ":authority" && !text.is_empty()).then(|| Key::Host(text.to_ascii_lowercase().into()))
}

/// The namespace that Istio's expression for one asks for: `.*/ns/NAME/.*`.
fn namespace(regex: &Regex) -> Option<String> {
    let middle = regex.source().strip_prefix(".*/ns/")?.strip_suffix("/.*")?;
    let mut name = String::with_capacity(middle.len());
    let mut chars = middle.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => name.push(chars.next().filter(char::is_ascii_punctuation)?),
            c if c.is_ascii_alphanumeric() || c == '-' || c == '_' => name.push(c),
            _ => return None,
        }
    }
    (!name.is_empty() && !name.contains('/')).then_some(name)
}
