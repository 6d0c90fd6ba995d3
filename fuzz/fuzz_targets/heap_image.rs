//! Reads arbitrary bytes as an image of heaps, as they are and with their checksums made right.
//!
//! `cargo +nightly fuzz run heap_image`, from the folder that holds `fuzz/`.
#![no_main]

use brant_heap::Image;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/heap/tests/support/forge.rs"]
mod forge;

fuzz_target!(|data: &[u8]| {
    read_all(data);
    let mut forged = data.to_vec();
    forge::reseal(&mut forged);
    read_all(&forged);
});

fn read_all(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("brant-fuzz-heap-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    let Ok(image) = Image::open(&path) else { return };
    let Ok(heaps) = image.heaps() else { return };
    heaps.iter().for_each(|heap| drop(image.pieces(heap)));
    let _ = image.verify();
}
