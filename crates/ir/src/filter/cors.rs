//! CORS: its policies are in routes, where they are refused, so that the filter itself has nothing to do.

pub(super) const TYPE: &str = "envoy.extensions.filters.http.cors.v3.Cors";
