//! The fixed parts of an image file: its preamble and its two heads.
//!
//! ```text
//! 0      preamble: magic, version, id, checksum. Never changes
//! 4096   head of the even generations
//! 8192   head of the odd generations: where the index is, its checksum, and one of the head itself
//! 12288  groups of 64 KiB, and indices, in the order in which they were written
//! ```
//!
//! What was written is never written again: a save appends groups and an index, makes them durable, then writes the head that is older. So an image
//! is whole at every instant, and who has it mapped sees no change. All numbers are little-endian.

use super::index::Index;
use crate::error::Error;
use crate::system::{File, now_ns, random};

pub(crate) const FORMAT_VERSION: u32 = 1;
/// The bytes that are checked and written as one.
pub(crate) const GROUP_BYTES: usize = crate::layout::SLICE_BYTES;
pub(crate) const BODY_AT: u64 = 12288;

const MAGIC: &[u8; 8] = b"BRANTHP\n";
const HEAD_MAGIC: &[u8; 8] = b"heaphead";
const PREAMBLE_BYTES: usize = 72;
const HEAD_BYTES: usize = 128;
/// An index may have no more: that of 8 TiB.
const INDEX_BYTES_MAX: u64 = 8 << 30;

pub(crate) type Hash = [u8; 32];

/// What tells images apart. Written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) id: [u8; 16],
    pub(crate) created_ns: u64,
}

/// One generation of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) generation: u64,
    pub(crate) index_at: u64,
    pub(crate) index_bytes: u64,
    pub(crate) index_hash: Hash,
    /// Where the next save appends.
    pub(crate) file_bytes: u64,
    pub(crate) saved_ns: u64,
}

/// All of an image but its groups, verified.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) preamble: Preamble,
    pub(crate) head: Head,
    pub(crate) index: Index,
}

impl Preamble {
    pub(crate) fn fresh() -> Preamble {
        Preamble { id: random(), created_ns: now_ns() }
    }

    pub(crate) fn encode(&self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(GROUP_BYTES as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id);
        bytes[32..40].copy_from_slice(&self.created_ns.to_le_bytes());
        let hash = blake3::hash(&bytes[..40]);
        bytes[40..].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// The magic, then the version, so that a newer format is named as such, then the checksum.
    fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Preamble, Error> {
        if &bytes[..8] != MAGIC {
            return Err(Error::NotAnImage);
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(Error::Version { found: version, known: FORMAT_VERSION });
        }
        if blake3::hash(&bytes[..40]).as_bytes() != &bytes[40..] {
            return Err(Error::Damaged { what: "the checksum of the preamble does not match", at: 0 });
        }
        if u32_at(bytes, 12) as usize != GROUP_BYTES {
            return Err(Error::Damaged { what: "its groups have another size", at: 12 });
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[16..32]);
        Ok(Preamble { id, created_ns: u64_at(bytes, 32) })
    }
}

impl Head {
    /// Where the head of a generation lies.
    pub(crate) fn place(generation: u64) -> u64 {
        4096 + (generation % 2) * 4096
    }

    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(HEAD_MAGIC);
        let numbers = [self.generation, self.index_at, self.index_bytes, self.file_bytes, self.saved_ns];
        for (place, number) in bytes[8..48].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[48..80].copy_from_slice(&self.index_hash);
        let hash = blake3::hash(&bytes[..96]);
        bytes[96..].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// `None` for what is not whole.
    fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Head> {
        if &bytes[..8] != HEAD_MAGIC || blake3::hash(&bytes[..96]).as_bytes() != &bytes[96..] {
            return None;
        }
        let mut index_hash = [0; 32];
        index_hash.copy_from_slice(&bytes[48..80]);
        let head = Head {
            generation: u64_at(bytes, 8),
            index_at: u64_at(bytes, 16),
            index_bytes: u64_at(bytes, 24),
            file_bytes: u64_at(bytes, 32),
            saved_ns: u64_at(bytes, 40),
            index_hash,
        };
        let index_end = head.index_at.checked_add(head.index_bytes)?;
        let is_sane =
            head.index_at >= BODY_AT && head.index_bytes <= INDEX_BYTES_MAX && index_end <= head.file_bytes;
        is_sane.then_some(head)
    }
}

/// Reads preamble, newest head and index.
pub(crate) fn open(file: &File) -> Result<Opened, Error> {
    let read = |errno| Error::Read { errno };
    let status = file.status().map_err(read)?;
    if !status.is_regular {
        return Err(Error::NotAnImage);
    }
    let mut bytes = [0; PREAMBLE_BYTES];
    let count = file.read_at(&mut bytes, 0).map_err(read)?;
    if count < PREAMBLE_BYTES && !bytes.starts_with(MAGIC) {
        return Err(Error::NotAnImage);
    }
    let preamble = Preamble::decode(&bytes)?;
    let mut newest: Option<Head> = None;
    for place in [Head::place(0), Head::place(1)] {
        let mut bytes = [0; HEAD_BYTES];
        file.read_at(&mut bytes, place).map_err(read)?;
        if bytes == [0; HEAD_BYTES] {
            continue;
        }
        // A head is written as one sector, after what it tells of is durable: half of one is damage, and the older one must not pass for the
        // newer.
        let head = Head::decode(&bytes).filter(|head| Head::place(head.generation) == place);
        let head = head.ok_or(Error::Damaged { what: "a head is not whole", at: place })?;
        if newest.is_none_or(|newest| newest.generation < head.generation) {
            newest = Some(head);
        }
    }
    let head = newest.ok_or(Error::Damaged { what: "there is no head", at: Head::place(0) })?;
    if head.file_bytes > status.bytes {
        return Err(Error::Damaged { what: "the file ends too early", at: status.bytes });
    }
    let index = Index::read(file, &head)?;
    Ok(Opened { preamble, head, index })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
