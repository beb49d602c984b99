//! The worker's streams.

use crate::{
    id::{Slab, StreamId, StreamTag},
    stream::{Request, Stream},
};

/// All streams of a worker.
#[derive(Default)]
pub(crate) struct Streams(Slab<Stream>);

impl Streams {
    pub(crate) fn insert(&mut self, stream: Stream) -> StreamId {
        self.0.insert::<StreamTag>(stream)
    }

    /// A stream by its id; none if it is over.
    pub(crate) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.0.get(id)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.0.get_mut(id)
    }

    /// The request of a stream that carries one.
    pub(crate) fn request_mut(&mut self, id: StreamId) -> Option<&mut Request> {
        self.get_mut(id)?.traffic.request_mut()
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        self.0.remove(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.0.values()
    }
}
