//! A `BTreeMap` of texts: saved and loaded as a heap, and written and read through bincode. On tmpfs, so that no disk is measured.

use std::collections::BTreeMap;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use brant_heap::Heap;

use crate::speed::spent;

type Map = BTreeMap<u64, String>;

/// What an entry takes in a heap, about.
const ENTRY_BYTES: usize = 105;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, f64) {
    let (begin, spent_before) = (Instant::now(), spent());
    let result = work();
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let spent_ms = (spent() - spent_before) * 1e3;
    println!("{what:<44}{ms:>12.3} ms, {spent_ms:>12.3} ms of a processor");
    (result, ms)
}

pub(crate) fn run(megabytes: usize) {
    let folder = Path::new("/dev/shm").join(format!("brant-heap-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("there is tmpfs");
    measure(megabytes, &folder);
    std::fs::remove_dir_all(folder).expect("it is ours");
}

fn measure(megabytes: usize, folder: &Path) {
    let count = (megabytes << 20) / ENTRY_BYTES;
    let (image, other) = (folder.join("map.heap"), folder.join("map.bincode"));
    println!("a BTreeMap of {count} entries");
    let heap = Heap::create("bench").expect("the name is free");
    let (mut map, _) = timed("build", || {
        let _entered = heap.enter().expect("there is memory");
        (0..count as u64)
            .map(|number| (number, format!("the text of entry number {number:>12}")))
            .collect::<Map>()
    });
    println!("{:<44}{:>12} MiB", "the heap", heap.figures().used_bytes >> 20);
    let (_, write) = timed("bincode: write", || {
        let mut file =
            BufWriter::with_capacity(1 << 20, std::fs::File::create(&other).expect("there is room"));
        bincode::serde::encode_into_std_write(&map, &mut file, bincode::config::standard())
            .expect("there is room");
        file.flush().expect("there is room");
    });
    println!(
        "{:<44}{:>12} MiB",
        "  its file",
        std::fs::metadata(&other).expect("it was written").len() >> 20
    );
    map = std::mem::take(&mut map);
    let place = heap.keep("map", map).expect("there is memory");
    let (_, save) = timed("heap: save", || brant_heap::save(&image, &[heap]).expect("there is room"));
    // The same process: what it built itself is read whole.
    change(heap, 10);
    let (saved, _) = timed("heap: save again, 10 entries changed", || {
        brant_heap::save(&image, &[heap]).expect("there is room")
    });
    println!("{:<44}{:>12} KiB", "  written", saved.written_bytes >> 10);
    let mapped = brant_heap::Saving { mapped: true, ..Default::default() };
    timed("heap: the same, and what was read is mapped", || {
        change(heap, 11);
        brant_heap::save_with(&image, &[heap], mapped).expect("there is room")
    });
    for entries in [10, 1000, 100_000] {
        change(heap, entries);
        let (saved, _) = timed(&format!("heap: save what was mapped, {entries} entries changed"), || {
            brant_heap::save_with(&image, &[heap], mapped).expect("there is room")
        });
        println!("{:<44}{:>12} KiB", "  written", saved.written_bytes >> 10);
    }
    let _ = place;
    // SAFETY: nobody uses it any more.
    unsafe { heap.destroy() };

    let (read, decode) = timed("bincode: read", || {
        let mut file =
            BufReader::with_capacity(1 << 20, std::fs::File::open(&other).expect("it was written"));
        bincode::serde::decode_from_std_read::<Map, _, _>(&mut file, bincode::config::standard())
            .expect("it was written")
    });
    assert_eq!(read.len(), count);
    let mut best = f64::MAX;
    for _ in 0..9 {
        let begin = Instant::now();
        let loaded = brant_heap::load(&image).expect("it was saved");
        best = best.min(begin.elapsed().as_secs_f64() * 1e3);
        // SAFETY: nobody uses it.
        loaded.iter().for_each(|heap| unsafe { heap.destroy() });
    }
    println!("{:<44}{best:>12.3} ms", "heap: load (best of 9)");
    let (heap, _) = timed("heap: load, and look one entry up", || {
        let heap = brant_heap::load(&image).expect("it was saved").iter().next().expect("there is one");
        // SAFETY: this program kept it.
        let map = unsafe { heap.kept::<Map>("map") }.expect("it was kept");
        assert!(map.contains_key(&(count as u64 / 2)));
        heap
    });
    timed("heap: look at every entry after a load", || {
        // SAFETY: as above.
        let map = unsafe { heap.kept::<Map>("map") }.expect("it was kept");
        assert_eq!(map.values().map(String::len).sum::<usize>(), count * 37);
    });
    for entries in [10, 1000, 100_000] {
        change(heap, entries);
        let (saved, _) = timed(&format!("heap: save after a load, {entries} entries changed"), || {
            brant_heap::save(&image, &[heap]).expect("there is room")
        });
        println!("{:<44}{:>12} KiB", "  written", saved.written_bytes >> 10);
    }
    println!(
        "reading by bincode / load: {:.0}; writing by bincode / save: {:.2}",
        decode / best,
        write / save
    );
}

/// Changes texts of entries that follow each other, each time to others.
fn change(heap: Heap, entries: u64) {
    static TIMES: AtomicU32 = AtomicU32::new(100);
    let mark = TIMES.fetch_add(1, Ordering::Relaxed).to_string();
    let _entered = heap.enter().expect("there is memory");
    // SAFETY: this program kept it.
    let map = unsafe { heap.kept::<Map>("map") }.expect("it was kept");
    map.range_mut(1000..1000 + entries).for_each(|(_, text)| text.replace_range(..3, &mark));
}
