//! Bytes on their way out, and the pool that keeps their allocations.

/// Bytes with a read position. Holds an allocation only while it holds bytes (see [`Spare`]).
#[derive(Debug, Default)]
pub(crate) struct Buf {
    bytes: Vec<u8>,
    head: usize,
}

impl Buf {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.head..).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vector to append to. What was consumed is dropped first if it is the larger part.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        if self.head > 0 && self.head >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        &mut self.bytes
    }

    /// Takes the allocation over, mutable, from the read position on.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.head..).unwrap_or_default()
    }

    pub(crate) fn extend(&mut self, more: &[u8]) {
        self.tail().extend_from_slice(more);
    }

    /// Appends `more` and leaves it empty; without copying where nothing is held.
    pub(crate) fn append(&mut self, more: &mut Vec<u8>) {
        if self.is_empty() {
            std::mem::swap(&mut self.bytes, more);
            self.head = 0;
            more.clear();
        } else {
            self.extend(more);
            more.clear();
        }
    }

    /// Moves everything to the end of `to`; without copying where that holds nothing.
    pub(crate) fn move_to(&mut self, to: &mut Vec<u8>) {
        if to.is_empty() && self.head == 0 {
            std::mem::swap(&mut self.bytes, to);
        } else {
            to.extend_from_slice(self.as_slice());
        }
        self.clear();
    }

    /// Lends the allocation out, with what it holds at its beginning and room for so many bytes more; until `restore`, nothing is held.
    pub(crate) fn lend(&mut self, room: usize) -> Vec<u8> {
        if self.head > 0 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        self.bytes.reserve(room);
        std::mem::take(&mut self.bytes)
    }

    /// Takes it back, with what was appended meanwhile.
    pub(crate) fn restore(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.head = (self.head + n).min(self.bytes.len());
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        }
    }

    /// Drops what is beyond the first `most` bytes.
    pub(crate) fn truncate(&mut self, most: usize) {
        self.bytes.truncate(self.head.saturating_add(most));
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.head = 0;
    }

    /// Gives an empty buffer's allocation back.
    pub(crate) fn rest(&mut self, spare: &mut Spare) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            spare.put(std::mem::take(&mut self.bytes));
            self.head = 0;
        }
    }

    /// Makes sure that an allocation is there.
    pub(crate) fn ready(&mut self, spare: &mut Spare) {
        if self.bytes.capacity() == 0 {
            self.bytes = spare.take();
        }
    }
}

/// Allocations not in use, at most [`Spare::KEEP`] of together at most [`Spare::MOST`] bytes.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    all: Vec<Vec<u8>>,
    /// Bytes of all.
    bytes: usize,
}

impl Spare {
    const KEEP: usize = 256;
    /// As large as a head is, mostly.
    const FIRST: usize = 1024;
    /// Larger ones are freed: one large body must not pin memory for ever.
    const LARGEST: usize = 512 * 1024;
    const MOST: usize = 4 * 1024 * 1024;

    pub(crate) fn take(&mut self) -> Vec<u8> {
        match self.all.pop() {
            Some(bytes) => {
                self.bytes -= bytes.capacity();
                bytes
            }
            None => Vec::with_capacity(Self::FIRST),
        }
    }

    pub(crate) fn put(&mut self, mut bytes: Vec<u8>) {
        let size = bytes.capacity();
        if self.all.len() < Self::KEEP && size > 0 && size <= Self::LARGEST && self.bytes + size <= Self::MOST {
            bytes.clear();
            self.bytes += size;
            self.all.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consume_and_append() {
        let mut buf = Buf::default();
        buf.extend(b"abcdef");
        buf.consume(4);
        buf.extend(b"gh");
        assert_eq!(buf.as_slice(), b"efgh");
        buf.consume(99);
        assert!(buf.is_empty());
        let mut spare = Spare::default();
        buf.rest(&mut spare);
        buf.ready(&mut spare);
        assert_eq!(buf.len(), 0);
    }
}
