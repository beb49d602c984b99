//! Istio's names of clusters, listeners and routes.

use std::net::IpAddr;

use mizzen_types::Hostname;

/// Where unknown calls end that are refused.
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";
/// Where unknown calls go that pass.
pub(crate) const PASSTHROUGH: &str = "PassthroughCluster";
/// Where calls to unknown ports of the workload go.
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The listener of captured outbound traffic.
pub(crate) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener of captured inbound traffic.
pub(crate) const VIRTUAL_INBOUND: &str = "virtualInbound";

/// In place of a subset's name, which it cannot be: all endpoints of a headless service, whatever address was dialled.
pub(crate) const ALL: &str = "*";

/// `outbound|9080|v1|reviews.shop.svc.cluster.local`
pub(crate) fn outbound(port: u16, subset: &str, host: &Hostname) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// The parts of an outbound cluster's name.
pub(crate) fn parse_outbound(name: &str) -> Option<(u16, &str, Hostname)> {
    let mut parts = name.strip_prefix("outbound|")?.splitn(3, '|');
    let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    Some((number(port)?, subset, host.parse().ok()?))
}

/// `inbound|9080||`
pub(crate) fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

/// The port of an inbound cluster's name.
pub(crate) fn parse_inbound(name: &str) -> Option<u16> {
    number(name.strip_prefix("inbound|")?.strip_suffix("||")?)
}

/// The server name of mutual TLS: `outbound_.9080_.v1_.reviews.shop.svc.cluster.local`. At a gateway that passes such TLS on also the cluster's name.
pub(crate) fn sni(port: u16, subset: &str, host: &Hostname) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// The parts of a server name of mutual TLS.
pub(crate) fn parse_sni(name: &str) -> Option<(u16, &str, Hostname)> {
    let mut parts = name.strip_prefix("outbound_.")?.splitn(3, "_.");
    let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    Some((number(port)?, subset, host.parse().ok()?))
}

/// `0.0.0.0_9080`
pub(crate) fn listener(bind: IpAddr, port: u16) -> String {
    format!("{bind}_{port}")
}

/// The parts of a service's listener's name.
pub(crate) fn parse_listener(name: &str) -> Option<(IpAddr, u16)> {
    let (bind, port) = name.rsplit_once('_')?;
    Some((bind.parse().ok()?, number(port)?))
}

/// The parts of a route's name that stands for one service: `reviews.shop.svc.cluster.local:9080`
pub(crate) fn parse_sniffed_route(name: &str) -> Option<(Hostname, u16)> {
    let (host, port) = name.rsplit_once(':')?;
    Some((host.parse().ok()?, number(port)?))
}

/// A port number as a name has it: no sign, no leading zero, so that one resource has one name.
pub(crate) fn number(text: &str) -> Option<u16> {
    let number: u16 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Statistics' names: a semicolon ends the name, so that it can be told from what follows.
pub(crate) fn stat(name: &str) -> String {
    format!("{name};")
}

/// `/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews`
pub(crate) fn config_path(kind: &str, namespace: &str, name: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{kind}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let host: Hostname = "a.b.svc.cluster.local".parse().unwrap();
        assert_eq!(parse_outbound(&outbound(80, "v1", &host)), Some((80, "v1", host.clone())));
        assert_eq!(parse_outbound(&outbound(80, "", &host)), Some((80, "", host.clone())));
        for subset in ["v1", ""] {
            assert_eq!(parse_sni(&sni(80, subset, &host)), Some((80, subset, host.clone())));
        }
        assert_eq!(parse_inbound(&inbound(9080)), Some(9080));
        assert_eq!(parse_listener("0.0.0.0_80"), Some(("0.0.0.0".parse().unwrap(), 80)));
        assert_eq!(parse_sniffed_route("a.b.svc.cluster.local:80"), Some((host, 80)));
        for bad in ["outbound_.080_._.a", "outbound_.80_.a", "outbound_.80", "a.b"] {
            assert!(parse_sni(bad).is_none(), "{bad}");
        }
        for bad in ["outbound|080||a", "outbound|80|a", "inbound|+1||", "0.0.0.0_", "x_80", "80"] {
            assert!(parse_outbound(bad).is_none() && parse_inbound(bad).is_none() && parse_listener(bad).is_none(), "{bad}");
        }
    }
}
