//! Compression of sections.

/// How page packs are compressed. A pack that does not shrink is stored raw whatever was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    #[default]
    Raw,
    Lz4,
    /// With its level: 1 to 22, or -1 to [`Codec::ZSTD_LEVEL_MIN`], the faster the lower.
    Zstd(i32),
}

pub(crate) const CODEC_RAW: u32 = 0;
const CODEC_LZ4: u32 = 1;
const CODEC_ZSTD: u32 = 2;

impl Codec {
    pub const ZSTD_LEVEL_MIN: i32 = -50;
    pub const ZSTD_LEVEL_MAX: i32 = 22;
}

/// A codec with the tables that it works with, for one pack after the other.
pub(crate) struct Compressor {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    pub(crate) fn new(codec: Codec) -> Compressor {
        let zstd = match codec {
            Codec::Zstd(level) => zstd::bulk::Compressor::new(level).ok(),
            _ => None,
        };
        Compressor { codec, zstd }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// Compresses `raw` into `stored`, whose contents are lost; gives the codec's number, or `None` where it is
    /// to be stored raw.
    pub(crate) fn compress(&mut self, raw: &[u8], stored: &mut Vec<u8>) -> Option<u32> {
        let (number, bytes) = match (self.codec, &mut self.zstd) {
            (Codec::Lz4, _) => {
                stored.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                (CODEC_LZ4, lz4_flex::block::compress_into(raw, stored).ok()?)
            }
            (Codec::Zstd(_), Some(zstd)) => {
                // It writes to a vector's spare room, which need not be zeroed first.
                stored.clear();
                stored.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                (CODEC_ZSTD, zstd.compress_to_buffer(raw, stored).ok()?)
            }
            _ => return None,
        };
        stored.truncate(bytes);
        (bytes < raw.len()).then_some(number)
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.codec.fmt(f)
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
