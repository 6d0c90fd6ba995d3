//! Making a table.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::{AddressPair, HEAD_BYTES, Kind, TABLE_BYTES, Table, head};

/// There is no room for so much in [`TABLE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// A table that is being made.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    numbers: BTreeMap<i32, i32>,
    texts: Vec<u8>,
    /// A text was too long.
    is_too_large: bool,
}

impl Builder {
    /// What the program calls `number` is `real`. Both are said once.
    pub fn number(&mut self, number: i32, real: i32) {
        self.numbers.insert(number, real);
    }

    /// What the program says, and what that is really.
    pub fn text(&mut self, kind: Kind, from: &[u8], to: &[u8]) {
        let lengths = [from, to].map(|text| u16::try_from(text.len()));
        let [Ok(first), Ok(second)] = lengths else {
            self.is_too_large = true;
            return;
        };
        self.texts.push(kind.number());
        self.texts.extend(first.to_le_bytes());
        self.texts.extend(second.to_le_bytes());
        self.texts.extend(from);
        self.texts.extend(to);
    }

    /// An address that leads to another.
    pub fn address(&mut self, pair: &AddressPair) {
        let [(from, from_bytes), (to, to_bytes)] = [pair.from, pair.to].map(|address| address.encode());
        self.text(Kind::Address, &from[..from_bytes], &to[..to_bytes]);
    }

    /// The path of the brant that hands the table on to programs that are executed.
    pub fn brant(&mut self, path: &[u8]) {
        self.text(Kind::Brant, b"", &[path, b"\0"].concat());
    }

    /// All that `table` says, but with this brant, or none.
    pub fn same_numbers(table: &Table<'_>, brant: Option<&[u8]>) -> Builder {
        let mut builder = Builder::default();
        table.pairs().for_each(|(number, real)| builder.number(number, real));
        for kind in [Kind::Host, Kind::Path, Kind::Terminal, Kind::Address] {
            table.texts(kind).for_each(|(from, to)| builder.text(kind, from, to));
        }
        if let Some(path) = brant {
            builder.brant(path);
        }
        builder
    }

    /// The table's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        let by_virtual = completed(&self.numbers);
        let by_real: BTreeMap<i32, i32> = by_virtual.iter().map(|(number, real)| (*real, *number)).collect();
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend(head(by_virtual.len(), self.texts.len()));
        for (key, value) in by_virtual.iter().chain(&by_real) {
            bytes.extend(key.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(&self.texts);
        if self.is_too_large || bytes.len() > TABLE_BYTES { Err(TooLarge) } else { Ok(bytes) }
    }
}

/// The pairs that say something, completed to a permutation.
fn completed(numbers: &BTreeMap<i32, i32>) -> BTreeMap<i32, i32> {
    let back: BTreeMap<i32, i32> = numbers.iter().map(|(number, real)| (*real, *number)).collect();
    let mut all: BTreeMap<i32, i32> = numbers
        .iter()
        .filter(|(number, real)| number != real)
        .map(|(number, real)| (*number, *real))
        .collect();
    // A real number that is nobody's virtual one: the chain that leads to it begins at a virtual number that is
    // nobody's real one.
    for real in numbers.values().filter(|real| !numbers.contains_key(real)) {
        let mut first = *real;
        while let Some(number) = back.get(&first) {
            first = *number;
        }
        all.insert(*real, first);
    }
    all
}
