use super::{Decoder, Encoder};
use proptest::prelude::*;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn bytes(hex: &str) -> Vec<u8> {
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    hex.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap()).collect()
}

fn decode(d: &mut Decoder, block: &[u8]) -> Result<Fields, super::Broken> {
    let mut all = Vec::new();
    d.decode(block, 1000, &mut |n, v| all.push((n.to_vec(), v.to_vec())))?;
    Ok(all)
}

fn fields(all: &[(&str, &str)]) -> Fields {
    all.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
}

fn check(blocks: &[(&str, &[(&str, &str)])]) {
    let mut d = Decoder::new(4096);
    for (block, expected) in blocks {
        assert_eq!(decode(&mut d, &bytes(block)), Ok(fields(expected)));
    }
}

#[test]
fn requests_of_the_rfc_without_huffman() {
    check(&[
        (
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
        ),
        (
            "8286 84be 5808 6e6f 2d63 6163 6865",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"), ("cache-control", "no-cache")],
        ),
        (
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            &[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                (":authority", "www.example.com"),
                ("custom-key", "custom-value"),
            ],
        ),
    ]);
}

#[test]
fn requests_of_the_rfc_with_huffman() {
    check(&[
        (
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
        ),
        (
            "8286 84be 5886 a8eb 1064 9cbf",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"), ("cache-control", "no-cache")],
        ),
    ]);
}

#[test]
fn what_is_refused() {
    for (why, block) in [
        ("index 0", "80"),
        ("index beyond the tables", "be"),
        ("cut in an integer", "ff"),
        ("cut in a string", "400a 6375"),
        ("integer without end", "ff ff ff ff ff ff 0f"),
        ("size update after a field", "82 20"),
        ("size update too large", "3f e2 1f"),
    ] {
        assert!(decode(&mut Decoder::new(4096), &bytes(block)).is_err(), "{why}");
    }
    let mut d = Decoder::new(0);
    d.acknowledged(0);
    assert!(decode(&mut d, &bytes("82")).is_err(), "the table has to be reduced first");
    assert_eq!(decode(&mut d, &bytes("20 82")), Ok(fields(&[(":method", "GET")])));
}

#[test]
fn what_repeats_is_indexed_and_secrets_are_not() {
    let mut e = Encoder::new();
    let mut d = Decoder::new(4096);
    let all = fields(&[(":method", "GET"), ("user-agent", "curl"), ("x-one", "two"), ("authorization", "Bearer abc")]);
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let mut out = Vec::new();
        e.begin(&mut out);
        for (n, v) in &all {
            e.field(n, v, &mut out);
        }
        assert_eq!(decode(&mut d, &out), Ok(all.clone()));
        sizes.push(out.len());
    }
    assert!(sizes[1] <= sizes[0] + 1, "{sizes:?}");
    let secret = sizes[2] - 3;
    assert!(secret > 8, "authorization is sent as a literal each time: {sizes:?}");
}

proptest! {
    #[test]
    fn there_and_back(
        blocks in proptest::collection::vec(
            (proptest::option::of(0usize..6000), proptest::collection::vec(("[a-d]{1,3}|:path|cookie|accept|x-[a-f]{1,200}", "[a-c]{0,3}|[ -~]{0,60}"), 0..12)),
            0..30,
        )
    ) {
        let mut e = Encoder::new();
        let mut d = Decoder::new(4096);
        for (resize, block) in blocks {
            if let Some(size) = resize {
                e.set_table_size(size);
                e.set_table_size(size / 2);
            }
            let mut out = Vec::new();
            e.begin(&mut out);
            for (n, v) in &block {
                e.field(n.as_bytes(), v.as_bytes(), &mut out);
            }
            let expected: Fields = block.into_iter().map(|(n, v)| (n.into_bytes(), v.into_bytes())).collect();
            prop_assert_eq!(decode(&mut d, &out), Ok(expected));
        }
    }

    #[test]
    fn no_bytes_panic(block in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&mut Decoder::new(4096), &block);
    }
}
