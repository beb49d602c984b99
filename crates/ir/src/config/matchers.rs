//! Matchers of strings, headers and parameters.

use std::ops::Range;
use std::sync::Arc;

use mizzen_types::Name;

/// A compiled expression that matches a whole text, in linear time, byte by byte and without Unicode classes, as RE2 does for Envoy.
#[derive(Clone, Debug)]
pub struct Regex {
    pub(crate) source: Arc<str>,
    /// Anchored at both ends.
    pub(crate) whole: regex::bytes::Regex,
    /// Not anchored: for substitution.
    pub(crate) part: regex::bytes::Regex,
}

/// A test of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct StringMatch {
    /// The test.
    pub test: StringTest,
    /// Without regard to ASCII case; the pattern is lower case then. Never set with a regex.
    pub ignore_case: bool,
}

/// How a text is tested.
#[derive(Clone, Debug, PartialEq)]
pub enum StringTest {
    /// Equal.
    Exact(Arc<str>),
    /// Begins with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
    /// Contains.
    Contains(Arc<str>),
    /// The whole text matches.
    Regex(Regex),
}

/// A test of a header's value; several values are joined by commas first.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// Lower case; `host` is already `:authority`.
    pub name: Arc<str>,
    /// The test.
    pub test: HeaderTest,
    /// Whether the test's answer is turned round. An absent header still does not match (see `missing_as_empty`).
    pub invert: bool,
    /// Whether an absent header counts as an empty one.
    pub missing_as_empty: bool,
}

/// How a header is tested.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderTest {
    /// Present, or absent if false.
    Present(bool),
    /// By its text.
    Text(StringMatch),
    /// A decimal number within the range.
    Number(Range<i64>),
}

/// A test of a query parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamMatch {
    /// The parameter's name.
    pub name: Arc<str>,
    /// What its first value must be; none: it only has to be present.
    pub test: Option<StringMatch>,
    /// For a test of presence: whether it must be present or absent.
    pub present: bool,
}

/// A test of metadata that a request's filters left behind.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataMatch {
    /// The filter's name.
    pub filter: Name,
    /// The path to the value within what that filter left.
    pub path: Arc<[Name]>,
    /// The test.
    pub value: ValueMatch,
    /// Whether its answer is turned round.
    pub invert: bool,
}

/// A test of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// It is null.
    Null,
    /// A number within the range, its end excluded.
    Number(Range<f64>),
    /// This number.
    Exactly(f64),
    /// A text.
    Text(StringMatch),
    /// A truth value.
    Bool(bool),
    /// There is one (any but null), or there is none.
    Present(bool),
    /// A list, one of whose values passes.
    OneOf(Box<ValueMatch>),
    /// One of these passes.
    Any(Arc<[ValueMatch]>),
}

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many: 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
