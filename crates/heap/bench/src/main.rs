//! Heaps beside glibc's malloc, mimalloc and jemalloc; and images beside bincode.
//!
//! `cargo run --release` in this folder; `-- speed [WORK]`, `-- memory` or `-- images [MEGABYTES]` for a part. Each figure is the best of
//! some runs, all of one start; compare figures of one start only.

mod images;
mod memory;
mod speed;

#[global_allocator]
static ALLOCATOR: brant_heap::Allocator = brant_heap::Allocator;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let part = args.first().map_or("all", String::as_str);
    let megabytes = args.get(1).and_then(|word| word.parse().ok()).unwrap_or(1024);
    match part {
        "one" => memory::one(&args[1]),
        "speed" => speed::run(args.get(1).map_or("", String::as_str)),
        "memory" => memory::run(),
        "images" => images::run(megabytes),
        _ => {
            speed::run("");
            memory::run();
            images::run(megabytes);
        }
    }
}

/// The allocators, by name.
pub(crate) const NAMES: [&str; 4] = ["brant", "mimalloc", "jemalloc", "glibc"];

/// Calls a generic function with the allocator of a name.
macro_rules! with_allocator {
    ($name:expr, $function:ident($($argument:expr),*)) => {
        match $name {
            "brant" => $function(&brant_heap::Allocator, $($argument),*),
            "mimalloc" => $function(&mimalloc::MiMalloc, $($argument),*),
            "jemalloc" => $function(&tikv_jemallocator::Jemalloc, $($argument),*),
            _ => $function(&std::alloc::System, $($argument),*),
        }
    };
}
pub(crate) use with_allocator;
