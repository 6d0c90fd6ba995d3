//! Images: what is saved comes back, adds up, survives kills, and is refused when it is damaged.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each block uses what the test itself allocated just before"
)]

#[path = "support/folder.rs"]
mod folder;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Instant;

use brant_heap::{Heap, Image, Options, Saving, load, save, save_with};
use folder::Folder;

#[repr(C)]
struct Node {
    next: *mut Node,
    number: u64,
    text: [u8; 40],
}

/// A list of `count` nodes, the newest first, behind the root "list".
fn push(heap: Heap, count: u64) {
    let first = heap.root("list", 1).map_or(std::ptr::null_mut(), |(root, _)| root.as_ptr().cast::<Node>());
    let mut first = first;
    for _ in 0..count {
        let number = if first.is_null() { 0 } else { unsafe { (*first).number + 1 } };
        let node = heap.allocate(size_of::<Node>()).unwrap().as_ptr().cast::<Node>();
        let mut text = [0; 40];
        let words = format!("node {number} of {}", heap.name());
        text[..words.len()].copy_from_slice(words.as_bytes());
        unsafe { node.write(Node { next: first, number, text }) };
        first = node;
    }
    heap.set_root("list", NonNull::new(first.cast()).unwrap(), size_of::<Node>(), 1).unwrap();
}

/// The list's length; every node is as it was made.
fn length(heap: Heap) -> u64 {
    let (root, _) = heap.root("list", 1).unwrap();
    let mut node = root.as_ptr().cast::<Node>();
    let length = unsafe { (*node).number } + 1;
    let mut number = length;
    while !node.is_null() {
        number -= 1;
        unsafe {
            assert_eq!((*node).number, number);
            let words = format!("node {number} of {}", heap.name());
            assert_eq!(&(&(*node).text)[..words.len()], words.as_bytes());
            node = (*node).next;
        }
    }
    assert_eq!(number, 0);
    length
}

fn end(heap: Heap) {
    unsafe { heap.destroy() };
}

/// Ends the heap and brings it up again.
fn again(path: &Path, name: &str) -> Heap {
    end(Heap::find(name).unwrap());
    assert!(Heap::find(name).is_err());
    let loaded = load(path).unwrap();
    let heap = loaded.iter().find(|heap| heap.name() == name).unwrap();
    assert_eq!(Heap::find(name).unwrap(), heap);
    heap
}

#[test]
fn heaps_come_back_and_go_on() {
    let folder = Folder::new("back");
    let path = folder.path("image");
    let heap = Heap::create("back").unwrap();
    for generation in 1..=12u64 {
        push(heap, 5000);
        // Threads leave blocks behind, some in their slots.
        std::thread::scope(|scope| {
            for thread in 1..4u64 {
                scope.spawn(move || {
                    let blocks: Vec<_> =
                        (0..3000).map(|n| heap.allocate((n * thread as usize) % 900).unwrap()).collect();
                    blocks[500..].iter().for_each(|block| unsafe { heap.free(*block) }.unwrap());
                });
            }
        });
        let large = heap.allocate(300_000 * generation as usize).unwrap();
        unsafe { large.write_bytes(generation as u8, 300_000) };
        if generation % 3 == 0 {
            unsafe { heap.free(large) }.unwrap();
        }
        heap.put("generation", &generation).unwrap();
        let saved = save(&path, &[heap]).unwrap();
        assert!(saved.written_bytes > 0 && saved.written_bytes <= saved.held_bytes);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), saved.bytes);
        let heap = again(&path, "back");
        heap.check().unwrap();
        assert_eq!(length(heap), 5000 * generation);
        assert_eq!(heap.get::<u64>("generation"), Ok(generation));
        let image = Image::open(&path).unwrap();
        let verified = image.verify().unwrap();
        let mut blocks = 0;
        heap.walk(|_| {
            blocks += 1;
            true
        })
        .unwrap();
        assert_eq!(verified.blocks, blocks);
        assert!(heap.threads_at_most() < 40);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
    end(Heap::find("back").unwrap());
}

