//! What a process does before it has allocated anything from a heap. One test: a second one would share the process.
#![allow(clippy::undocumented_unsafe_blocks, reason = "nobody uses the heaps that end")]

use std::time::Duration;

use brant_heap::{Heap, load, save};

#[test]
fn a_heap_ends_and_a_load_fails_before_anything_was_allocated() {
    // A lock that is taken twice would never come back.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(60));
        std::process::abort();
    });
    let path = std::env::temp_dir().join(format!("brant-heap-first-{}", std::process::id()));
    let heaps = ["one", "two"].map(|name| Heap::create(name).unwrap());
    save(&path, &heaps).unwrap();
    unsafe { heaps[0].destroy() };
    // The first heap comes up, the second one is there: neither remains.
    assert_eq!(load(&path).unwrap_err().code(), "B-1202");
    assert!(Heap::find("one").is_err());
    unsafe { heaps[1].destroy() };
    assert_eq!(load(&path).unwrap().len(), 2);
    assert!(Heap::find("one").unwrap().allocate(10).is_some());
    std::fs::remove_file(path).unwrap();
}
