//! Which file an address of code belongs to, by /proc/self/maps.

use super::memory::Scratch;
use crate::inside::system::read_file;

const TEXT_BYTES_MAX: usize = 16 << 20;
const RANGES_MAX: usize = 1 << 16;

#[derive(Clone, Copy)]
struct Range {
    start: usize,
    end: usize,
    /// Where the file's first byte is, or would be.
    base: usize,
    path: (usize, usize),
}

/// The executable mappings of files.
pub(super) struct Maps {
    text: Scratch,
    ranges: Scratch,
    count: usize,
}

impl Maps {
    pub(super) fn read() -> Option<Maps> {
        let mut text = Scratch::new(TEXT_BYTES_MAX)?;
        let mut ranges = Scratch::new(RANGES_MAX * size_of::<Range>())?;
        let bytes = read_file(b"/proc/self/maps\0", text.bytes())?.len();
        // SAFETY: zeros are a valid range.
        let count = parse(&text.bytes()[..bytes], unsafe { ranges.values() });
        Some(Maps { text, ranges, count })
    }

    /// Where the executable mapping around an address begins and ends.
    pub(super) fn code_around(&mut self, address: usize) -> Option<(usize, usize)> {
        // SAFETY: as above.
        let ranges: &[Range] = unsafe { &self.ranges.values()[..self.count] };
        ranges
            .iter()
            .find(|range| (range.start..range.end).contains(&address))
            .map(|range| (range.start, range.end))
    }

    /// The path of the file, and how far behind its beginning the address is.
    pub(super) fn find(&mut self, address: usize) -> Option<(&[u8], usize)> {
        // SAFETY: as above.
        let ranges: &[Range] = unsafe { &self.ranges.values()[..self.count] };
        let index = ranges.partition_point(|range| range.end <= address);
        let range = ranges.get(index).filter(|range| range.start <= address)?;
        Some((&self.text.bytes()[range.path.0..range.path.1], address - range.base))
    }
}

fn parse(text: &[u8], ranges: &mut [Range]) -> usize {
    let mut count = 0;
    let mut begin = 0;
    // The file that was seen last, and where its first byte is.
    let mut last = ((0, 0), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let path = line.iter().position(|byte| *byte == b'/');
        let path = path.map_or((0, 0), |at| (begin + at, begin + line.len() - 1));
        begin += line.len();
        if path == (0, 0) {
            continue;
        }
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(range), Some(rights), Some(offset)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let mut ends = range.split(|byte| *byte == b'-');
        let (Some(start), Some(end)) = (ends.next().and_then(hex), ends.next().and_then(hex)) else {
            continue;
        };
        let base = start.wrapping_sub(hex(offset).unwrap_or(0));
        // Segments of one file need not be as far apart in memory as in the file; the first one tells where it begins.
        if text[path.0..path.1] != text[last.0.0..last.0.1] || base == start {
            last = (path, base);
        }
        if rights.get(2) == Some(&b'x') && count < ranges.len() {
            ranges[count] = Range { start, end, base: last.1, path };
            count += 1;
        }
    }
    count
}

fn hex(digits: &[u8]) -> Option<usize> {
    let digits = core::str::from_utf8(digits).ok()?;
    usize::from_str_radix(digits, 16).ok()
}