#[test]
fn heaps_of_a_set_point_to_each_other() {
    let folder = Folder::new("set");
    let path = folder.path("image");
    let heaps: Vec<Heap> = (0..5).map(|n| Heap::create(&format!("set-{n}")).unwrap()).collect();
    for pair in heaps.windows(2) {
        let block = pair[0].allocate(8).unwrap();
        unsafe { block.cast::<usize>().write(pair[1].allocate(100).unwrap().as_ptr() as usize) };
        pair[0].set_root("next", block, 8, 5).unwrap();
    }
    assert_eq!(save(&path, &[]).unwrap_err().code(), "B-1205");
    save(&path, &[&heaps[..], &heaps[..2]].concat()).unwrap();
    heaps.iter().for_each(|heap| end(*heap));
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.len(), 5);
    for heap in loaded.iter().take(4) {
        let (block, _) = heap.root("next", 5).unwrap();
        let next = unsafe { block.cast::<usize>().read() };
        let other = Heap::of_address(next).unwrap();
        assert!(other != heap && other.usable(NonNull::new(next as *mut u8).unwrap()).is_some());
    }
    // All or none: one is in the way.
    assert_eq!(load(&path).unwrap_err().code(), "B-1202");
    let base = Heap::find("set-3").unwrap().base();
    (0..5).for_each(|n| end(Heap::find(&format!("set-{n}")).unwrap()));
    let other = Heap::create_with(
        "other",
        &Options { range_bytes: 4 << 20, at: Some(base + (1 << 30)), ..Options::default() },
    );
    let error = load(&path).unwrap_err();
    assert_eq!(error.code(), "B-1203");
    assert!(error.to_string().contains("heap other"), "{error}");
    assert!((0..5).all(|n| Heap::find(&format!("set-{n}")).is_err()));
    end(other.unwrap());
    load(&path).unwrap();
    (0..5).for_each(|n| end(Heap::find(&format!("set-{n}")).unwrap()));
}

#[test]
fn a_save_writes_what_changed() {
    let folder = Folder::new("changed");
    let path = folder.path("image");
    let heap = Heap::create("changed").unwrap();
    let bytes = 64 << 20;
    let block = heap.allocate(bytes).unwrap();
    (0..bytes / 8).for_each(|n| unsafe { block.cast::<u64>().add(n).write(n as u64) });
    let first = save(&path, &[heap]).unwrap();
    assert!(first.written_bytes >= bytes as u64);
    let same = save(&path, &[heap]).unwrap();
    assert_eq!((same.written_bytes, same.generation, same.bytes), (0, first.generation, first.bytes));
    let begin_file = std::fs::metadata(&path).unwrap().len();
    for (round, is_loaded) in [(1, false), (2, true), (3, true), (4, false)] {
        let heap = if is_loaded { again(&path, "changed") } else { heap };
        unsafe { block.add(round * 5_000_000).write(round as u8) };
        let saved = save(&path, &[heap]).unwrap();
        // The last round also has what the allocator changed in the one before: header, slot, entry, block.
        let groups = if is_loaded || round == 1 { 1 } else { 5 };
        assert_eq!(saved.written_bytes, groups * (64 << 10), "round {round}");
        assert_eq!(saved.generation, first.generation + round as u64);
        // And what it changed comes back.
        let heap = again(&path, "changed");
        (1..=round).for_each(|n| assert_eq!(unsafe { block.add(n * 5_000_000).read() }, n as u8));
        let small = heap.allocate(100).unwrap();
        unsafe { small.write_bytes(9, 100) };
        unsafe { heap.free(small) }.unwrap();
    }
    let grown = std::fs::metadata(&path).unwrap().len() - begin_file;
    assert!(grown < 1 << 20, "{grown}");
    // What is free is not held.
    let heap = Heap::find("changed").unwrap();
    unsafe { heap.free(block) }.unwrap();
    let saved = save(&path, &[heap]).unwrap();
    assert!(saved.held_bytes < 4 << 20, "{saved:?}");
    // Most of the file is stale now: the next save that changes something makes it anew, and another process's mapping stays.
    heap.put("more", &1u64).unwrap();
    let saved = save(&path, &[heap]).unwrap();
    assert!(saved.bytes < 4 << 20 && saved.generation == 1, "{saved:?}");
    let again = again(&path, "changed");
    assert_eq!(again.get::<u64>("more"), Ok(1));
    let fresh = again.allocate_zeroed(bytes).unwrap();
    assert!((0..bytes / 8).all(|n| unsafe { fresh.cast::<u64>().add(n).read() } == 0));
    end(again);
}

