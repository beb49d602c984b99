//! Resources as they go to clients.

use std::sync::{Arc, OnceLock};

use mizzen_protos::Any;
use prost::{
    bytes::{BufMut, Bytes, BytesMut},
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use crate::Version;

/// A resource as it goes to a client. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The hash of its content.
    pub version: Version,
    /// The content, shared by all sessions that send it.
    pub body: Arc<Any>,
    /// Further messages, each of which is one more value of a repeated field of the content.
    pub parts: Option<Arc<Parts>>,
}

/// A repeated field of a resource's content, of messages that are shared one by one.
#[derive(Debug)]
pub struct Parts {
    field: u32,
    messages: Box<[(Version, Arc<Any>)]>,
    /// Of the messages alone, and as they are written.
    length: usize,
    encoded: usize,
    /// As many clients are sent them; `None`: they are one client's, and are never held as a whole.
    written: Option<OnceLock<Vec<Bytes>>>,
}

impl Parts {
    /// Messages, in order, each with the hash of its content, as values of the field with this number.
    pub fn new(field: u32, messages: Vec<(Version, Arc<Any>)>) -> Parts {
        let lengths = || messages.iter().map(|(_, message)| message.value.len());
        let encoded = lengths().map(|length| key_len(field) + encoded_len_varint(length as u64) + length).sum();
        Parts { field, length: lengths().sum(), encoded, messages: messages.into(), written: None }
    }

    /// The same where many clients get them alike: their bytes are written once, and kept as long as these are.
    pub fn alike(field: u32, messages: Vec<(Version, Arc<Any>)>) -> Parts {
        Parts { written: Some(OnceLock::new()), ..Parts::new(field, messages) }
    }

    /// The messages, in order.
    pub fn messages(&self) -> &[(Version, Arc<Any>)] {
        &self.messages
    }

    /// The length of all of it as it is written.
    pub fn encoded_len(&self) -> usize {
        self.encoded
    }

    /// Writes one of the messages.
    pub fn encode(&self, message: &Any, out: &mut impl BufMut) {
        encode_key(self.field, WireType::LengthDelimited, out);
        encode_varint(message.value.len() as u64, out);
        out.put_slice(&message.value);
    }

    /// All of it as it is written, in pieces of this length at least, but for the last one; `None` if it is not for many, or fills no piece.
    pub fn written(&self, piece: usize) -> Option<&[Bytes]> {
        let write = || {
            let (mut pieces, mut out) = (Vec::new(), BytesMut::new());
            for (_, message) in &self.messages {
                if out.is_empty() {
                    out.reserve(piece + piece / 4);
                }
                self.encode(message, &mut out);
                if out.len() >= piece {
                    pieces.push(out.split().freeze());
                }
            }
            pieces.extend((!out.is_empty()).then(|| out.freeze()));
            pieces
        };
        self.written.as_ref().filter(|_| self.length >= piece).map(|written| written.get_or_init(write).as_slice())
    }
}

impl PartialEq for Parts {
    fn eq(&self, other: &Parts) -> bool {
        (self.field, &self.messages) == (other.field, &other.messages)
    }
}

impl Resource {
    /// With the version that its content has.
    pub fn new(body: Any) -> Self {
        Resource { version: Version::of(&body.value), body: Arc::new(body), parts: None }
    }

    /// This content with further messages in a repeated field.
    #[must_use]
    pub fn joined(&self, parts: Parts) -> Self {
        let versions = std::iter::once(self.version).chain(parts.messages.iter().map(|(version, _)| *version));
        let bytes: Vec<u8> = versions.flat_map(|version| version.0.to_le_bytes()).collect();
        Resource { version: Version::of(&bytes), body: self.body.clone(), parts: Some(Arc::new(parts)) }
    }

    /// The length of its content, without what joins its parts.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.body.value.len() + self.parts.as_ref().map_or(0, |parts| parts.length)
    }

    /// The content as one message.
    pub fn whole(&self) -> Any {
        let mut whole = (*self.body).clone();
        for (parts, (_, message)) in self.parts.iter().flat_map(|parts| parts.messages.iter().map(move |message| (parts, message))) {
            parts.encode(message, &mut whole.value);
        }
        whole
    }
}
