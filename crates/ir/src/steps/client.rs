//! Who sent a request.

use std::net::{IpAddr, SocketAddr};

use mizzen_http::Head;

use crate::config::Hcm;

/// The client's address: the connection's peer at an edge without trusted proxies in front, else as far back in X-Forwarded-For as is trusted.
pub fn client_address(head: &Head, hcm: &Hcm, peer: IpAddr) -> IpAddr {
    let trusted = hcm.xff_trusted_hops as usize;
    let back = if hcm.use_remote_address { trusted.checked_sub(1) } else { Some(trusted) };
    let found = back.and_then(|back| {
        let chain = head.get_joined("x-forwarded-for")?;
        let chain = String::from_utf8_lossy(&chain);
        address(chain.rsplit(',').nth(back)?.trim())
    });
    found.unwrap_or(peer)
}

/// An address with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let rows = [
            // Edge or hop, trusted proxies, what X-Forwarded-For says, the client.
            (true, 0, "198.51.100.1", "192.0.2.1"),
            (true, 1, "198.51.100.1, 198.51.100.2", "198.51.100.2"),
            (true, 2, "198.51.100.1, 198.51.100.2", "198.51.100.1"),
            (true, 3, "198.51.100.1, 198.51.100.2", "192.0.2.1"),
            (false, 0, "198.51.100.1, 198.51.100.2:443", "198.51.100.2"),
            (false, 1, "198.51.100.1 ,198.51.100.2", "198.51.100.1"),
            (false, 0, "unknown", "192.0.2.1"),
            (false, 0, "", "192.0.2.1"),
        ];
        for (use_remote_address, xff_trusted_hops, chain, expected) in rows {
            let hcm = Hcm { use_remote_address, xff_trusted_hops, ..Hcm::internal() };
            let mut head = Head::request("GET", "http", "a", "/");
            head.set("x-forwarded-for", chain);
            assert_eq!(
                client_address(&head, &hcm, peer),
                expected.parse::<IpAddr>().unwrap(),
                "{use_remote_address} {xff_trusted_hops} {chain}"
            );
        }
        assert_eq!(client_address(&Head::request("GET", "http", "a", "/"), &Hcm::internal(), peer), peer);
    }
}
