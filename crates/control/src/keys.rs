//! The keys that must outlive the process: the CA's and the tokens'.
//!
//! They live in memory. Whoever starts the control plane may hand it an open memfd, so that a killed and restarted one is the same CA, and the
//! tokens and certificates that are out stay good.

use std::os::fd::OwnedFd;

use mizzen_pki::{Ca, CaLimits, KeyPair, Secret, UnixTime};
use mizzen_types::TrustDomain;
use serde::{Deserialize, Serialize};

use crate::Error;

/// More than this is not read.
const MAX: usize = 1 << 20;
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    ca: String,
    token_key: String,
}

/// The CA, and the private key of the tokens as PEM.
pub(crate) struct Keys {
    pub(crate) ca: Ca,
    pub(crate) token_key: Secret,
}

/// Reads the keys, or makes them and writes them down.
pub(crate) fn load(state: Option<&OwnedFd>, trust_domain: &TrustDomain, limits: CaLimits, now: UnixTime) -> Result<Keys, Error> {
    let bad = |e: &dyn std::fmt::Display| Error::State(e.to_string());
    let kept = state.map(|fd| mizzen_net::read_fd(fd, MAX)).transpose().map_err(|e| bad(&e))?.unwrap_or_default();
    if !kept.is_empty() {
        let stored: Stored = serde_json::from_slice(&kept).map_err(|e| bad(&e))?;
        if stored.format != FORMAT {
            return Err(Error::State(format!("format {}, this version reads {FORMAT}", stored.format)));
        }
        return Ok(Keys { ca: Ca::from_pem(&stored.ca, limits)?, token_key: Secret::new(stored.token_key) });
    }
    let keys = Keys { ca: Ca::self_signed(trust_domain, now, limits)?, token_key: KeyPair::generate()?.to_pem() };
    if let Some(fd) = state {
        let stored = Stored { format: FORMAT, ca: keys.ca.to_pem().expose().to_owned(), token_key: keys.token_key.expose().to_owned() };
        let text = serde_json::to_vec(&stored).map_err(|e| bad(&e))?;
        mizzen_net::rewrite_fd(fd, &text).map_err(|e| bad(&e))?;
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_the_same_ca() {
        let fd = mizzen_net::memfd("state", b"", false).unwrap();
        let load = |fd: &OwnedFd| load(Some(fd), &TrustDomain::default(), CaLimits::default(), UnixTime::now());
        let first = load(&fd).unwrap();
        let second = load(&fd).unwrap();
        assert_eq!(first.ca.roots(), second.ca.roots());
        assert_eq!(first.token_key.expose(), second.token_key.expose());
        for text in [&b"{"[..], b"{\"format\":2,\"ca\":\"\",\"token_key\":\"\"}", b"{\"format\":1,\"ca\":\"\",\"token_key\":\"\"}"] {
            mizzen_net::rewrite_fd(&fd, text).unwrap();
            assert!(load(&fd).is_err());
        }
    }
}
