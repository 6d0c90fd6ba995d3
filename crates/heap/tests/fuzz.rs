//! A short, seeded fuzz run for CI: damaged images of heaps with checksums made right again, so that what lies behind them is reached. No outcome
//! is wrong but a panic. `BRANT_FUZZ_COUNT` says how many images are tried; `fuzz/` has the same for libFuzzer.

#[path = "support/forge.rs"]
mod forge;

use std::path::Path;

use brant_heap::{Heap, Image, Options, load, save};

const COUNT_DEFAULT: u64 = 3000;
/// An image of heaps has megabytes, whose checksums are made anew: fewer are tried than of other formats.
const SHARE: u64 = 8;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// An image of two generations of two heaps, one of them in debug mode.
fn whole_image(path: &Path) -> Vec<u8> {
    let options = |debug| Options { range_bytes: 16 << 20, debug, ..Options::default() };
    let heaps =
        [Heap::create_with("fuzz-quick", &options(false)), Heap::create_with("fuzz-debug", &options(true))];
    let heaps = heaps.map(|heap| heap.expect("the names are free"));
    for generation in 0..2u64 {
        for heap in heaps {
            let blocks: Vec<_> =
                (0..300).map(|n| heap.allocate(n * 7 % 900).expect("there is room")).collect();
            // SAFETY: the blocks were allocated above, and each is freed once.
            blocks.iter().step_by(3).for_each(|block| unsafe { heap.free(*block) }.expect("it is live"));
            heap.allocate(100_000).expect("there is room");
            heap.put("generation", &generation).expect("there is room");
        }
        save(path, &heaps).expect("the folder can be written");
    }
    // SAFETY: nobody uses them any more.
    heaps.into_iter().for_each(|heap| unsafe { heap.destroy() });
    std::fs::read(path).expect("it was saved")
}

/// Changes one thing: near the beginning, in the index, in a heap's first groups, or anywhere.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let newest = forge::index_of(bytes, 4096).unwrap_or(0..1);
    let at = match random.below(8) {
        0 => random.below(72),
        1 => 4096 * (1 + random.below(2)) + random.below(96),
        2 | 3 => newest.start + random.below(newest.len().max(1)),
        // Header, slots and entries come first of a heap.
        4..=6 => 12288 + random.below(4 << 16),
        _ => random.below(bytes.len().max(1)),
    };
    let at = at.min(bytes.len().saturating_sub(9));
    match random.below(6) {
        0 | 1 if bytes.len() > at => bytes[at] ^= 1 << random.below(8),
        2 if bytes.len() > at + 8 => {
            let value = [0, 1, u64::MAX, 1 << 40, random.0, 65536][random.below(6)];
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        3 if bytes.len() > at + 4 => {
            let value = [0, 1, u32::MAX, random.0 as u32][random.below(4)];
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        4 if bytes.len() > at => bytes[at] = random.0 as u8,
        _ if random.below(20) == 0 => bytes.truncate(at),
        _ => {}
    }
}

/// Whether the image was accepted.
fn read_all(path: &Path) -> bool {
    if let Ok(loaded) = load(path) {
        // SAFETY: nobody uses them.
        loaded.iter().for_each(|heap| unsafe { heap.destroy() });
    }
    let Ok(image) = Image::open(path) else { return false };
    let Ok(heaps) = image.heaps() else { return false };
    heaps.iter().for_each(|heap| drop(image.pieces(heap)));
    let _ = image.differences(&image);
    image.verify().is_ok()
}

#[test]
fn forged_images_never_panic() {
    let count =
        std::env::var("BRANT_FUZZ_COUNT").map_or(COUNT_DEFAULT, |count| count.parse().expect("a number"));
    let path = std::env::temp_dir().join(format!("brant-heap-fuzz-{}", std::process::id()));
    let whole = whole_image(&path);
    let (mut accepted, mut refused) = (0, 0);
    for number in 0..count / SHARE {
        let mut random = Random(0x6865_6170 + number * 0x9e37_79b9);
        let mut forged = whole.clone();
        for _ in 0..=random.below(4) {
            mutate(&mut forged, &mut random);
        }
        forge::reseal(&mut forged);
        std::fs::write(&path, &forged).expect("the folder can be written");
        if read_all(&path) {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    std::fs::remove_file(&path).expect("it is ours");
    // The run must reach both sides of every check.
    assert!(count < 100 || (accepted > 0 && refused > 0), "{accepted} accepted, {refused} refused");
}
