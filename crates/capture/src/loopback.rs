//! The address from which a workload is handed its connections of IPv6.

use mizzen_types::ports;
use nlink::netlink::{Connection, Route};

use crate::ApplyError;

/// Says, in the calling thread's network namespace, whether its loopback interface has IPv6.
const DISABLED: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

/// Gives the loopback interface [`ports::INBOUND_PASSTHROUGH_V6`], by which the rules know what the inbound proxy hands to its workload; of IPv4 all of
/// 127.0.0.0/8 is there of its own accord. Istio does the same. Nothing where there is no IPv6: no connection of it can arrive there.
pub(crate) async fn give_address() -> Result<(), ApplyError> {
    let failed = |source| ApplyError { what: "give the loopback interface an address of IPv6", source };
    let links = Connection::<Route>::new().map_err(failed)?;
    match links.add_address_by_name("lo", ports::INBOUND_PASSTHROUGH_V6.into(), 128).await {
        Err(error) if !error.is_already_exists() && has_ipv6() => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Whether the calling thread's network namespace has IPv6: the kernel does, and it was not turned off there.
pub fn has_ipv6() -> bool {
    std::fs::read_to_string(DISABLED).is_ok_and(|text| text.trim() == "0")
}
