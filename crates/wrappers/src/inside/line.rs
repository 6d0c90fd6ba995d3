//! A record's text, in room of a fixed size. What does not fit is left out; it ends with a line end all the same.

use core::fmt::Write;

pub(super) const LINE_BYTES: usize = 1536;
/// Kept for the end of a record: the result, the error, the duration.
const END_BYTES: usize = 512;

pub(super) struct Line {
    used: usize,
    bytes: [u8; LINE_BYTES],
}

impl Line {
    /// Fills in an empty line where it is to be.
    pub(super) fn begin(place: &mut core::mem::MaybeUninit<Line>) -> &mut Line {
        let line = place.as_mut_ptr();
        // SAFETY: any bytes are valid, and only those before `used` are read.
        unsafe {
            (&raw mut (*line).used).write(0);
            &mut *line
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Takes away what came after so many bytes.
    pub(super) fn shorten(&mut self, bytes: usize) {
        self.used = self.used.min(bytes);
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(LINE_BYTES - self.used);
        self.bytes[self.used..self.used + fits].copy_from_slice(&bytes[..fits]);
        self.used += fits;
    }

    /// Whether there is room for an argument of so many bytes.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.used + bytes + END_BYTES <= LINE_BYTES
    }

    pub(super) fn unsigned(&mut self, mut number: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    pub(super) fn signed(&mut self, number: i64) {
        if number < 0 {
            self.put(b"-");
        }
        self.unsigned(number.unsigned_abs());
    }

    pub(super) fn hex(&mut self, number: u64) {
        let mut digits = [0u8; 16];
        let count = (64 - number.leading_zeros() as usize).div_ceil(4).max(1);
        for (place, digit) in digits[..count].iter_mut().rev().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * place) & 15) as usize];
        }
        self.put(b"0x");
        self.put(&digits[..count]);
    }

    /// Seconds with six digits behind the point.
    pub(super) fn seconds(&mut self, nanoseconds: u64) {
        self.unsigned(nanoseconds / 1_000_000_000);
        let micros = nanoseconds % 1_000_000_000 / 1000;
        let mut digits = *b".000000";
        let mut rest = micros;
        for digit in digits[1..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.put(&digits);
    }

    pub(super) fn float(&mut self, number: f64, is_json: bool) {
        let begin = self.used;
        let is_number = number.is_finite();
        if is_json && !is_number {
            return self.put(b"null");
        }
        if write!(self, "{number:?}").is_err() {
            self.used = begin;
            self.put(b"0");
        }
    }

    /// What does not fit is left out.
    pub(super) fn display(&mut self, value: &dyn core::fmt::Display) {
        let _ = write!(self, "{value}");
    }

    /// In quotes. As JSON: bytes that are no UTF-8 become those of U+FFFD. Else: as C writes them, in octal.
    pub(super) fn quoted(&mut self, text: &[u8], is_json: bool) {
        self.put(b"\"");
        if is_json {
            for chunk in text.utf8_chunks() {
                chunk.valid().bytes().for_each(|byte| self.json_byte(byte));
                if !chunk.invalid().is_empty() {
                    self.put("\u{fffd}".as_bytes());
                }
            }
        } else {
            text.iter().for_each(|byte| self.c_byte(*byte));
        }
        self.put(b"\"");
    }

    fn json_byte(&mut self, byte: u8) {
        match byte {
            b'"' => self.put(b"\\\""),
            b'\\' => self.put(b"\\\\"),
            b'\n' => self.put(b"\\n"),
            b'\t' => self.put(b"\\t"),
            b'\r' => self.put(b"\\r"),
            0..0x20 | 0x7f => {
                let digits = b"0123456789abcdef";
                self.put(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    digits[usize::from(byte >> 4)],
                    digits[usize::from(byte & 15)],
                ]);
            }
            byte => self.put(&[byte]),
        }
    }

    fn c_byte(&mut self, byte: u8) {
        match byte {
            b'"' => self.put(b"\\\""),
            b'\\' => self.put(b"\\\\"),
            b'\n' => self.put(b"\\n"),
            b'\t' => self.put(b"\\t"),
            b'\r' => self.put(b"\\r"),
            0x20..0x7f => self.put(&[byte]),
            byte => self.put(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]),
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        if self.used + text.len() > LINE_BYTES {
            return Err(core::fmt::Error);
        }
        self.put(text.as_bytes());
        Ok(())
    }
}
