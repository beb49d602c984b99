//! What a request's filters leave behind for other filters, policies, the router, logs and header formats.

use std::sync::Arc;

use mizzen_http::Head;
use mizzen_ir::{
    Metadata,
    config::{AlpnOverride, HeaderOps, RemoteJwks},
};

use crate::peer::Peers;

/// One request's facts.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Dynamic metadata, by filter.
    pub(crate) metadata: Metadata,
    /// The two workloads, and what is to be told to them.
    pub(crate) peers: Peers,
    /// ALPN names by upstream protocol.
    pub(crate) alpn: Option<Arc<AlpnOverride>>,
    /// The keys that a filter has asked for.
    pub(crate) jwks: Option<Arc<RemoteJwks>>,
    /// gRPC messages, towards the server and back.
    pub(crate) grpc: [GrpcFrames; 2],
    /// What is done to the response's headers, whoever answers.
    pub(crate) response: Vec<Change>,
}

/// A change to the response's headers that a filter wants.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Set, in place of all of the name.
    Set(String, Vec<u8>),
    /// One more line.
    Append(String, Vec<u8>),
    /// As configured.
    Ops(HeaderOps),
}

impl Change {
    /// A fixed change is made; what is configured is left to whoever knows the values of its commands.
    pub(crate) fn apply(&self, head: &mut Head) {
        match self {
            Change::Set(name, value) => head.set(name, value),
            Change::Append(name, value) => head.append(name, value),
            Change::Ops(_) => true,
        };
    }
}

/// Counts gRPC messages in a body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GrpcFrames {
    pub(crate) messages: u64,
    /// Bytes of the present frame's message that are still to come.
    rest: u64,
    head: [u8; 5],
    have: u8,
}

impl GrpcFrames {
    /// Looks at some of a body.
    pub(crate) fn look(&mut self, mut data: &[u8]) {
        while let Some((first, more)) = data.split_first() {
            if self.rest > 0 {
                let n = self.rest.min(data.len() as u64);
                self.rest -= n;
                data = data.get(n as usize..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.have as usize) {
                *place = *first;
            }
            self.have += 1;
            data = more;
            if self.have == 5 {
                let [_, a, b, c, d] = self.head;
                self.rest = u32::from_be_bytes([a, b, c, d]).into();
                self.have = 0;
                self.messages += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_for_any_split() {
        let mut body = Vec::new();
        for n in [0usize, 1, 7, 300] {
            body.push(0);
            body.extend_from_slice(&(n as u32).to_be_bytes());
            body.extend(std::iter::repeat_n(9, n));
        }
        for size in 1..20 {
            let mut frames = GrpcFrames::default();
            body.chunks(size).for_each(|part| frames.look(part));
            assert_eq!(frames.messages, 4, "split by {size}");
        }
    }
}
