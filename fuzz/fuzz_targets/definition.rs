//! Reads arbitrary bytes as a wrapper definition.
//!
//! `cargo +nightly fuzz run definition fixtures/definitions/whole`, from the folder that holds `fuzz/`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/definition/tests/support/judge.rs"]
mod judge;

fuzz_target!(|data: &[u8]| {
    judge::judge(data);
});
