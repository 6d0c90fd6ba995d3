//! The table from virtual identities to real ones: what a restored program calls its processes, and what the kernel calls
//! them now; and the same of names.
//!
//! Numbers are a *permutation*: who has a number in the table's real column that is not in its virtual one gets a virtual number
//! too, one that nobody has any more. So no two processes have one virtual number, whatever numbers the kernel gives to new
//! ones, and a table never changes while its programs run. Nearly every number stands for itself and is not in the table.
//!
//! The layout, all little-endian: magic (16 bytes), version (4), count of pairs (4), bytes of texts (4), 4 bytes of nothing; the
//! pairs (virtual, real), sorted by the virtual number; the pairs (real, virtual), sorted by the real number; the texts.
//! A text is its kind (1 byte), two lengths (2 bytes each), what it stands for, and what stands for it.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(feature = "encode", test))]
extern crate alloc;

mod address;
#[cfg(any(feature = "encode", test))]
mod encode;

pub use address::{Address, AddressPair, End, SOCKET_BYTES};

#[cfg(any(feature = "encode", test))]
pub use encode::{Builder, TooLarge};

/// The name of the memory that holds a table, as memfd_create(2) has it.
pub const NAME: &str = "brant-identities";
/// Bytes of that memory, of which hardly any are used.
pub const TABLE_BYTES: usize = 1 << 20;

const MAGIC: &[u8; 16] = b"brant identities";
const VERSION: u32 = 1;
/// What stands before a table's pairs.
pub const HEAD_BYTES: usize = 32;
const PAIR_BYTES: usize = 8;
const TEXT_HEAD_BYTES: usize = 5;

/// What a text of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host's name: what it was; what stands for it is empty.
    Host,
    /// The beginning of paths.
    Path,
    /// A terminal: its path.
    Terminal,
    /// An internet address: its port (2 bytes, big-endian; 0 means all) and 4 or 16 bytes.
    Address,
    /// The path of the brant that hands the table on to programs that are executed, and a zero byte. What it stands for is empty.
    Brant,
}

impl Kind {
    /// As the table has it.
    pub const fn number(self) -> u8 {
        match self {
            Kind::Host => 1,
            Kind::Path => 2,
            Kind::Terminal => 3,
            Kind::Address => 4,
            Kind::Brant => 5,
        }
    }

    fn from_number(number: u8) -> Option<Kind> {
        [Kind::Host, Kind::Path, Kind::Terminal, Kind::Address, Kind::Brant]
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

/// The beginning of a table with so many pairs and so many bytes of texts, both less than [`TABLE_BYTES`].
pub fn head(pairs: usize, texts_bytes: usize) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
    bytes[20..24].copy_from_slice(&(pairs as u32).to_le_bytes());
    bytes[24..28].copy_from_slice(&(texts_bytes as u32).to_le_bytes());
    bytes
}

/// A table that was read.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    by_virtual: &'a [u8],
    by_real: &'a [u8],
    texts: &'a [u8],
}

impl<'a> Table<'a> {
    /// The table of no difference.
    pub const SAME: Table<'static> = Table { by_virtual: &[], by_real: &[], texts: &[] };

    /// Reads a table; `None` where the bytes are none.
    pub fn read(bytes: &'a [u8]) -> Option<Table<'a>> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if bytes.get(..16)? != MAGIC || word(16)? != VERSION {
            return None;
        }
        let pairs = (word(20)? as usize).checked_mul(PAIR_BYTES)?;
        let texts = word(24)? as usize;
        let rest = bytes.get(HEAD_BYTES..)?;
        let (by_virtual, rest) = rest.split_at_checked(pairs)?;
        let (by_real, rest) = rest.split_at_checked(pairs)?;
        Some(Table { by_virtual, by_real, texts: rest.get(..texts)? })
    }

    /// What the kernel calls what the program calls `number`.
    pub fn real(&self, number: i32) -> i32 {
        find(self.by_virtual, number).unwrap_or(number)
    }

    /// What the program calls what the kernel calls `number`.
    pub fn apparent(&self, number: i32) -> i32 {
        find(self.by_real, number).unwrap_or(number)
    }

    /// Whether every number stands for itself.
    pub fn is_same(&self) -> bool {
        self.by_virtual.is_empty()
    }

    /// Whether any path or terminal has another name.
    pub fn has_paths(&self) -> bool {
        self.texts(Kind::Path).next().is_some() || self.texts(Kind::Terminal).next().is_some()
    }

    /// The path of the brant that hands the table on, ending with a zero byte.
    pub fn brant(&self) -> Option<&'a [u8]> {
        self.texts(Kind::Brant).map(|(_, path)| path).find(|path| path.last() == Some(&0))
    }

    /// All pairs of a virtual number and the real one, those too that only complete the permutation.
    pub fn pairs(&self) -> impl Iterator<Item = (i32, i32)> + use<'a> {
        self.by_virtual.chunks_exact(PAIR_BYTES).map(pair)
    }

    /// All texts of a kind: what the program says, and what that is really.
    pub fn texts(&self, kind: Kind) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.texts;
        core::iter::from_fn(move || {
            let (found, after) = text(rest)?;
            rest = after;
            Some(found)
        })
        .filter(move |(number, ..)| Kind::from_number(*number) == Some(kind))
        .map(|(_, from, to)| (from, to))
    }
}

