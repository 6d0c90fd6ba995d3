//! A short, seeded fuzz run for CI: damaged images with checksums made right again, so that the decoders and
//! the validation meet them. No outcome is wrong but a panic, or an image that reads as one thing and writes
//! as another. `BRANT_FUZZ_COUNT` says how many images are tried; `fuzz/` has the same for libFuzzer.

mod support;

use brant_image::{Codec, Head, Image};
use support::generate::Generator;
use support::{file_of, forge, image_of, noted_image_of};

const COUNT_DEFAULT: u64 = 3000;
const SEED: u64 = 0x6272_616e_7400;

#[test]
fn forged_images_never_panic() {
    let count = std::env::var("BRANT_FUZZ_COUNT").map_or(COUNT_DEFAULT, |count| count.parse().unwrap());
    let (mut accepted, mut refused) = (0, 0);
    let mut bytes = Vec::new();
    for number in 0..count {
        let mut generator = Generator(SEED + number);
        if number % 8 == 0 {
            let checkpoint = generator.checkpoint();
            let codec = generator.one_of(&[Codec::Raw, Codec::Auto, Codec::Lz4, Codec::Zstd(1)]);
            bytes = noted_image_of(&checkpoint, &generator.pages(&checkpoint), codec).unwrap();
        }
        let mut forged = bytes.clone();
        for _ in 0..=generator.below(4) {
            mutate(&mut forged, &mut generator);
        }
        forge::reseal(&mut forged);
        if read_all(&forged) {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    // The run must reach both sides of every check.
    assert!(count < 100 || (accepted > 0 && refused > 0), "{accepted} accepted, {refused} refused");
}

/// Whether the image was accepted. What is accepted is read wholly and can be written again.
fn read_all(bytes: &[u8]) -> bool {
    let file = file_of(bytes);
    let _ = Head::read(&file);
    let Ok(image) = Image::open(file) else { return false };
    if image.verify().is_err() {
        return false;
    }
    image.notes("record").unwrap();
    for owner in image.owners() {
        image.read_blob(owner, 1 << 16).unwrap();
    }
    let again = image_of(image.checkpoint(), &[], Codec::Raw).unwrap();
    assert!(Image::open(file_of(&again)).unwrap().checkpoint() == image.checkpoint());
    true
}

/// Changes one thing: a byte, a number in a header, a stretch of bytes, the length.
fn mutate(bytes: &mut Vec<u8>, generator: &mut Generator) {
    let length = bytes.len() as u64;
    if length < 2 {
        return;
    }
    let at = generator.below(length) as usize;
    match generator.below(8) {
        0 | 1 => bytes[at] ^= 1 << generator.below(8),
        2 => bytes[at] = generator.u64() as u8,
        3 => {
            let frames = forge::frames(bytes);
            let Some(header) = generator.known(&frames, |frame| frame.header.start) else { return };
            let field = header + 4 * generator.below(8) as usize;
            let value = generator.u64().to_le_bytes();
            bytes[field..field + 4].copy_from_slice(&value[..4]);
        }
        4 => {
            let value = generator.u64().to_le_bytes();
            let end = (at + 8).min(bytes.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        5 => bytes.truncate(at),
        6 => {
            let extra = generator.bytes(40);
            bytes.splice(at..at, extra);
        }
        _ => {
            let end = (at + generator.below(40) as usize).min(bytes.len());
            bytes.drain(at..end);
        }
    }
}
