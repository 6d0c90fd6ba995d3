//! Reads arbitrary bytes as the record of a program.
#![no_main]

use brant_record::{Outside, Record, Snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(snapshot) = Snapshot::decode(data) else { return };
    let record = Record::of(&snapshot);
    let _ = Outside::default().compare(&record);
    assert!(snapshot.encode() == data);
});