#[test]
fn what_is_given_up_in_a_loaded_heap_stays_zero() {
    let folder = Folder::new("zero");
    let path = folder.path("image");
    let heap = Heap::create("zero").unwrap();
    let bytes = 8 << 20;
    let region = heap.allocate_region(bytes).unwrap();
    unsafe { region.write_bytes(5, bytes) };
    heap.set_root("region", region, bytes, 1).unwrap();
    save(&path, &[heap]).unwrap();
    let heap = again(&path, "zero");
    unsafe { heap.discard(region, 1 << 20, 2 << 20) }.unwrap();
    let read = |at: usize| unsafe { region.add(at).read() };
    assert_eq!((read(0), read(1 << 20), read((3 << 20) - 1), read(3 << 20)), (5, 0, 0, 5));
    save(&path, &[heap]).unwrap();
    let heap = again(&path, "zero");
    assert_eq!((read(0), read(1 << 20), read((3 << 20) - 1), read(3 << 20)), (5, 0, 0, 5));
    // Freed, given back to the host, and allocated again.
    unsafe { heap.free(region) }.unwrap();
    heap.trim();
    let again_region = heap.allocate_region(bytes).unwrap();
    assert!((0..bytes).all(|n| unsafe { again_region.add(n).read() } == 0));
    heap.remove_root("region").unwrap();
    save(&path, &[heap]).unwrap();
    let heap = again(&path, "zero");
    assert!((0..bytes).all(|n| unsafe { again_region.add(n).read() } == 0));
    end(heap);
}

#[test]
fn loading_takes_the_same_time_for_any_size() {
    let folder = Folder::new("time");
    let mut times = Vec::new();
    for (name, bytes) in [("small", 1 << 20), ("big", 256 << 20)] {
        let path = folder.path(name);
        let heap = Heap::create(name).unwrap();
        let block = heap.allocate(bytes).unwrap();
        (0..bytes / 4096).for_each(|n| unsafe { block.add(n * 4096).cast::<usize>().write(n + 1) });
        save(&path, &[heap]).unwrap();
        let mut best = f64::MAX;
        for _ in 0..5 {
            end(Heap::find(name).unwrap());
            let begin = Instant::now();
            load(&path).unwrap();
            best = best.min(begin.elapsed().as_secs_f64());
        }
        assert_eq!(unsafe { block.add(bytes - 4096).cast::<usize>().read() }, bytes / 4096);
        end(Heap::find(name).unwrap());
        times.push(best);
    }
    assert!(times[1] < 0.05, "{times:?}");
}

#[test]
fn other_files_are_not_overwritten() {
    let folder = Folder::new("other");
    let heap = Heap::create("other-files").unwrap();
    let path = folder.path("text");
    std::fs::write(
        &path,
        "something of the user's own, long enough to be an image's preamble or nearly so, at least",
    )
    .unwrap();
    assert_eq!(save(&path, &[heap]).unwrap_err().code(), "B-1227");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("something"));
    assert_eq!(load(&path).unwrap_err().code(), "B-1221");
    assert_eq!(save(&folder.0, &[heap]).unwrap_err().code(), "B-1227");
    assert_eq!(load(&folder.path("none")).unwrap_err().code(), "B-1224");
    assert_eq!(save(&folder.path("no/such"), &[heap]).unwrap_err().code(), "B-1225");
    assert_eq!(load(Path::new("/dev/null")).unwrap_err().code(), "B-1221");
    // An empty one is nobody's loss.
    std::fs::write(&path, "").unwrap();
    save(&path, &[heap]).unwrap();
    // An image that is locked by another process for longer than a save waits is `Busy`; a short while is waited for.
    let file = std::fs::File::open(&path).unwrap();
    file.lock().unwrap();
    let waiting = std::thread::spawn(move || save(&path, &[heap]));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!waiting.is_finished());
    drop(file);
    waiting.join().unwrap().unwrap();
    end(heap);
}

