//! How matchers match.
