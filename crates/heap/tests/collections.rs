//! Rust's own collections in a heap: a program whose allocator it is, and hashbrown with the heap as its handle.
//!
//! `BRANT_FULL=1` takes ten million entries, as a program that builds for minutes does; else less.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use brant_heap::{Heap, load, save};

#[global_allocator]
static ALLOCATOR: brant_heap::Allocator = brant_heap::Allocator;

fn entries() -> u64 {
    if std::env::var_os("BRANT_FULL").is_some_and(|value| value != "0") { 10_000_000 } else { 200_000 }
}

fn text(number: u64) -> String {
    format!("entry {number}")
}

/// The same test in a process of its own, which loads what this one saved.
fn again(test: &str, image: &Path) {
    let own = std::env::current_exe().expect("a test binary knows its path");
    let output =
        Command::new(own).args(["--exact", test, "--nocapture"]).env("BRANT_HEAP_IMAGE", image).output();
    let output = output.expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

fn image_to_load() -> Option<PathBuf> {
    std::env::var_os("BRANT_HEAP_IMAGE").map(PathBuf::from)
}

fn loaded(image: &Path) -> Heap {
    let begin = Instant::now();
    let loaded = load(image).expect("it was saved");
    println!("loaded in {:.3} ms", begin.elapsed().as_secs_f64() * 1e3);
    loaded.iter().next().expect("a heap was saved")
}

fn image(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("brant-heap-{name}-{}", std::process::id()))
}

#[test]
fn a_btree_map_comes_back() {
    type Map = BTreeMap<u64, String>;
    if let Some(image) = image_to_load() {
        let heap = loaded(&image);
        // SAFETY: this is the program that kept it.
        let map = unsafe { heap.kept::<Map>("map") }.expect("it was kept");
        assert_eq!(map.len() as u64, entries());
        assert!(map.iter().zip(0..).all(|((key, value), number)| *key == number && *value == text(number)));
        let entered = heap.enter().expect("there is memory");
        (0..entries()).step_by(2).for_each(|number| assert!(map.remove(&number).is_some()));
        map.insert(u64::MAX, "new".to_owned());
        drop(entered);
        save(&image, &[heap]).expect("the image is ours");
        return heap.check().expect("it is whole");
    }
    let heap = Heap::create("btree").expect("the name is free");
    let image = image("btree");
    let entered = heap.enter().expect("there is memory");
    let map: Map = (0..entries()).map(|number| (number, text(number))).collect();
    heap.keep("map", map).expect("there is memory");
    drop(entered);
    save(&image, &[heap]).expect("the folder can be written");
    again("a_btree_map_comes_back", &image);
    brant_heap::Image::open(&image).expect("it was saved").verify().expect("it is whole");
    std::fs::remove_file(image).expect("it is ours");
}

#[test]
fn a_hash_map_with_the_heap_as_its_handle_comes_back() {
    // The hasher of the standard library has its keys in itself. That of hashbrown has a part of them in a static, which is another one in each process.
    type Map = hashbrown::HashMap<u64, u64, RandomState, Heap>;
    if let Some(image) = image_to_load() {
        let heap = loaded(&image);
        // SAFETY: this is the program that kept it.
        let map = unsafe { heap.kept::<Map>("map") }.expect("it was kept");
        assert_eq!(map.len() as u64, entries());
        assert!((0..entries()).all(|number| map.get(&number) == Some(&(number * number))));
        map.extend((0..entries()).map(|number| (entries() + number, 1)));
        assert_eq!(*map.allocator(), heap);
        return heap.check().expect("it is whole");
    }
    let heap = Heap::create("hash").expect("the name is free");
    let image = image("hash");
    let mut map = Map::with_hasher_in(RandomState::new(), heap);
    map.extend((0..entries()).map(|number| (number, number * number)));
    heap.keep("map", map).expect("there is memory");
    save(&image, &[heap]).expect("the folder can be written");
    again("a_hash_map_with_the_heap_as_its_handle_comes_back", &image);
    std::fs::remove_file(image).expect("it is ours");
}
