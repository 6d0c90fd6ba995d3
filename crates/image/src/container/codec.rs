//! Compression of sections.

/// How page packs are compressed. A pack that does not shrink is stored raw whatever was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    #[default]
    Raw,
    Lz4,
    /// With its level, 1 to 22.
    Zstd(i32),
}

pub(crate) const CODEC_RAW: u32 = 0;
const CODEC_LZ4: u32 = 1;
const CODEC_ZSTD: u32 = 2;

impl Codec {
    /// `raw` compressed and the codec's number, or `None` where it is to be stored raw.
    pub(crate) fn compress(self, raw: &[u8]) -> Option<(u32, Vec<u8>)> {
        let (number, stored) = match self {
            Codec::Raw => return None,
            Codec::Lz4 => (CODEC_LZ4, lz4_flex::block::compress(raw)),
            Codec::Zstd(level) => (CODEC_ZSTD, zstd::bulk::compress(raw, level).ok()?),
        };
        (stored.len() < raw.len()).then_some((number, stored))
    }
}

/// Whether this brant can decode the codec of this number.
pub(crate) fn is_known(codec: u32) -> bool {
    codec <= CODEC_ZSTD
}

/// Fills `raw` exactly from `stored`, or says why not. `raw` has the length that the section's header
/// gives, which the caller has bounded.
pub(crate) fn decompress(codec: u32, stored: &[u8], raw: &mut [u8]) -> Result<(), &'static str> {
    let written = match codec {
        CODEC_RAW if stored.len() == raw.len() => {
            raw.copy_from_slice(stored);
            raw.len()
        }
        CODEC_RAW => return Err("its stored and its raw length differ"),
        CODEC_LZ4 => lz4_flex::block::decompress_into(stored, raw).map_err(|_| "it is not valid lz4")?,
        CODEC_ZSTD => zstd::bulk::decompress_to_buffer(stored, raw).map_err(|_| "it is not valid zstd")?,
        _ => return Err("its codec is not known"),
    };
    if written != raw.len() {
        return Err("it decodes to another length than it says");
    }
    Ok(())
}
