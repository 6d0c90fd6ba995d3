//! Saving again and again: with `mapped`, a save reads what was written since the last one; and a save during which another thread allocates is none.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each block uses what the test itself allocated just before"
)]

#[path = "support/folder.rs"]
mod folder;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use brant_heap::{Heap, Image, Options, Saving, load, save, save_with};
use folder::Folder;

const MAPPED: Saving = Saving { whole: false, code_pointers: false, mapped: true };
/// Header, slots and entries of heaps as small as these.
const KEPT_BYTES_MAX: u64 = 512 << 10;

/// What `work` gives in a child of its own, which ends without further ado.
fn in_a_child(work: impl FnOnce() -> bool) -> bool {
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = i32::from(!work());
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    unsafe { libc::waitpid(child, &mut status, 0) };
    status == 0
}

fn words(block: NonNull<u8>, count: usize) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| unsafe { block.cast::<u64>().add(n).read() })
}

#[test]
fn a_mapped_heap_is_read_where_it_was_written() {
    let folder = Folder::new("mapped");
    let path = folder.path("image");
    let heap = Heap::create("mapped").unwrap();
    let count = (32 << 20) / 8;
    let block = heap.allocate(count * 8).unwrap();
    (0..count).for_each(|n| unsafe { block.cast::<u64>().add(n).write(n as u64) });
    let zero = heap.allocate(8 << 20).unwrap();
    unsafe { zero.write_bytes(0, 8 << 20) };
    let first = save_with(&path, &[heap], MAPPED).unwrap();
    assert!(first.read_bytes > 40 << 20 && first.written_bytes < 33 << 20, "{first:?}");
    assert!(first.mapped_bytes >= 40 << 20, "{first:?}");
    let same = save_with(&path, &[heap], MAPPED).unwrap();
    assert_eq!((same.generation, same.written_bytes, same.mapped_bytes), (1, 0, 0));
    assert!(same.read_bytes <= KEPT_BYTES_MAX, "{same:?}");
    assert!(words(block, count).eq(0..count as u64));
    for round in 1..=5u64 {
        let at = round as usize * 300_000;
        unsafe { block.cast::<u64>().add(at).write(round) };
        unsafe { zero.add(round as usize * 1_000_000).write(round as u8) };
        let saved = save_with(&path, &[heap], MAPPED).unwrap();
        assert_eq!((saved.written_bytes, saved.mapped_bytes), (128 << 10, 128 << 10), "{saved:?}");
        assert!(saved.read_bytes <= KEPT_BYTES_MAX + (128 << 10), "{saved:?}");
        assert_eq!(saved.generation, 1 + round);
        assert_eq!(unsafe { block.cast::<u64>().add(at).read() }, round);
    }
    // Without the option it is read as before: what was mapped stays mapped.
    unsafe { block.write(77) };
    let saved = save(&path, &[heap]).unwrap();
    assert!(saved.read_bytes <= KEPT_BYTES_MAX + (64 << 10) && saved.mapped_bytes == 0, "{saved:?}");
    // The image goes; all of it is still here, and makes another one.
    std::fs::remove_file(&path).unwrap();
    let saved = save_with(&path, &[heap], MAPPED).unwrap();
    assert!(saved.generation == 1 && saved.written_bytes > 32 << 20, "{saved:?}");
    Image::open(&path).unwrap().verify().unwrap();
    unsafe { heap.destroy() };
    assert_eq!(load(&path).unwrap().iter().next(), Some(heap));
    assert!(words(block, count).skip(1).enumerate().all(|(n, word)| {
        let at = n + 1;
        word == if at % 300_000 == 0 && at <= 1_500_000 { at as u64 / 300_000 } else { at as u64 }
    }));
    assert_eq!(unsafe { block.read() }, 77);
    let written = words(zero, 1 << 20).filter(|word| *word != 0).count();
    assert_eq!(written, 5);
    unsafe { heap.destroy() };
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A block, its size, and what all its bytes are.
type Known = (NonNull<u8>, usize, u8);

fn is_whole(known: &[Known]) -> bool {
    known.iter().all(|(block, bytes, fill)| {
        unsafe { std::slice::from_raw_parts(block.as_ptr(), *bytes) }.iter().all(|byte| byte == fill)
    })
}

/// Whatever is allocated, written, freed and given back in between, and to whichever of two images it is saved: all is in the heap and in the image. `BRANT_SEED`
/// says other rounds.
#[test]
fn nothing_is_lost_by_mapping() {
    let folder = Folder::new("rounds");
    let heap = Heap::create_with("rounds", &Options { range_bytes: 1 << 30, ..Options::default() }).unwrap();
    let seed = std::env::var("BRANT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed);
    let mut random = Random(seed);
    let mut known: Vec<Known> = Vec::new();
    let (mut saves, mut mapped) = (0, 0);
    for round in 0..60u64 {
        for _ in 0..random.below(60) {
            let fill = random.below(3) as u8;
            match random.below(5) {
                0 if !known.is_empty() => {
                    let (block, _, _) = known.swap_remove(random.below(known.len() as u64) as usize);
                    unsafe { heap.free(block) }.unwrap();
                }
                1 if !known.is_empty() => {
                    let at = random.below(known.len() as u64) as usize;
                    known[at].2 = fill;
                    unsafe { known[at].0.write_bytes(fill, known[at].1) };
                }
                _ => {
                    let bytes = match random.below(32) {
                        0 => 65_536 + random.below(600_000),
                        1..4 => 4096 + random.below(60_000),
                        _ => 1 + random.below(3000),
                    } as usize;
                    let block = if fill == 0 { heap.allocate_zeroed(bytes) } else { heap.allocate(bytes) };
                    let block = block.unwrap();
                    if fill != 0 {
                        unsafe { block.write_bytes(fill, bytes) };
                    }
                    known.push((block, bytes, fill));
                }
            }
        }
        if random.below(20) == 0 {
            heap.trim();
        }
        let path = folder.path(if random.below(4) == 0 { "other" } else { "image" });
        if random.below(15) == 0 {
            let _ = std::fs::remove_file(&path);
        }
        let saving =
            Saving { whole: random.below(10) == 0, mapped: random.below(5) != 0, code_pointers: false };
        let saved = save_with(&path, &[heap], saving).unwrap();
        (saves, mapped) = (saves + 1, mapped + u64::from(saved.mapped_bytes != 0));
        assert!(is_whole(&known), "round {round}");
        let is_good = in_a_child(|| {
            let is_verified = Image::open(&path).and_then(|image| image.verify()).is_ok();
            unsafe { heap.destroy() };
            is_verified && load(&path).is_ok() && is_whole(&known) && heap.check().is_ok()
        });
        assert!(is_good, "round {round} {saved:?}");
    }
    println!("{saves} saves, {mapped} of them mapped something");
    assert!(mapped > saves / 2);
    known.iter().for_each(|(block, _, _)| unsafe { heap.free(*block) }.unwrap());
    heap.check().unwrap();
    unsafe { heap.destroy() };
}

/// Where the kernel has no room for the mappings, the heap stays what it was.
#[test]
fn what_cannot_be_mapped_stays() {
    let folder = Folder::new("no-room");
    let path = folder.path("image");
    let heap =
        Heap::create_with("no-room", &Options { range_bytes: 256 << 20, ..Options::default() }).unwrap();
    let count = (64 << 20) / 8;
    let block = heap.allocate(count * 8).unwrap();
    (0..count).for_each(|n| unsafe { block.cast::<u64>().add(n).write(n as u64) });
    let is_good = in_a_child(|| {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let most = pages * 4096 + (32 << 20);
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
        let saved = save_with(&path, &[heap], MAPPED);
        saved.is_ok_and(|saved| saved.mapped_bytes == 0 && saved.written_bytes > 64 << 20)
            && words(block, count).eq(0..count as u64)
    });
    assert!(is_good);
    unsafe { heap.destroy() };
}

/// Says so at its end, however that comes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A child that was forked while a save had its file open does not keep others from saving.
#[test]
fn a_fork_does_not_keep_the_image_locked() {
    let folder = Folder::new("forked");
    let path = folder.path("image");
    let heap = Heap::create("forked").unwrap();
    let block = heap.allocate(64).unwrap();
    let is_over = AtomicBool::new(false);
    let children = std::thread::scope(|scope| {
        let forks = scope.spawn(|| {
            let mut children = Vec::new();
            while !is_over.load(SeqCst) && children.len() < 200 {
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // Until it is killed, or the test is long over.
                    unsafe {
                        libc::alarm(120);
                        loop {
                            libc::pause();
                        }
                    }
                }
                children.push(child);
            }
            children
        });
        let over = Over(&is_over);
        let begin = std::time::Instant::now();
        for round in 0..100u8 {
            unsafe { block.write(round) };
            save(&path, &[heap]).unwrap();
        }
        assert!(begin.elapsed().as_secs() < 25, "a save has waited for a child's lock");
        drop(over);
        forks.join().unwrap()
    });
    for child in children {
        unsafe { libc::kill(child, libc::SIGKILL) };
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
    unsafe { heap.destroy() };
}

/// Another thread that allocates and frees meanwhile makes a save fail; the image stays what it was.
#[test]
fn a_save_notices_who_allocates_meanwhile() {
    let folder = Folder::new("in-use");
    let path = folder.path("image");
    let heap = Heap::create("in-use").unwrap();
    let block = heap.allocate(64 << 20).unwrap();
    unsafe { block.write_bytes(1, 64 << 20) };
    let first = save(&path, &[heap]).unwrap();
    let is_over = AtomicBool::new(false);
    let mut refused = 0;
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                heap.allocate(48).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        });
        for round in 0..20u8 {
            unsafe { block.add(usize::from(round)).write(round) };
            let saved = save_with(&path, &[heap], Saving { mapped: round % 2 == 0, ..Saving::default() });
            match saved {
                Err(error) => {
                    assert_eq!(error.code(), "B-1229");
                    assert!(error.to_string().contains("in-use"), "{error}");
                    refused += 1;
                }
                // Nobody allocated between the first look and the last: what was saved is of one moment.
                Ok(_) => drop(Image::open(&path).unwrap().verify().unwrap()),
            }
        }
    });
    println!("{refused} of 20 saves refused");
    assert!(refused > 0);
    let image = Image::open(&path).unwrap();
    image.verify().unwrap();
    assert_eq!(image.generation(), first.generation + 20 - refused);
    drop(image);
    // Alone again, it can be saved.
    save(&path, &[heap]).unwrap();
    unsafe { heap.destroy() };
}
