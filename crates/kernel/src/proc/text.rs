//! The small grammar that /proc files share: lines, blank-separated fields, numbers, octal escapes.

/// What a parser expected and did not find. Holds nothing of the text, which may be a target's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    pub expected: &'static str,
}

impl ParseError {
    pub(super) fn new(line: usize, expected: &'static str) -> ParseError {
        ParseError { line, expected }
    }

    /// The same, for text that lies further down in a file.
    pub(super) fn at(self, line: usize) -> ParseError {
        ParseError { line, ..self }
    }
}

/// The lines of `bytes` with their numbers from 1; a last empty one is left out.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let count = if bytes.is_empty() { 0 } else { usize::MAX };
    body.split(|&byte| byte == b'\n').take(count).enumerate().map(|(index, line)| (index + 1, line))
}

/// Walks through the blank-separated fields of one line.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(line: &'a [u8]) -> Fields<'a> {
        Fields { rest: line }
    }

    /// The next field, or an error that names what it should have been.
    pub(super) fn word(&mut self, expected: &'static str) -> Result<&'a [u8], ParseError> {
        self.next().ok_or(ParseError::new(1, expected))
    }

    /// The next field as an unsigned number.
    pub(super) fn number(&mut self, radix: u32, expected: &'static str) -> Result<u64, ParseError> {
        unsigned(self.word(expected)?, radix).ok_or(ParseError::new(1, expected))
    }

    /// The next field as a signed decimal number.
    pub(super) fn signed(&mut self, expected: &'static str) -> Result<i64, ParseError> {
        signed(self.word(expected)?).ok_or(ParseError::new(1, expected))
    }

    /// What follows the fields taken so far, without the blanks before it.
    pub(super) fn rest(self) -> &'a [u8] {
        skip_blanks(self.rest)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = skip_blanks(self.rest);
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|&byte| is_blank(byte)).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        Some(word)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&byte| !is_blank(byte)).unwrap_or(bytes.len());
    &bytes[start..]
}

/// Text without blanks at either end.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let bytes = skip_blanks(bytes);
    let end = bytes.iter().rposition(|&byte| !is_blank(byte)).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// An unsigned number of digits only.
pub(super) fn unsigned(bytes: &[u8], radix: u32) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |sum, &byte| {
        let digit = char::from(byte).to_digit(radix)?;
        sum.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// An unsigned number of at most 32 bits.
pub(super) fn unsigned_32(bytes: &[u8], radix: u32) -> Option<u32> {
    unsigned(bytes, radix)?.try_into().ok()
}

/// A signed decimal number.
pub(super) fn signed(bytes: &[u8]) -> Option<i64> {
    match bytes.strip_prefix(b"-") {
        Some(digits) => 0i64.checked_sub_unsigned(unsigned(digits, 10)?),
        None => unsigned(bytes, 10)?.try_into().ok(),
    }
}

/// A signed decimal number of at most 32 bits.
pub(super) fn signed_32(bytes: &[u8]) -> Option<i32> {
    signed(bytes)?.try_into().ok()
}

/// Splits at the first `separator`.
pub(super) fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Undoes `\ooo`: any three octal digits up to `\377`. Everything else stays.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped =
            if first == b'\\' { tail.get(..3).and_then(|digits| unsigned(digits, 8)) } else { None };
        match escaped.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

/// Undoes the one escape of `/proc/PID/maps`: a newline. A backslash stays as it is there, so a name that
/// holds the four characters `\012` cannot be told from one that holds a newline.
pub(super) fn unescape_newlines(text: &[u8]) -> Vec<u8> {
    const ESCAPE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix(ESCAPE) {
            plain.push(b'\n');
            rest = tail;
        } else {
            plain.push(rest[0]);
            rest = &rest[1..];
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_checked() {
        assert_eq!(unsigned(b"18446744073709551615", 10), Some(u64::MAX));
        assert_eq!(unsigned(b"18446744073709551616", 10), None);
        assert_eq!(unsigned(b"", 10), None);
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed(b"-"), None);
        assert_eq!(signed_32(b"2147483648"), None);
        assert_eq!(unsigned(b"ff", 16), Some(255));
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c\09"), b"/a b\\c\\09");
        assert_eq!(unescape(br"\777\"), br"\777\");
        assert_eq!(unescape_newlines(br"/a\012b\040"), b"/a\nb\\040");
    }

    #[test]
    fn lines_end_without_an_empty_one() {
        assert_eq!(lines(b"").count(), 0);
        assert_eq!(lines(b"a\nb\n").count(), 2);
        assert_eq!(lines(b"a\n\nb").count(), 3);
    }

    proptest! {
        #[test]
        fn escaping_round_trips(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut escaped = Vec::new();
            for &byte in &text {
                if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
                    escaped.extend_from_slice(format!("\\{byte:03o}").as_bytes());
                } else {
                    escaped.push(byte);
                }
            }
            prop_assert_eq!(unescape(&escaped), text);
        }

        #[test]
        fn signed_numbers_round_trip(value: i64) {
            prop_assert_eq!(signed(value.to_string().as_bytes()), Some(value));
        }
    }
}
