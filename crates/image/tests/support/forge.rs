//! An image's frame after docs/format.md, written independently of the crate: finds sections and makes
//! checksums right again after bytes were changed, so that what lies behind the checksums is tested too.

use std::ops::Range;

pub const HEADER: usize = 64;
pub const SECTION_HEADER: usize = 72;

/// A section's place in the file.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u16,
    pub header: Range<usize>,
    pub payload: Range<usize>,
}

/// The sections as their headers say, as far as they lie in the file.
pub fn frames(image: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = HEADER;
    while let Some(header) = image.get(at..at + SECTION_HEADER) {
        let kind = u16::from_le_bytes(header[..2].try_into().unwrap());
        let stored = u64::from_le_bytes(header[16..24].try_into().unwrap());
        let start = at + SECTION_HEADER;
        let Some(end) = usize::try_from(stored).ok().and_then(|stored| start.checked_add(stored)) else {
            break;
        };
        if end > image.len() {
            break;
        }
        frames.push(Frame { kind, header: at..start, payload: start..end });
        at = end;
    }
    frames
}

/// Makes every checksum and the closing section right for the bytes as they are.
pub fn reseal(image: &mut [u8]) {
    if image.len() < HEADER {
        return;
    }
    guard(&mut image[..HEADER], 56);
    let all = frames(image);
    let mut headers = blake3::Hasher::new();
    headers.update(&image[..HEADER]);
    for (index, frame) in all.iter().enumerate() {
        if frame.kind == 2 {
            reseal_index(&mut image[frame.payload.clone()]);
        }
        if frame.kind == 3 && frame.payload.len() == 48 {
            let end = &mut image[frame.payload.clone()];
            end[..8].copy_from_slice(&(frame.payload.end as u64).to_le_bytes());
            end[8..12].copy_from_slice(&(index as u32 + 1).to_le_bytes());
            end[16..].copy_from_slice(headers.finalize().as_bytes());
        }
        let digest = blake3::hash(&image[frame.payload.clone()]);
        let header = &mut image[frame.header.clone()];
        header[32..64].copy_from_slice(digest.as_bytes());
        guard(header, 64);
        headers.update(header);
    }
}

fn reseal_index(pack: &mut [u8]) {
    let Some(runs) = pack.get(..4) else { return };
    let runs = u32::from_le_bytes(runs.try_into().unwrap()) as usize;
    let checked = 8 + 24 * runs;
    if checked + 32 <= pack.len() {
        let digest = blake3::hash(&pack[..checked]);
        pack[checked..checked + 32].copy_from_slice(digest.as_bytes());
    }
}

/// The first 8 bytes of blake3 over the bytes before `at`, stored there.
fn guard(header: &mut [u8], at: usize) {
    let sum = blake3::hash(&header[..at]);
    header[at..at + 8].copy_from_slice(&sum.as_bytes()[..8]);
}
