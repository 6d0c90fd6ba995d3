//! The file's first 64 bytes.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use super::FORMAT_VERSION;
use crate::ImageError;

pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"BRANTIMG";
const CHECKED_BYTES: usize = 56;

/// An image's name: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub [u8; 16]);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What tells one image from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub id: ImageId,
    /// CLOCK_REALTIME when the image was begun, in nanoseconds.
    pub created_ns: i64,
}

impl Identity {
    /// A new one: unique, made from the standard library's random keys, the time and our process number.
    pub fn fresh() -> Identity {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        for _ in 0..4 {
            hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
        }
        hasher.update(&now.as_nanos().to_le_bytes());
        hasher.update(&std::process::id().to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Identity { id: ImageId(id), created_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX) }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        // 16..24: flags, none so far.
        out[24..40].copy_from_slice(&self.id.0);
        out[40..48].copy_from_slice(&self.created_ns.to_le_bytes());
        // 48..56: reserved, zero.
        let sum = checksum(&out[..CHECKED_BYTES]);
        out[CHECKED_BYTES..].copy_from_slice(&sum);
        out
    }

    /// Verifies the header; the magic, then the version (so that a newer format is named as such), then
    /// the checksum.
    pub(crate) fn decode(raw: &[u8; HEADER_BYTES]) -> Result<Identity, ImageError> {
        if &raw[..8] != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        let version = u32_at(raw, 8);
        let damaged = |what| Err(ImageError::HeaderDamaged { what });
        let intact = checksum(&raw[..CHECKED_BYTES]) == raw[CHECKED_BYTES..];
        if version != FORMAT_VERSION {
            // Another version may keep its checksum elsewhere; a damaged version field looks the same.
            return Err(ImageError::FormatVersion { found: version, known: FORMAT_VERSION });
        }
        if !intact {
            return damaged("its checksum does not match");
        }
        if u32_at(raw, 12) as usize != HEADER_BYTES {
            return damaged("its length is not 64");
        }
        if u64_at(raw, 16) != 0 {
            return damaged("it has flags that this brant does not know");
        }
        if u64_at(raw, 48) != 0 {
            return damaged("its reserved bytes are not zero");
        }
        let mut id = [0; 16];
        id.copy_from_slice(&raw[24..40]);
        Ok(Identity { id: ImageId(id), created_ns: u64_at(raw, 40) as i64 })
    }
}

/// The first 8 bytes of blake3: what guards headers.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    out
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
