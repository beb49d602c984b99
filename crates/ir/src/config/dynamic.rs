//! Names that requests and connections bring, found on demand (Envoy's dynamic forward proxy).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mizzen_types::{Hostname, IpRange, Name};

use super::Dns;

/// How a cluster finds the names that it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Dynamic {
    /// How they are resolved.
    pub dns: Dns,
    /// How many are known at most.
    pub max_hosts: usize,
    /// How many requests and connections may wait for names at once.
    pub max_pending: usize,
    /// For how long one is known that nobody asks for.
    pub host_ttl: Duration,
    /// Where none of them leads, whoever answers for it.
    pub never: Arc<[IpRange]>,
    /// Those that may be asked for: a host, or `*.suffix`; none: all.
    pub within: Option<Hostname>,
    /// The port at which they are called; none: the one that is asked for.
    pub port: Option<u16>,
}

impl Dynamic {
    /// What is asked for: the name to resolve, and the port to call. `asked` is a Host header's value or a server name; `port` counts before the one that it
    /// may have. None: it is no name, or none that may be asked for.
    pub fn place(&self, asked: &str, port: Option<u16>, is_tls: bool) -> Option<(Name, u16)> {
        let (name, written) = match asked.rsplit_once(':') {
            Some((name, "")) => (name, None),
            Some((name, port)) => (name, Some(port.parse().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))?)),
            None => (asked, None),
        };
        let name: Hostname = name.parse().ok()?;
        if name.is_wildcard() || self.within.as_ref().is_some_and(|within| !within.covers(&name)) {
            return None;
        }
        let port: u16 = self.port.or(port).or(written).unwrap_or(if is_tls { 443 } else { 80 });
        (port != 0).then(|| (name.as_str().into(), port))
    }

    /// Whether a name may lead to an address.
    pub fn may_lead_to(&self, address: IpAddr) -> bool {
        !self.never.iter().any(|range| range.contains(address.to_canonical()))
    }

    /// The wildcard under which it is found by the names that it covers.
    pub(crate) fn covers(&self) -> Name {
        self.within.as_ref().map_or("*", Hostname::as_str).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DnsFamily;

    #[test]
    fn places() {
        let dns = Dns {
            refresh: Duration::from_secs(60),
            jitter: Duration::ZERO,
            on_failure: None,
            respect_ttl: true,
            least: Duration::from_secs(5),
            family: DnsFamily::V4,
        };
        let of = |within: Option<&str>, port: Option<u16>| Dynamic {
            dns,
            max_hosts: 1,
            max_pending: 1,
            host_ttl: Duration::from_secs(300),
            never: ["127.0.0.0/8".parse().unwrap()].into(),
            within: within.map(|host| host.parse().unwrap()),
            port,
        };
        let ours = of(Some("*.example.test"), Some(8443));
        let theirs = of(None, None);
        for (dynamic, asked, port, is_tls, expected) in [
            (&ours, "a.example.test", None, false, Some(("a.example.test", 8443))),
            (&ours, "A.B.Example.Test:80", Some(81), true, Some(("a.b.example.test", 8443))),
            (&ours, "a.example.test.", None, false, Some(("a.example.test", 8443))),
            (&ours, "example.test", None, false, None),
            (&ours, "aexample.test", None, false, None),
            (&ours, "a.example.test.evil", None, false, None),
            (&ours, "a.example.test@evil", None, false, None),
            (&ours, "10.0.0.1", None, false, None),
            (&ours, "", None, false, None),
            (&ours, "*.example.test", None, false, None),
            (&theirs, "a.test", None, false, Some(("a.test", 80))),
            (&theirs, "a.test", None, true, Some(("a.test", 443))),
            (&theirs, "a.test:8080", None, true, Some(("a.test", 8080))),
            (&theirs, "a.test:8080", Some(9), true, Some(("a.test", 9))),
            (&theirs, "a.test:", None, false, Some(("a.test", 80))),
            (&theirs, "a.test:+1", None, false, None),
            (&theirs, "a.test:0", None, false, None),
            (&theirs, "a.test:65536", None, false, None),
            (&theirs, "[::1]:80", None, false, None),
        ] {
            let found = dynamic.place(asked, port, is_tls);
            assert_eq!(found.as_ref().map(|(name, port)| (&**name, *port)), expected, "{asked} {port:?}");
        }
        for (address, expected) in [("127.0.0.1", false), ("::ffff:127.1.2.3", false), ("192.0.2.1", true), ("::1", true)] {
            assert_eq!(ours.may_lead_to(address.parse().unwrap()), expected, "{address}");
        }
    }
}
