//! Takes arbitrary bytes for what another host says: as a first line, as frames in two cuts, and as the body of a message.
//!
//! `cargo +nightly fuzz run migrate_wire`, from the folder that holds `fuzz/`.
#![no_main]

use brant_migrate::wire::{Decoder, Frame, Greeting, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Greeting::default().feed(data);
    let cut = data.first().map_or(0, |byte| usize::from(*byte).min(data.len()));
    read_all(&[&data[..cut], &data[cut..]]);
    let length = (data.len() as u32 + 1).to_le_bytes();
    read_all(&[&length, &[2], data]);
});

fn read_all(parts: &[&[u8]]) {
    let mut decoder = Decoder::default();
    for part in parts {
        decoder.feed(part);
        while let Ok(Some(frame)) = decoder.next_frame() {
            assert_eq!(said_again(&frame), Some(frame));
        }
    }
}

fn said_again(frame: &Frame) -> Option<Frame> {
    let mut decoder = Decoder::default();
    decoder.feed(&encode(frame));
    decoder.next_frame().expect("what we say has the protocol's form")
}
