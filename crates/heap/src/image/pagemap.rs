//! Which pages of a heap have memory of their own, by /proc/self/pagemap: a heap that came out of an image has written to those only.
//!
//! proc(5): bit 63 present, 62 swapped, 61 a page of a file or of shared memory. A page of a private file mapping that was written to is a
//! copy, and so has bit 61 clear.

use crate::layout::{PAGE_BYTES, SLICE_BYTES};
use crate::system::{Buffer, File, Path};

const ENTRY_BYTES: usize = 8;
/// Entries that are read at once: those of 128 MiB.
const WINDOW_ENTRIES: usize = 32 * 1024;

/// What 64 KiB of a heap are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// None of its pages was ever touched.
    Absent,
    /// None of its pages is a copy: what lies there is the mapped file's.
    OfFile,
    /// Anything.
    Written,
}

/// A reader; everything is `Written` to one that cannot read.
pub(crate) struct PageMap {
    file: Option<File>,
    window: Option<Buffer>,
    first: usize,
    filled: usize,
}

impl PageMap {
    pub(crate) fn open() -> PageMap {
        let file = File::open_for_reading(&Path::literal(b"/proc/self/pagemap")).ok();
        PageMap { file, window: Buffer::new(WINDOW_ENTRIES * ENTRY_BYTES).ok(), first: 0, filled: 0 }
    }

    /// The 64 KiB at an address. Cheap where addresses ascend.
    pub(crate) fn look(&mut self, address: usize) -> Pages {
        const COUNT: usize = SLICE_BYTES / PAGE_BYTES;
        let page = address / PAGE_BYTES;
        let (Some(file), Some(window)) = (&self.file, &mut self.window) else { return Pages::Written };
        if page < self.first || page + COUNT > self.first + self.filled {
            let bytes = file.read_at(window, (page * ENTRY_BYTES) as u64).unwrap_or(0);
            self.first = page;
            self.filled = bytes / ENTRY_BYTES;
            if self.filled < COUNT {
                return Pages::Written;
            }
        }
        let at = (page - self.first) * ENTRY_BYTES;
        let mut pages = Pages::Absent;
        for entry in window[at..at + COUNT * ENTRY_BYTES].chunks_exact(ENTRY_BYTES) {
            match entry[ENTRY_BYTES - 1] >> 5 {
                0 | 1 => {}
                // Present, and of a file.
                0b101 => pages = Pages::OfFile,
                _ => return Pages::Written,
            }
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_touched_is_told() {
        let mut buffer = Buffer::new(4 * SLICE_BYTES).unwrap();
        let begin = (buffer.as_ptr() as usize).next_multiple_of(SLICE_BYTES);
        let offset = begin - buffer.as_ptr() as usize;
        let mut map = PageMap::open();
        assert_eq!(map.look(begin), Pages::Absent);
        buffer[offset + SLICE_BYTES] = 1;
        let mut map = PageMap::open();
        assert_eq!(map.look(begin + SLICE_BYTES), Pages::Written);
        // Code is of a file, and nobody writes to it.
        let here = PageMap::open as *const () as usize & !(SLICE_BYTES - 1);
        assert_ne!(PageMap::open().look(here), Pages::Absent);
        let mut blind = PageMap { file: None, window: None, first: 0, filled: 0 };
        assert_eq!(blind.look(begin), Pages::Written);
    }
}
