//! Heaps that outlive their process: allocated from like any heap, saved to a file, and brought up by a later process, on this host or another,
//! with every pointer valid.
//!
//! ```no_run
//! use brant_heap::Heap;
//!
//! # fn main() -> Result<(), brant_heap::Error> {
//! let heap = Heap::create("notes")?;
//! heap.put("count", &3u64)?;
//! brant_heap::save("notes.heap".as_ref(), &[heap])?;
//! // In another process:
//! let heaps = brant_heap::load("notes.heap".as_ref())?;
//! assert_eq!(heaps.iter().next().unwrap().get::<u64>("count")?, 3);
//! # Ok(())
//! # }
//! ```
//!
//! A heap lies at the same addresses in each process (`place` says which, and why nothing else lies there), and all that it is made of lies in
//! its own range: so the bytes of the range are the heap, whatever C library, kernel or distribution comes next. `docs/heaps.md` has the
//! whole of it, the file's format included.
//!
//! `unsafe` is in this crate by its nature: an allocator makes memory out of addresses. What reads images (`image`, `survey`) has
//! none.

mod class;
mod core;
mod debug;
mod error;
mod global;
#[cfg(feature = "allocator-api2")]
mod handle;
mod heap;
mod image;
mod large;
mod layout;
mod lock;
mod maps;
mod pages;
mod place;
mod registry;
mod root;
mod small;
#[forbid(unsafe_code)]
mod survey;
mod system;
mod thread;
mod walk;

use std::fmt::{self, Write as _};

pub use error::{Error, Fault, Label};
pub use global::{Allocator, Entered};
pub use heap::{Figures, Heap, Options};
pub use image::*;
pub use root::kind_of;
pub use walk::{Block, BlockKind};

/// A fault that the program must not go on with: says which, and aborts.
#[cold]
pub fn die(fault: Fault) -> ! {
    let mut line = Line { bytes: [0; 256], len: 0 };
    let _ = writeln!(line, "brant-heap: {}: {fault}", fault.code());
    system::say(&line.bytes[..line.len]);
    std::process::abort()
}

/// Text without an allocator.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}