type Text<'a> = (u8, &'a [u8], &'a [u8]);

fn text(bytes: &[u8]) -> Option<(Text<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(TEXT_HEAD_BYTES)?;
    let length = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let (from, rest) = rest.split_at_checked(length(1))?;
    let (to, rest) = rest.split_at_checked(length(3))?;
    Some(((head[0], from, to), rest))
}

fn pair(bytes: &[u8]) -> (i32, i32) {
    let word = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (word(0), word(4))
}

/// What stands beside `number` in sorted pairs.
fn find(pairs: &[u8], number: i32) -> Option<i32> {
    let (mut low, mut high) = (0, pairs.len() / PAIR_BYTES);
    while low < high {
        let middle = low + (high - low) / 2;
        let (key, value) = pair(pairs.get(middle * PAIR_BYTES..(middle + 1) * PAIR_BYTES)?);
        match key.cmp(&number) {
            core::cmp::Ordering::Equal => return Some(value),
            core::cmp::Ordering::Less => low = middle + 1,
            core::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn who_has_another_s_number_gets_a_free_one() {
        let mut builder = Builder::default();
        // The kernel has given 101 to the process that was 100; whoever was 101 is 200 now.
        builder.number(100, 101);
        builder.number(101, 200);
        builder.number(7, 7);
        builder.text(Kind::Host, b"old", b"");
        builder.text(Kind::Path, b"/a", b"/b");
        builder.text(Kind::Path, b"/c", b"/d/e");
        builder.brant(b"/bin/brant");
        let bytes = builder.encode().unwrap();
        let table = Table::read(&bytes).unwrap();
        assert_eq!([100, 101, 200, 7, 8].map(|number| table.real(number)), [101, 200, 100, 7, 8]);
        assert_eq!([101, 200, 100, 7, 8].map(|number| table.apparent(number)), [100, 101, 200, 7, 8]);
        assert_eq!(table.texts(Kind::Host).collect::<Vec<_>>(), [(&b"old"[..], &b""[..])]);
        assert_eq!(
            table.texts(Kind::Path).collect::<Vec<_>>(),
            [(&b"/a"[..], &b"/b"[..]), (&b"/c"[..], &b"/d/e"[..])]
        );
        assert!(table.texts(Kind::Terminal).next().is_none());
        assert_eq!(table.brant(), Some(&b"/bin/brant\0"[..]));
        let other = Builder::same_numbers(&table, None).encode().unwrap();
        let other = Table::read(&other).unwrap();
        assert_eq!((other.brant(), other.real(100), other.apparent(200)), (None, 101, 101));
        assert!(other.pairs().eq(table.pairs()));
        assert!(other.texts(Kind::Path).eq(table.texts(Kind::Path)));
        let again = Builder::same_numbers(&other, Some(b"/b")).encode().unwrap();
        assert_eq!(Table::read(&again).unwrap().brant(), Some(&b"/b\0"[..]));
        assert!(Table::SAME.brant().is_none());
    }

    #[test]
    fn the_table_of_no_difference() {
        assert_eq!((Table::SAME.real(5), Table::SAME.apparent(5)), (5, 5));
        let bytes = Builder::default().encode().unwrap();
        assert!(Table::read(&bytes).unwrap().is_same());
        assert!(Table::read(&[0; 64]).is_none());
    }

    #[test]
    fn too_much_is_refused() {
        let mut builder = Builder::default();
        (1..200_000).for_each(|number| builder.number(number, number + 1));
        assert!(builder.encode().is_err());
    }

    proptest! {
        #[test]
        fn tables_are_permutations(numbers in proptest::collection::btree_map(1..60i32, 1..60i32, 0..40)) {
            let mut reals = BTreeSet::new();
            let numbers: BTreeMap<i32, i32> =
                numbers.into_iter().filter(|(_, real)| reals.insert(*real)).collect();
            let mut builder = Builder::default();
            numbers.iter().for_each(|(number, real)| builder.number(*number, *real));
            let bytes = builder.encode().unwrap();
            let table = Table::read(&bytes).unwrap();
            for (number, real) in numbers {
                prop_assert_eq!(table.real(number), real);
            }
            let mut all = BTreeSet::new();
            for number in 0..100 {
                prop_assert_eq!(table.apparent(table.real(number)), number);
                prop_assert!(all.insert(table.real(number)));
            }
        }

        #[test]
        fn foreign_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if bytes.len() > 20 {
                bytes[..16].copy_from_slice(MAGIC);
                bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
            }
            if let Some(table) = Table::read(&bytes) {
                table.real(5);
                table.apparent(5);
                table.texts(Kind::Path).count();
            }
        }
    }
}
