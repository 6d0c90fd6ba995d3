//! Addresses in a target process and ranges of whole pages.

use std::fmt;

/// Bytes in a page. Images use a fixed granularity of 4 KiB on every host.
pub const PAGE_SIZE: u64 = 4096;

/// A virtual address in a target process. Arithmetic on it is checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(pub u64);

impl Addr {
    /// This address plus `bytes`, or `None` where the sum leaves the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Addr> {
        self.0.checked_add(bytes).map(Addr)
    }

    /// Bytes from `start` up to this address, or `None` where it lies below.
    pub fn offset_from(self, start: Addr) -> Option<u64> {
        self.0.checked_sub(start.0)
    }

    /// The start of the page that holds this address.
    pub fn page_floor(self) -> Addr {
        Addr(self.0 & !(PAGE_SIZE - 1))
    }

    /// Whether this is the first byte of a page.
    pub fn is_page_aligned(self) -> bool {
        self.0.is_multiple_of(PAGE_SIZE)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Why two numbers do not make a [`PageRange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("range {0:#x}-{1:#x} does not start and end on pages of 4096 bytes")]
    Unaligned(u64, u64),
    #[error("range {0:#x}-{1:#x} is empty or ends before it starts")]
    Empty(u64, u64),
}

/// A non-empty, half-open range of whole pages: `start <= a < end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    start: Addr,
    end: Addr,
}

impl PageRange {
    /// The range from `start` up to, not including, `end` (both in bytes).
    pub fn new(start: u64, end: u64) -> Result<PageRange, RangeError> {
        if !Addr(start).is_page_aligned() || !Addr(end).is_page_aligned() {
            return Err(RangeError::Unaligned(start, end));
        }
        if start >= end {
            return Err(RangeError::Empty(start, end));
        }
        Ok(PageRange { start: Addr(start), end: Addr(end) })
    }

    /// First byte.
    pub fn start(self) -> Addr {
        self.start
    }

    /// One past the last byte.
    pub fn end(self) -> Addr {
        self.end
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Length in pages.
    pub fn pages(self) -> u64 {
        self.bytes() / PAGE_SIZE
    }

    /// Whether `addr` lies inside.
    pub fn contains(self, addr: Addr) -> bool {
        self.start <= addr && addr < self.end
    }

    /// Whether every page of `other` lies inside.
    pub fn covers(self, other: PageRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the two share a page.
    pub fn overlaps(self, other: PageRange) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The pages that both have, or `None`.
    pub fn intersection(self, other: PageRange) -> Option<PageRange> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(PageRange { start, end })
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start.0, self.end.0)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start.0, self.end.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(PageRange::new(1, 4096), Err(RangeError::Unaligned(1, 4096)));
        assert_eq!(PageRange::new(8192, 4096), Err(RangeError::Empty(8192, 4096)));
        let a = PageRange::new(0, 8192).unwrap();
        let b = PageRange::new(4096, 12288).unwrap();
        assert_eq!(a.intersection(b), Some(PageRange::new(4096, 8192).unwrap()));
        assert!(a.overlaps(b) && !a.covers(b));
        assert_eq!((a.pages(), a.bytes()), (2, 8192));
    }
}
