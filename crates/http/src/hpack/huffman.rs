//! The Huffman code of RFC 7541, Appendix B.
//!
//! The code is canonical: its lengths say all. Both tables are made from them when this is compiled.

/// Bits of the code of each byte, and of the end mark (256).
#[rustfmt::skip]
const BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The code of each symbol.
const CODES: [u32; 257] = {
    let mut codes = [0u32; 257];
    let (mut code, mut bits) = (0u32, 1u8);
    while bits <= 30 {
        code <<= 1;
        let mut symbol = 0;
        while symbol < 257 {
            if BITS[symbol] == bits {
                codes[symbol] = code;
                code += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    codes
};

/// One step of the decoder: four bits further.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    symbol: u8,
    emits: bool,
    /// The end mark, which must not appear.
    fails: bool,
}

/// Children of the inner nodes of the code's tree: an inner node, or 256 + symbol.
const TREE: [[u16; 2]; 256] = {
    let mut tree = [[u16::MAX; 2]; 256];
    let mut used = 1u16;
    let mut symbol = 0;
    while symbol < 257 {
        let mut node = 0usize;
        let mut left = BITS[symbol];
        while left > 0 {
            left -= 1;
            let bit = ((CODES[symbol] >> left) & 1) as usize;
            if left == 0 {
                tree[node][bit] = 256 + symbol as u16;
            } else {
                if tree[node][bit] == u16::MAX {
                    tree[node][bit] = used;
                    used += 1;
                }
                node = tree[node][bit] as usize;
            }
        }
        symbol += 1;
    }
    tree
};

static STEPS: [[Step; 16]; 256] = {
    let mut steps = [[Step { next: 0, symbol: 0, emits: false, fails: false }; 16]; 256];
    let mut state = 0;
    while state < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            let mut step = Step { next: 0, symbol: 0, emits: false, fails: false };
            let mut node = state;
            let mut bit = 4;
            while bit > 0 {
                bit -= 1;
                let child = TREE[node][(nibble >> bit) & 1];
                if child == 512 {
                    step.fails = true;
                    node = 0;
                } else if child >= 256 {
                    step.symbol = (child - 256) as u8;
                    step.emits = true;
                    node = 0;
                } else {
                    node = child as usize;
                }
            }
            step.next = node as u8;
            steps[state][nibble] = step;
            nibble += 1;
        }
        state += 1;
    }
    steps
};

/// States in which the input may end: at most seven bits, all ones, of the end mark.
static ENDS: [bool; 256] = {
    let mut ends = [false; 256];
    let mut node = 0usize;
    let mut i = 0;
    while i < 8 {
        ends[node] = true;
        node = TREE[node][1] as usize;
        i += 1;
    }
    ends
};

/// Appends the decoded bytes; `false` if the input is not a proper code or comes to more than `max` bytes.
pub(crate) fn decode(input: &[u8], max: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut state = 0u8;
    for byte in input {
        for nibble in [byte >> 4, byte & 15] {
            let step = STEPS[state as usize][nibble as usize];
            if step.fails {
                return false;
            }
            if step.emits {
                out.push(step.symbol);
            }
            state = step.next;
        }
        if out.len() - start > max {
            return false;
        }
    }
    ENDS[state as usize]
}

/// Bytes that `encode` would append.
pub(crate) fn encoded_len(input: &[u8]) -> usize {
    input.iter().map(|&b| BITS[b as usize] as usize).sum::<usize>().div_ceil(8)
}

/// Appends the code of the bytes.
pub(crate) fn encode(input: &[u8], out: &mut Vec<u8>) {
    let (mut held, mut n) = (0u64, 0u32);
    for &b in input {
        held = (held << BITS[b as usize]) | u64::from(CODES[b as usize]);
        n += u32::from(BITS[b as usize]);
        while n >= 8 {
            n -= 8;
            out.push((held >> n) as u8);
        }
    }
    if n > 0 {
        let pad = 8 - n;
        out.push(((held << pad) | ((1 << pad) - 1)) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_the_rfc() {
        for (plain, code) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        ] {
            let mut out = Vec::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out.iter().map(|b| format!("{b:02x}")).collect::<String>(), code);
            assert_eq!(encoded_len(plain.as_bytes()), out.len());
        }
    }

    #[test]
    fn refuses_bad_padding() {
        let mut out = Vec::new();
        assert!(!decode(&[0xff, 0xff, 0xff, 0xff], 100, &mut out), "the end mark");
        assert!(!decode(&[0x00], 100, &mut out), "padding with zeros: three bits of the next symbol");
        assert!(!decode(&[0x07, 0xff], 100, &mut out), "more than seven bits of padding");
        assert!(!decode(&[0x00, 0x00], 1, &mut out), "too long");
    }

    proptest! {
        #[test]
        fn there_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut code = Vec::new();
            encode(&bytes, &mut code);
            let mut back = Vec::new();
            prop_assert!(decode(&code, bytes.len(), &mut back));
            prop_assert_eq!(back, bytes);
        }
    }
}
