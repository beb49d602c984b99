//! Counts the messages of gRPC calls.

use crate::facts::Facts;

pub(super) fn data(facts: &mut Facts, back: bool, data: &[u8]) {
    if let Some(frames) = facts.grpc.get_mut(usize::from(back)) {
        frames.look(data);
    }
}
