//! Hosts of the index of the mesh.

use std::net::IpAddr;

use mizzen_protos::index;
use mizzen_types::Name;

use super::cx::{Bad, Cx, Res};
use crate::config::MeshHost;

/// Why a host of the index was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct BadHost {
    /// Where.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// Reads one host of the index; the resource's name is the host.
///
/// # Errors
/// If it cannot be read, or a field says nothing that could be.
pub fn mesh_host(name: &Name, bytes: &[u8]) -> Result<MeshHost, BadHost> {
    read(&Cx::default(), name, bytes).map_err(|Bad { field, reason }| BadHost { field, reason })
}

fn read(cx: &Cx, name: &Name, bytes: &[u8]) -> Res<MeshHost> {
    // What it is another name of is for who answers names.
    let index::Host { addresses, http, own, any, kubernetes, headless, alias_of: _ } = cx.decode(bytes)?;
    if name.is_empty() || name.contains('/') {
        return cx.refuse("name", format!("`{name}` is no host"));
    }
    let mut plain = Vec::new();
    for address in &addresses {
        plain.extend(self::address(cx, address)?);
    }
    plain.sort_unstable();
    plain.dedup();
    let ports = |field: &str, all: Vec<u32>| {
        let mut ports = all.into_iter().map(|port| cx.port(field, port)).collect::<Res<Vec<u16>>>()?;
        ports.sort_unstable();
        ports.dedup();
        Ok(ports.into_boxed_slice())
    };
    Ok(MeshHost {
        name: name.clone(),
        addresses: plain.into(),
        http: ports("http", http)?,
        own: ports("own", own)?,
        any: ports("any", any)?,
        kubernetes,
        headless,
    })
}

/// An address; none if it is a range.
fn address(cx: &Cx, bytes: &[u8]) -> Res<Option<IpAddr>> {
    let (address, length) = match bytes {
        [address @ .., length] if matches!(bytes.len(), 5 | 17) => (address, Some(*length)),
        address => (address, None),
    };
    let address: IpAddr = match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
        (Ok(v4), _) => v4.into(),
        (_, Ok(v6)) => v6.into(),
        _ => return cx.refuse("addresses", format!("{} bytes are no address", bytes.len())),
    };
    match length {
        None => Ok(Some(address)),
        Some(length) if usize::from(length) <= 8 * (bytes.len() - 1) => Ok(None),
        Some(length) => cx.refuse("addresses", format!("{address}/{length} is no range")),
    }
}