#[test]
fn damage_is_found() {
    let folder = Folder::new("damage");
    let path = folder.path("image");
    let heap = Heap::create("damage").unwrap();
    push(heap, 3000);
    save(&path, &[heap]).unwrap();
    push(heap, 3000);
    save(&path, &[heap]).unwrap();
    end(heap);
    let whole = std::fs::read(&path).unwrap();
    let mut found = 0;
    for at in (0..whole.len()).step_by(1777) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        let verified = Image::open(&path).and_then(|image| image.verify().map(|_| image.generation()));
        match verified {
            Err(error) => {
                assert!(["B-1221", "B-1222", "B-1223"].contains(&error.code()), "{error}");
                found += 1;
            }
            // Bytes of an old generation, and holes between heads, mean nothing.
            Ok(generation) => assert_eq!(generation, 2),
        }
        match load(&path) {
            Ok(loaded) => loaded.iter().for_each(end),
            Err(error) => assert!(["B-1221", "B-1222", "B-1223"].contains(&error.code()), "{error}"),
        }
    }
    for at in [4097, 4190, 8193, 8290] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(load(&path).unwrap_err().code(), "B-1223", "{at}");
    }
    assert!(found > whole.len() / 1777 / 4, "{found}");
    for length in [0, 1, 71, 4096, 12288, whole.len() / 2, whole.len() - 4096] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = load(&path).map(|loaded| loaded.iter().for_each(end)).unwrap_err();
        assert!(["B-1221", "B-1223"].contains(&error.code()), "{length} {error}");
    }
    // A damaged image is replaced by a good one.
    let mut bytes = whole.clone();
    bytes[4100..4110].fill(1);
    bytes[8200..8210].fill(1);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Image::open(&path).unwrap_err().code(), "B-1223");
    let heap = Heap::create("damage").unwrap();
    save(&path, &[heap]).unwrap();
    Image::open(&path).unwrap().verify().unwrap();
    // One of a later format is not.
    bytes[8] = 9;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(save(&path, &[heap]).unwrap_err().code(), "B-1222");
    end(heap);
}

/// A child that changes and saves a heap until it is killed; the image is whole each time, and a later one than before.
#[test]
fn a_kill_leaves_the_old_image_or_the_new_one() {
    let folder = Folder::new("kill");
    let path = folder.path("image");
    let heap = Heap::create("kill").unwrap();
    push(heap, 20_000);
    heap.put("round", &0u64).unwrap();
    save(&path, &[heap]).unwrap();
    let mut last = 0;
    for kill in 0..60u64 {
        let child = unsafe { libc::fork() };
        if child == 0 {
            for round in last + 1.. {
                push(heap, 500);
                let junk = heap.allocate(70_000 + 1000 * (round as usize % 300)).unwrap();
                unsafe { junk.write_bytes(round as u8, 70_000) };
                if round % 2 == 0 {
                    let _ = unsafe { heap.free(junk) };
                }
                heap.put("round", &round).unwrap();
                let whole = round % 7 == 0;
                let mapped = round % 3 != 0;
                if save_with(&path, &[heap], Saving { whole, mapped, ..Saving::default() }).is_err() {
                    unsafe { libc::_exit(1) };
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(3000 + kill * 997 % 40_000));
        unsafe { libc::kill(child, libc::SIGKILL) };
        let mut status = 0;
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, libc::SIGKILL, "the child failed by itself");
        Image::open(&path).unwrap().verify().unwrap();
        end(heap);
        let loaded = load(&path).unwrap().iter().next().unwrap();
        assert_eq!(loaded, heap);
        let round = heap.get::<u64>("round").unwrap();
        assert!(round >= last);
        assert_eq!(length(heap), 20_000 + 500 * round);
        last = round;
    }
    assert!(last > 15, "{last}");
    end(heap);
}

/// What a killed save leaves behind the end of the image is no part of the next one, not even where that leaves pages out.
#[test]
fn what_lies_behind_the_end_does_not_show() {
    let folder = Folder::new("behind");
    let path = folder.path("image");
    let heap = Heap::create("behind").unwrap();
    push(heap, 10);
    save(&path, &[heap]).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &vec![0xff; 3 << 20]).unwrap();
    let sparse = heap.allocate_zeroed(1 << 20).unwrap();
    unsafe { sparse.add(300_000).write(1) };
    save(&path, &[heap]).unwrap();
    Image::open(&path).unwrap().verify().unwrap();
    let heap = again(&path, "behind");
    assert_eq!(
        (0..1 << 20).filter(|at| unsafe { sparse.add(*at).read() } != 0).collect::<Vec<_>>(),
        [300_000]
    );
    end(heap);
}

