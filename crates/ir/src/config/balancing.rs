//! Which endpoint of a cluster is taken, and what a request is hashed by.

use std::sync::Arc;
use std::time::Duration;

use mizzen_types::Name;

use super::{ContentHash, RegexRewrite};

/// How a cluster balances.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancing {
    /// Which endpoint is taken, of those that may be.
    pub policy: LbPolicy,
    /// Below this share of healthy endpoints (percent), all are used; 0 turns that off. 50 by default.
    pub panic_threshold: u32,
    /// Whether nothing is served then instead.
    pub fail_on_panic: bool,
    /// Whether localities are chosen by their weights.
    pub locality_weighted: bool,
    /// Endpoints by their metadata.
    pub subsets: Option<Arc<Subsets>>,
    /// What is hashed, in place of what the route says; empty: the route says it.
    pub hash: Arc<[HashPolicy]>,
}

/// Which endpoint is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin {
        /// New endpoints begin slowly.
        slow_start: Option<SlowStart>,
    },
    /// The least busy of some taken at random; of endpoints with different weights, in turn by weight and load.
    LeastRequest {
        /// How many are looked at; none: all.
        choices: Option<u32>,
        /// How much requests in flight count against an endpoint's weight: its weight is divided by their number, plus one, to this power.
        bias: f64,
        /// New endpoints begin slowly.
        slow_start: Option<SlowStart>,
    },
    /// At random, whatever the weights.
    Random,
    /// By the request's hash, on a ring (ketama).
    RingHash {
        /// The least number of places on the ring: 1024 by default.
        min: u64,
        /// The most: 8 Mi by default.
        max: u64,
        /// Whether the places come from MurmurHash2 instead of xxHash.
        murmur: bool,
        /// What endpoints are hashed by.
        hashing: Hashing,
    },
    /// By the request's hash, in a table (Maglev).
    Maglev {
        /// The table's size, a prime: 65537 by default.
        size: u32,
        /// What endpoints are hashed by.
        hashing: Hashing,
    },
    /// The cluster's kind decides ([`super::Discovery::OriginalDst`]).
    Provided,
}

/// What hashing balancers do alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashing {
    /// Whether endpoints are hashed by their host name instead of their address.
    pub by_hostname: bool,
    /// The most requests in flight of an endpoint, in percent of the average (100 or more); 0: no limit.
    pub balance_factor: u32,
}

/// New endpoints get less than their share at first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// For how long.
    pub window: Duration,
    /// The weight is multiplied by (time passed ÷ window) to the power of 1 ÷ this; 1 by default: linearly.
    pub aggression: f64,
    /// But by no less than this: 0.1 by default.
    pub min_share: f64,
}

/// Groups of endpoints by their metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsets {
    /// For each of these, endpoints that are alike in its keys form a group.
    pub selectors: Arc<[SubsetSelector]>,
    /// Which endpoints serve a request that names no group.
    pub fallback: SubsetFallback,
    /// What the endpoints of [`SubsetFallback::Default`] have.
    pub default: Criteria,
    /// Whether a request that names more keys than any selector has goes by the first selector all of whose keys it names.
    pub redundant_keys: bool,
    /// Whether localities' weights count within groups.
    pub locality_weights: bool,
    /// And are multiplied there by the share of their endpoints that is in the group.
    pub scaled_weights: bool,
    /// Whether all endpoints serve where the fallback finds none.
    pub panic_any: bool,
    /// Whether an endpoint whose value is a list is in the groups of all values in it.
    pub list_as_any: bool,
}

/// Keys by which groups are formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSelector {
    /// The keys, sorted.
    pub keys: Arc<[Name]>,
    /// Where no endpoint has the values of a request with these keys; none: [`Subsets::fallback`].
    pub fallback: Option<SubsetFallback>,
}

/// Which endpoints serve where there is no group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubsetFallback {
    /// None.
    None,
    /// All.
    Any,
    /// Those of [`Subsets::default`].
    Default,
    /// Those of a group of fewer keys, sorted.
    Keys(Arc<[Name]>),
}

/// What endpoints must have in their metadata of `envoy.lb`: values by key, sorted by key.
pub type Criteria = Arc<[(Name, LbValue)]>;

/// A value of an endpoint's metadata, to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LbValue {
    /// A text.
    Text(Name),
    /// A number's bits.
    Number(u64),
    /// True or false.
    Bool(bool),
    /// Nothing.
    Null,
    /// A list.
    List(Arc<[LbValue]>),
    /// A structure, by the hash of its content.
    Struct(ContentHash),
}

/// A part of what a request is hashed by.
#[derive(Clone, Debug, PartialEq)]
pub struct HashPolicy {
    /// What is hashed.
    pub by: HashBy,
    /// Whether those after it do not count, if there is a hash by then.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq)]
pub enum HashBy {
    /// All values of a (lower case) header, sorted, after a rewrite.
    Header(Arc<str>, Option<RegexRewrite>),
    /// A cookie.
    Cookie(Arc<HashCookie>),
    /// The client's address.
    SourceIp,
    /// The first value of a parameter of the query.
    Query(Arc<str>),
}

/// A cookie by which clients stay with their endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: Arc<str>,
    /// How long it holds, if it is made here for clients without one; zero: for the session; none: none is made.
    pub ttl: Option<Duration>,
    /// What follows name and value where it is made: `; Max-Age=…; Path=…` and other attributes.
    pub(crate) attributes: Arc<str>,
}

impl Balancing {
    /// Whether it needs a hash of the request.
    pub fn hashes(&self) -> bool {
        matches!(self.policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
    }
}
