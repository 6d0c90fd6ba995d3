//! Places in a file: byte offsets, and the lines and columns that people count.

/// Bytes `start..end` of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// Offsets are those of a file of at most [`crate::FILE_BYTES_MAX`] bytes, so they fit; others saturate.
    pub(crate) fn new(start: usize, end: usize) -> Span {
        let fit = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Span { start: fit(start), end: fit(end.max(start)) }
    }

    /// From the beginning of `self` to the end of `last`.
    pub(crate) fn to(self, last: Span) -> Span {
        Span { start: self.start, end: last.end.max(self.start) }
    }
}

/// Where a span begins, as people count: both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// Where the lines of a text begin.
pub(crate) struct Lines<'a> {
    text: &'a [u8],
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Lines<'a> {
        let breaks = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        Lines { text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// Counted from 1.
    pub(crate) fn line_number(&self, offset: u32) -> u32 {
        self.starts.partition_point(|start| *start <= offset as usize) as u32
    }

    pub(crate) fn position(&self, offset: u32) -> Position {
        let line = self.line_number(offset);
        let start = self.starts[line as usize - 1];
        let end = (offset as usize).clamp(start, self.text.len());
        let before = String::from_utf8_lossy(&self.text[start..end]);
        let before = if start == 0 { before.trim_start_matches('\u{feff}') } else { &before };
        Position { line, column: before.chars().count() as u32 + 1 }
    }

    /// Where a line counted from 1 begins, behind a byte order mark; the text's end where there is none.
    pub(crate) fn start(&self, number: u32) -> usize {
        let index = (number as usize).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or(self.text.len());
        if start == 0 && self.text.starts_with(b"\xef\xbb\xbf") { 3 } else { start }
    }

    /// The bytes of a line counted from 1, without its end and a byte order mark; nothing where there is none.
    pub(crate) fn line(&self, number: u32) -> &'a [u8] {
        let start = self.start(number);
        let end = self.starts.get(number as usize).map_or(self.text.len(), |next| next - 1);
        let line = &self.text[start..end.max(start)];
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "\u{feff}ab\r\nä c\n";
        let lines = Lines::new(text.as_bytes());
        let position = |offset| {
            let Position { line, column } = lines.position(offset);
            (line, column)
        };
        assert_eq!(position(3), (1, 1));
        assert_eq!(position(4), (1, 2));
        assert_eq!(position(7), (2, 1));
        assert_eq!(position(9), (2, 2));
        assert_eq!(position(12), (3, 1));
        assert_eq!(position(99), (3, 1));
        assert_eq!(lines.line(1), b"ab");
        assert_eq!(lines.line(2), "ä c".as_bytes());
        assert_eq!(lines.line(3), b"");
        assert_eq!(lines.line(4), b"");
    }
}
