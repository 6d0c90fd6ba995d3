//! Opens arbitrary bytes as an image, as they are and with their checksums made right.
//!
//! `cargo +nightly fuzz run image_open fixtures/images/v1`, from the folder that holds `fuzz/`.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use brant_image::{Head, Image};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/image/tests/support/forge.rs"]
mod forge;

fuzz_target!(|data: &[u8]| {
    read_all(data);
    let mut forged = data.to_vec();
    forge::reseal(&mut forged);
    read_all(&forged);
});

fn read_all(bytes: &[u8]) {
    let file = scratch();
    file.set_len(0).expect("the scratch file is ours");
    file.write_all_at(bytes, 0).expect("the scratch file is ours");
    let _ = Head::read(file);
    let Ok(image) = Image::open(file.try_clone().expect("a descriptor is free")) else { return };
    let _ = image.notes("record");
    let _ = brant_image::inspect::inspect(&image).to_string();
    if image.verify().is_ok() {
        for owner in image.owners() {
            let _ = image.read_blob(owner, 1 << 16);
        }
    }
}

/// One file without a name for the whole run.
fn scratch() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("brant-fuzz-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        std::fs::remove_file(&path).expect("the scratch file is ours");
        file.expect("the temporary folder can be written")
    })
}
