//! What two million blocks of a program cost in memory of the host, beyond what was asked for; and what remains when nine of ten were freed.

use std::alloc::{GlobalAlloc, Layout};
use std::process::Command;

use crate::speed::Random;
use crate::{NAMES, with_allocator};

const COUNT: usize = 2_000_000;

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc is there");
    let pages: usize =
        text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("the kernel's format");
    pages * 4096
}

pub(crate) fn run() {
    println!(
        "memory of {COUNT} blocks of 16 to 4000 bytes, by what was asked for; then with one in ten left"
    );
    for name in NAMES {
        // A process of its own, with the allocator fresh.
        let own = std::env::current_exe().expect("the program has a path");
        let output = Command::new(own).args(["one", name]).output().expect("it starts");
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

pub(crate) fn one(name: &str) {
    with_allocator!(name, measure(name));
}

fn measure<A: GlobalAlloc>(allocator: &A, name: &str) {
    let mut random = Random(11);
    let mut blocks: Vec<(*mut u8, usize)> = vec![(std::ptr::null_mut(), 1); COUNT];
    let before = resident();
    let mut asked = 0;
    for place in &mut blocks {
        let bytes = random.size();
        let block = unsafe { allocator.alloc(Layout::from_size_align_unchecked(bytes, 16)) };
        unsafe { block.write_bytes(1, bytes) };
        *place = (block, bytes);
        asked += bytes;
    }
    let full = resident() - before;
    let mut left = 0;
    for (number, (block, bytes)) in blocks.iter().enumerate() {
        if number % 10 == 0 {
            left += bytes;
        } else {
            unsafe { allocator.dealloc(*block, Layout::from_size_align_unchecked(*bytes, 16)) };
        }
    }
    let rest = resident().saturating_sub(before);
    let ratio = |have: usize, asked: usize| have as f64 / asked as f64;
    println!("{name:<16}{:>10.3}{:>10.3}", ratio(full, asked), ratio(rest, left));
}
