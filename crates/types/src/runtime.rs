//! Keys of Envoy's runtime that bound connections, as Istio's `runtimeValues` and the layers of a bootstrap have them.

/// How many connections all listeners together may have.
pub const GLOBAL_CONNECTIONS: &str = "overload.global_downstream_max_connections";

/// The listener of which a key says how many connections it may have: `envoy.resource_limits.listener.NAME.connection_limit`.
pub fn bounded_listener(key: &str) -> Option<&str> {
    key.strip_prefix("envoy.resource_limits.listener.")?.strip_suffix(".connection_limit").filter(|name| !name.is_empty())
}

/// Whether a key says how many connections there may be, of one listener or of all.
pub fn bounds_connections(key: &str) -> bool {
    key == GLOBAL_CONNECTIONS || bounded_listener(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (key, listener, bounds) in [
            ("envoy.resource_limits.listener.0.0.0.0_8080.connection_limit", Some("0.0.0.0_8080"), true),
            ("envoy.resource_limits.listener.virtualInbound.connection_limit", Some("virtualInbound"), true),
            ("envoy.resource_limits.listener..connection_limit", None, false),
            ("envoy.resource_limits.listener.connection_limit", None, false),
            ("envoy.resource_limits.listener.a.udp_flow_limit", None, false),
            (GLOBAL_CONNECTIONS, None, true),
            ("re2.max_program_size.error_level", None, false),
        ] {
            assert_eq!((bounded_listener(key), bounds_connections(key)), (listener, bounds), "{key}");
        }
    }
}
