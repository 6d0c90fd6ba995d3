//! /proc/self/maps, read without an allocator.

use crate::system::{File, Path};

/// One mapping of this process.
pub(crate) struct Mapping<'a> {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) is_executable: bool,
    /// A file, something like `[heap]`, or nothing.
    pub(crate) name: &'a [u8],
}

/// Calls `visit` for each mapping, in order of addresses, until it says `false`. Nothing happens where /proc is missing.
pub(crate) fn visit(mut visit: impl FnMut(&Mapping<'_>) -> bool) {
    const LINE_BYTES_MAX: usize = 8192;
    let mut buffer = [0; 2 * LINE_BYTES_MAX];
    let Ok(file) = File::open_for_reading(&Path::literal(b"/proc/self/maps")) else { return };
    let mut filled = 0;
    loop {
        let count = match file.read(&mut buffer[filled..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        filled += count;
        let mut begin = 0;
        while let Some(length) = buffer[begin..filled].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[begin..begin + length];
            begin += length + 1;
            if let Some(mapping) = parse(line)
                && !visit(&mapping)
            {
                return;
            }
        }
        // A name that is longer than the buffer is nothing that the kernel writes.
        if begin == 0 && filled == buffer.len() {
            return;
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
    }
}

/// `55d8-55da r--p 00000000 fe:00 247030   /usr/bin/cat`
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let range = words.next()?;
    let dash = range.iter().position(|byte| *byte == b'-')?;
    let permissions = words.next()?;
    let rest = words.nth(3).unwrap_or_default();
    Some(Mapping {
        start: hexadecimal(&range[..dash])?,
        end: hexadecimal(&range[dash + 1..])?,
        is_executable: permissions.get(2) == Some(&b'x'),
        name: rest.trim_ascii_start(),
    })
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_itself_is_mapped() {
        let here = the_test_itself_is_mapped as *const () as usize;
        let mut found = false;
        visit(|mapping| {
            let is_it = (mapping.start..mapping.end).contains(&here);
            found |= is_it && mapping.is_executable && mapping.name.starts_with(b"/");
            !is_it
        });
        assert!(found);
    }

    #[test]
    fn lines() {
        let line = b"7ffd-8000 rw-p 00000000 00:00 0                          [stack]";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.is_executable), (0x7ffd, 0x8000, false));
        assert_eq!(mapping.name, b"[stack]");
        assert!(parse(b"").is_none());
        assert_eq!(parse(b"1-2 r-xp 0 0:0 0").unwrap().name, b"");
    }
}