#[test]
fn a_full_disk_leaves_the_old_image() {
    let folder = Folder::new("disk");
    let path = folder.path("image");
    let heap = Heap::create("disk").unwrap();
    push(heap, 1000);
    let saved = save(&path, &[heap]).unwrap();
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A limit on file sizes is an error of the write, as a full disk is.
        let limit = libc::rlimit { rlim_cur: saved.bytes + 100_000, rlim_max: saved.bytes + 100_000 };
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        }
        push(heap, 50_000);
        let added = save(&path, &[heap]).map_err(|error| error.code());
        let whole = save_with(&path, &[heap], Saving { whole: true, ..Saving::default() })
            .map_err(|error| error.code());
        let is_good = added == Err("B-1225") && whole == Err("B-1225");
        unsafe { libc::_exit(if is_good { 0 } else { 1 }) };
    }
    let mut status = 0;
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), saved.bytes);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
    assert_eq!(length(again(&path, "disk")), 1000);
    end(Heap::find("disk").unwrap());
}

#[test]
fn debug_mode_finds_addresses_of_code() {
    let folder = Folder::new("code");
    let path = folder.path("image");
    let heap = Heap::create_with("code", &Options { debug: true, ..Options::default() }).unwrap();
    let block = heap.allocate(64).unwrap();
    unsafe { block.write_bytes(0, 64) };
    save(&path, &[heap]).unwrap();
    let code = debug_mode_finds_addresses_of_code as *const () as usize;
    unsafe { block.add(24).cast::<usize>().write(code) };
    let error = save(&path, &[heap]).unwrap_err();
    assert_eq!(error.code(), "B-1228");
    assert!(error.to_string().contains("offset 24") && error.to_string().contains("image-"), "{error}");
    save_with(&path, &[heap], Saving { code_pointers: true, ..Saving::default() }).unwrap();
    // A damaged block is not saved.
    unsafe { block.add(64).write(0) };
    assert_eq!(save(&path, &[heap]).unwrap_err().code(), "B-1212");
    end(heap);
    let heap = load(&path).unwrap().iter().next().unwrap();
    assert!(heap.is_debug() && heap.check_block(block).is_ok());
    unsafe { heap.free(block) }.unwrap();
    assert_eq!(unsafe { heap.free(block) }.unwrap_err().code(), "B-1211");
    end(heap);
}

#[test]
fn images_are_compared() {
    let folder = Folder::new("diff");
    let (one, two) = (folder.path("one"), folder.path("two"));
    let (heap, other) = (Heap::create("diff").unwrap(), Heap::create("gone").unwrap());
    let blocks: Vec<_> = (0..100).map(|_| heap.allocate(200).unwrap()).collect();
    blocks.iter().for_each(|block| unsafe { block.write_bytes(1, 200) });
    heap.put("same", &1u64).unwrap();
    save(&one, &[heap, other]).unwrap();
    blocks[..10].iter().for_each(|block| unsafe { heap.free(*block) }.unwrap());
    blocks[20..25].iter().for_each(|block| unsafe { block.add(199).write(2) });
    let large = heap.allocate(100_000).unwrap();
    heap.set_root("large", large, 100_000, 3).unwrap();
    save(&two, &[heap]).unwrap();
    let differences = Image::open(&two).unwrap().differences(&Image::open(&one).unwrap()).unwrap();
    assert_eq!(differences.len(), 2);
    let diff = &differences[0];
    assert_eq!((diff.name.as_str(), diff.is_in), ("diff", (true, true)));
    assert_eq!(diff.freed, (10, 10 * 224));
    assert_eq!(diff.changed, (5, 5 * 224));
    assert_eq!(diff.allocated, (1, 100_000));
    assert_eq!(diff.roots, ["large"]);
    assert_eq!((differences[1].name.as_str(), differences[1].is_in), ("gone", (true, false)));
    end(heap);
    end(other);
}
