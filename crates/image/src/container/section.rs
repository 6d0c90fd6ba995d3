//! The frame of a section: 72 bytes before each payload.

use std::fmt;

use super::header::{checksum, u16_at, u32_at, u64_at};

pub(crate) const SECTION_HEADER_BYTES: usize = 72;
const CHECKED_BYTES: usize = 64;

/// Set in `flags` where a reader that does not know the kind and version must give up.
pub(crate) const FLAG_CRITICAL: u32 = 1;

pub(crate) const SECTION_VERSION: u16 = 1;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// The checkpoint's model, in protocol buffers. The first section, exactly once.
    Manifest,
    /// Page contents, with an index.
    PagePack,
    /// The closing section.
    End,
    /// What others than the engine keep of a process. Never critical.
    Note,
    /// Any other number.
    Other(u16),
}

impl SectionKind {
    pub(crate) fn number(self) -> u16 {
        match self {
            SectionKind::Manifest => 1,
            SectionKind::PagePack => 2,
            SectionKind::End => 3,
            SectionKind::Note => 4,
            SectionKind::Other(number) => number,
        }
    }

    pub(crate) fn from_number(number: u16) -> SectionKind {
        match number {
            1 => SectionKind::Manifest,
            2 => SectionKind::PagePack,
            3 => SectionKind::End,
            4 => SectionKind::Note,
            other => SectionKind::Other(other),
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SectionKind::Manifest => f.write_str("manifest"),
            SectionKind::PagePack => f.write_str("page pack"),
            SectionKind::End => f.write_str("end"),
            SectionKind::Note => f.write_str("note"),
            SectionKind::Other(number) => write!(f, "kind {number}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectionHeader {
    pub(crate) kind: SectionKind,
    pub(crate) version: u16,
    pub(crate) flags: u32,
    pub(crate) codec: u32,
    pub(crate) sequence: u32,
    /// Length of the payload in the file.
    pub(crate) stored_bytes: u64,
    /// Length of what the codec gives.
    pub(crate) raw_bytes: u64,
    /// blake3 of the payload as stored.
    pub(crate) digest: [u8; 32],
}

/// How much memory a page pack holds whose header this is, in bytes; `None` for anything else. For who watches an image
/// being written: the writer writes each header by itself.
pub fn section_memory_bytes(written: &[u8]) -> Option<u64> {
    let header = SectionHeader::decode(written.try_into().ok()?)?;
    (header.kind == SectionKind::PagePack).then_some(header.raw_bytes)
}

impl SectionHeader {
    pub(crate) fn encode(&self) -> [u8; SECTION_HEADER_BYTES] {
        let mut out = [0; SECTION_HEADER_BYTES];
        out[..2].copy_from_slice(&self.kind.number().to_le_bytes());
        out[2..4].copy_from_slice(&self.version.to_le_bytes());
        out[4..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.codec.to_le_bytes());
        out[12..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[32..64].copy_from_slice(&self.digest);
        let sum = checksum(&out[..CHECKED_BYTES]);
        out[CHECKED_BYTES..].copy_from_slice(&sum);
        out
    }

    /// `None` where the checksum does not match.
    pub(crate) fn decode(raw: &[u8; SECTION_HEADER_BYTES]) -> Option<SectionHeader> {
        if checksum(&raw[..CHECKED_BYTES]) != raw[CHECKED_BYTES..] {
            return None;
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&raw[32..64]);
        Some(SectionHeader {
            kind: SectionKind::from_number(u16_at(raw, 0)),
            version: u16_at(raw, 2),
            flags: u32_at(raw, 4),
            codec: u32_at(raw, 8),
            sequence: u32_at(raw, 12),
            stored_bytes: u64_at(raw, 16),
            raw_bytes: u64_at(raw, 24),
            digest,
        })
    }

    pub(crate) fn is_critical(&self) -> bool {
        self.flags & FLAG_CRITICAL != 0
    }
}
