//! From header blocks to fields.

use super::huffman;
use super::table::{Dynamic, STATIC};

/// A header block that cannot be decoded: the connection's compression state is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// The receiving side's state.
#[derive(Debug)]
pub struct Decoder {
    table: Dynamic,
    /// The largest size the peer may choose.
    allowed: usize,
    scratch: Vec<u8>,
}

impl Decoder {
    /// `allowed` is what our SETTINGS_HEADER_TABLE_SIZE says; before the peer knows it, the default of 4096 holds too.
    pub fn new(allowed: usize) -> Decoder {
        Decoder { table: Dynamic::new(4096), allowed: allowed.max(4096), scratch: Vec::new() }
    }

    /// The peer acknowledged our SETTINGS: from here on `allowed` holds.
    pub fn acknowledged(&mut self, allowed: usize) {
        self.allowed = allowed;
    }

    /// Decodes one whole block and hands every field to `sink`. The whole block is decoded, whatever `sink` makes of it, so that the
    /// state stays right; no string may be longer than `max`.
    pub fn decode(&mut self, block: &[u8], max: usize, sink: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Broken> {
        let mut input = block;
        let mut fields = false;
        while let Some(&first) = input.first() {
            if first & 0xe0 == 0x20 {
                let size = integer(&mut input, 5)?;
                if fields || size > self.allowed {
                    return Err(Broken("hpack: table size update out of place"));
                }
                self.table.resize(size);
                continue;
            }
            if self.table.max() > self.allowed {
                return Err(Broken("hpack: table not reduced as agreed"));
            }
            fields = true;
            if first & 0x80 != 0 {
                let index = integer(&mut input, 7)?;
                let (name, value) = lookup(&self.table, index)?;
                sink(name, value);
            } else {
                self.literal(&mut input, first & 0x40 != 0, max, sink)?;
            }
        }
        Ok(())
    }

    fn literal(&mut self, input: &mut &[u8], keep: bool, max: usize, sink: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Broken> {
        let index = integer(input, if keep { 6 } else { 4 })?;
        self.scratch.clear();
        if index == 0 {
            string(input, max, &mut self.scratch)?;
        } else {
            let (name, _) = lookup(&self.table, index)?;
            self.scratch.extend_from_slice(name);
        }
        let name = self.scratch.len();
        string(input, max, &mut self.scratch)?;
        let (name, value) = self.scratch.split_at(name);
        sink(name, value);
        if keep {
            self.table.insert(name, value);
        }
        Ok(())
    }
}

fn lookup(table: &Dynamic, index: usize) -> Result<(&[u8], &[u8]), Broken> {
    let found = match index.checked_sub(1) {
        None => None,
        Some(i) if i < STATIC.len() => STATIC.get(i).copied(),
        Some(i) => table.get(i - STATIC.len()),
    };
    found.ok_or(Broken("hpack: no such index"))
}

fn integer(input: &mut &[u8], prefix: u8) -> Result<usize, Broken> {
    let (&first, rest) = input.split_first().ok_or(Broken("hpack: cut short"))?;
    *input = rest;
    let mask = (1usize << prefix) - 1;
    let mut value = first as usize & mask;
    if value < mask {
        return Ok(value);
    }
    // Four more bytes hold 28 bits: far more than any length that is allowed here.
    for shift in [0, 7, 14, 21] {
        let (&b, rest) = input.split_first().ok_or(Broken("hpack: cut short"))?;
        *input = rest;
        value += ((b & 0x7f) as usize) << shift;
        if b & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Broken("hpack: integer too large"))
}

fn string(input: &mut &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), Broken> {
    let coded = input.first().is_some_and(|b| b & 0x80 != 0);
    let len = integer(input, 7)?;
    let (raw, rest) = input.split_at_checked(len).ok_or(Broken("hpack: cut short"))?;
    *input = rest;
    if coded {
        if !huffman::decode(raw, max, out) {
            return Err(Broken("hpack: bad huffman code"));
        }
    } else if raw.len() > max {
        return Err(Broken("hpack: string too long"));
    } else {
        out.extend_from_slice(raw);
    }
    Ok(())
}
