//! From fields to header blocks.

use super::huffman;
use super::table::{Dynamic, STATIC};

/// Slots of the indexes over the dynamic table.
const SLOTS: usize = 256;
/// Fields longer than this are never put into the table.
const LONGEST: usize = 512;
/// The table that we use at most, whatever the peer offers.
const TABLE: usize = 4096;

/// The sending side's state. A field enters the table when it is seen for the second time; what is secret never does.
#[derive(Debug)]
pub struct Encoder {
    table: Dynamic,
    /// By hash of a field: its insertion number.
    fields: Box<[u32; SLOTS]>,
    /// By hash of a name: the insertion number of a field with it.
    names: Box<[u32; SLOTS]>,
    /// Hashes of fields seen once.
    seen: Box<[u32; SLOTS]>,
    /// Sizes to announce at the next block: the smallest since the last one, and the last.
    resize: Option<(usize, usize)>,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder {
            table: Dynamic::new(TABLE),
            fields: Box::new([0; SLOTS]),
            names: Box::new([0; SLOTS]),
            seen: Box::new([0; SLOTS]),
            resize: None,
        }
    }
}

impl Encoder {
    /// A new one, with the default table of 4096 bytes.
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_table_size(&mut self, size: usize) {
        let size = size.min(TABLE);
        let least = self.resize.map_or(size, |(least, _)| least.min(size));
        if self.resize.is_some() || size != self.table.max() {
            self.resize = Some((least, size));
        }
    }

    /// Call before the fields of each block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.resize.take() {
            self.table.resize(least);
            integer(least, 5, 0x20, out);
            if last != least {
                self.table.resize(last);
                integer(last, 5, 0x20, out);
            }
        }
    }

    /// Appends one field; the name is lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let named = static_name(name);
        if let Some(i) = named.and_then(|first| static_field(first, name, value)) {
            return integer(i, 7, 0x80, out);
        }
        if is_secret(name, value) {
            let index = named.or_else(|| self.dynamic_name(name));
            integer(index.unwrap_or(0), 4, 0x10, out);
            return literal(index.is_none().then_some(name), value, out);
        }
        let hash = hash(name, value);
        let slot = hash as usize % SLOTS;
        if let Some(i) = self.find(self.fields[slot], |n, v| n == name && v == value) {
            return integer(i, 7, 0x80, out);
        }
        let index = named.or_else(|| self.dynamic_name(name));
        let again = std::mem::replace(&mut self.seen[slot], hash) == hash;
        let keep = again && name.len() + value.len() <= LONGEST.min(self.table.max() / 2);
        if keep {
            integer(index.unwrap_or(0), 6, 0x40, out);
        } else {
            integer(index.unwrap_or(0), 4, 0, out);
        }
        literal(index.is_none().then_some(name), value, out);
        if keep {
            self.table.insert(name, value);
            self.fields[slot] = self.table.inserted();
            self.names[hash_name(name)] = self.table.inserted();
        }
    }

    fn dynamic_name(&self, name: &[u8]) -> Option<usize> {
        self.find(self.names[hash_name(name)], |n, _| n == name)
    }

    /// The wire index of the entry that was inserted as number `number`, if it is still there and fits.
    fn find(&self, number: u32, fits: impl Fn(&[u8], &[u8]) -> bool) -> Option<usize> {
        let age = self.table.inserted().wrapping_sub(number) as usize;
        let (n, v) = self.table.get(age).filter(|_| age < self.table.len() && number != 0)?;
        fits(n, v).then_some(STATIC.len() + 1 + age)
    }
}

/// Values that must not end in a table, where somebody who can add fields could guess them.
fn is_secret(name: &[u8], value: &[u8]) -> bool {
    matches!(name, b"authorization" | b"proxy-authorization" | b"set-cookie") || (name == b"cookie" && value.len() < 20)
}

fn literal(name: Option<&[u8]>, value: &[u8], out: &mut Vec<u8>) {
    if let Some(name) = name {
        string(name, out);
    }
    string(value, out);
}

fn string(v: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(v);
    if coded < v.len() {
        integer(coded, 7, 0x80, out);
        huffman::encode(v, out);
    } else {
        integer(v.len(), 7, 0, out);
        out.extend_from_slice(v);
    }
}

fn integer(mut value: usize, prefix: u8, flags: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        return out.push(flags | value as u8);
    }
    out.push(flags | mask as u8);
    value -= mask;
    while value >= 0x80 {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

/// FNV-1a; a collision only costs a field its place in the table.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let step = |h: u32, b: &u8| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193);
    let h = name.iter().fold(0x811c_9dc5, step);
    let h = value.iter().fold(step(h, &0), step);
    (h ^ (h >> 15)) | 1
}

fn hash_name(name: &[u8]) -> usize {
    hash(name, b"") as usize / 2 % SLOTS
}

const NAME_SLOTS: usize = 256;

const fn name_slot(name: &[u8]) -> usize {
    let (n, mid) = (name.len(), name.len() / 2);
    (n * 7 + name[0] as usize * 5 + name[mid] as usize * 31 + name[n - 1] as usize * 3) % NAME_SLOTS
}

/// Open-addressed: first static index of each name.
static NAMES: [u8; NAME_SLOTS] = {
    let mut slots = [0u8; NAME_SLOTS];
    let mut i = 0;
    while i < STATIC.len() {
        let name = STATIC[i].0;
        let mut slot = name_slot(name);
        while slots[slot] != 0 && !same(STATIC[slots[slot] as usize - 1].0, name) {
            slot = (slot + 1) % NAME_SLOTS;
        }
        if slots[slot] == 0 {
            slots[slot] = i as u8 + 1;
        }
        i += 1;
    }
    slots
};

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

fn static_name(name: &[u8]) -> Option<usize> {
    if name.is_empty() {
        return None;
    }
    let mut slot = name_slot(name);
    loop {
        let index = NAMES[slot] as usize;
        if STATIC.get(index.checked_sub(1)?)?.0 == name {
            return Some(index);
        }
        slot = (slot + 1) % NAME_SLOTS;
    }
}

fn static_field(first: usize, name: &[u8], value: &[u8]) -> Option<usize> {
    if value.is_empty() {
        return None;
    }
    let same = STATIC.iter().enumerate().skip(first - 1).take_while(|(_, (n, _))| *n == name);
    same.filter(|(_, (_, v))| *v == value).map(|(i, _)| i + 1).next()
}
