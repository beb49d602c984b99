//! A message whose parts are read one by one.

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// A message without a field that is a list of messages, and those; none if it is malformed.
pub(super) fn split(bytes: &[u8], field: u32) -> Option<(Vec<u8>, Vec<&[u8]>)> {
    let (mut rest, mut parts) = (Vec::new(), Vec::new());
    let mut left = bytes;
    while left.has_remaining() {
        let whole = left;
        let (number, wire) = decode_key(&mut left).ok()?;
        if number == field && wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut left).ok()?).ok()?;
            let (part, after) = left.split_at_checked(length)?;
            parts.push(part);
            left = after;
            continue;
        }
        skip_field(wire, number, &mut left, DecodeContext::default()).ok()?;
        rest.extend_from_slice(whole.get(..whole.len() - left.len())?);
    }
    Some((rest, parts))
}

#[cfg(test)]
mod tests {
    use mizzen_protos::envoy::envoy::config::listener::v3::{FilterChain, Listener};
    use prost::Message;

    use super::*;

    #[test]
    fn parts_and_the_rest_are_the_whole() {
        let chain = |name: &str| FilterChain { name: name.to_owned(), ..FilterChain::default() };
        let whole = Listener {
            name: "shop".to_owned(),
            filter_chains: vec![chain("one"), chain(""), chain("two")],
            stat_prefix: "far behind".to_owned(),
            ..Listener::default()
        };
        let bytes = whole.encode_to_vec();
        let (rest, parts) = split(&bytes, 3).unwrap();
        let mut again = Listener::decode(rest.as_slice()).unwrap();
        assert!(again.filter_chains.is_empty());
        again.filter_chains = parts.into_iter().map(|part| FilterChain::decode(part).unwrap()).collect();
        assert_eq!(again, whole);
        // Wherever it is cut, there is a part less, or it is refused; nothing panics.
        for end in 0..bytes.len() {
            if let Some((rest, parts)) = split(&bytes[..end], 3) {
                assert!(Listener::decode(&bytes[..end]).is_ok(), "{rest:?} {parts:?}");
            }
        }
        // A number of another kind is no such field.
        assert_eq!(split(&[0x18, 1], 3), Some((vec![0x18, 1], Vec::new())));
    }
}
