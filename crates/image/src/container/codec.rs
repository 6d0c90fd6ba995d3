//! Compression of sections.

/// How page packs are compressed. A pack that does not shrink is stored raw whatever was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    #[default]
    Raw,
    /// By what a sample of each pack shows: zstd where that halves it again, else fast lz4.
    Auto,
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

/// Where lz4 shrinks a sample of a pack to this part, in percent, zstd shrinks the pack much further. Above it the two
/// give the same for memory that was measured, and lz4 takes a third of the time.
const PAYS_PERCENT_MAX: usize = 40;
const SAMPLES: usize = 2;
const SAMPLE_BYTES: usize = 16 << 10;
const AUTO_ZSTD_LEVEL: i32 = -1;
/// How fast lz4 passes over what does not shrink at once; 1 is its default.
const AUTO_LZ4_ACCELERATION: i32 = 64;

/// A codec with the tables that it works with, for one pack after the other.
pub(crate) struct Compressor {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    pub(crate) fn new(codec: Codec) -> Compressor {
        let zstd = match codec {
            Codec::Zstd(level) => zstd::bulk::Compressor::new(level).ok(),
            Codec::Auto => zstd::bulk::Compressor::new(AUTO_ZSTD_LEVEL).ok(),
            Codec::Raw | Codec::Lz4 => None,
        };
        Compressor { codec, zstd }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// Compresses `raw` into the beginning of `stored`, whose contents and length are lost; gives the codec's number and how many
    /// bytes it took, or `None` where `raw` is to be stored as it is.
    pub(crate) fn compress(&mut self, raw: &[u8], stored: &mut Vec<u8>) -> Option<(u32, usize)> {
        let (number, bytes) = match self.codec {
            Codec::Raw => return None,
            Codec::Lz4 => (CODEC_LZ4, lz4(raw, 1, stored)?),
            Codec::Auto if !pays(raw, stored) => (CODEC_LZ4, lz4(raw, AUTO_LZ4_ACCELERATION, stored)?),
            Codec::Auto | Codec::Zstd(_) => {
                // It writes to a vector's spare room, which need not be zeroed first.
                stored.clear();
                stored.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                (CODEC_ZSTD, self.zstd.as_mut()?.compress_to_buffer(raw, stored).ok()?)
            }
        };
        (bytes < raw.len()).then_some((number, bytes))
    }
}

/// Compresses by lz4. The vector only grows: what is longer than what was written is not zeroed again each time.
fn lz4(raw: &[u8], acceleration: i32, stored: &mut Vec<u8>) -> Option<usize> {
    let bytes_max = lz4::block::compress_bound(raw.len()).ok()?;
    if stored.len() < bytes_max {
        stored.resize(bytes_max, 0);
    }
    let mode = lz4::block::CompressionMode::FAST(acceleration);
    lz4::block::compress_to_buffer(raw, Some(mode), false, stored).ok()
}

/// Whether samples of `raw` say that much effort pays.
fn pays(raw: &[u8], room: &mut Vec<u8>) -> bool {
    let (mut before, mut after) = (0, 0);
    for sample in 1..=SAMPLES {
        let at = (raw.len() * sample / (SAMPLES + 1)).min(raw.len().saturating_sub(SAMPLE_BYTES));
        let piece = &raw[at..raw.len().min(at + SAMPLE_BYTES)];
        before += piece.len();
        after += lz4(piece, 1, room).unwrap_or(piece.len());
    }
    after * 100 <= before * PAYS_PERCENT_MAX
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
        CODEC_LZ4 => lz4::block::decompress_to_buffer(stored, Some(raw.len() as i32), raw)
            .map_err(|_| "it is not valid lz4")?,
        CODEC_ZSTD => zstd::bulk::decompress_to_buffer(stored, raw).map_err(|_| "it is not valid zstd")?,
        _ => return Err("its codec is not known"),
    };
    if written != raw.len() {
        return Err("it decodes to another length than it says");
    }
    Ok(())
}
