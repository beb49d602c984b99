//! Addresses as they stand in headers and logs.

use crate::Target;

/// A target as it is logged.
pub(crate) fn target(target: &Target) -> String {
    match target {
        Target::Tcp(address) => address.to_string(),
        Target::Pipe(path) => path.display().to_string(),
        Target::Internal(listener, endpoint) => format!("envoy://{listener}/{endpoint}"),
    }
}

/// The host of an authority.
pub(crate) fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (authority, host) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "::1"), ("::1", "::1"), ("1.2.3.4:1", "1.2.3.4")] {
            assert_eq!(without_port(authority), host);
        }
    }
}
