//! Libraries of this machine as they would be in memory.

use std::path::Path;

use brant_hook::symbols::{self, Segment, Tables};

/// A library's file as if it were loaded at 0.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) segments: Vec<Segment>,
}

impl Image {
    pub(crate) fn load(path: &Path) -> Image {
        let file = std::fs::read(path).unwrap();
        let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let u16_at = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap());
        let headers = u64_at(32) as usize;
        let headers = &file[headers..headers + usize::from(u16_at(56)) * symbols::PROGRAM_HEADER_BYTES];
        let segments: Vec<_> = symbols::segments(headers).collect();
        let loaded = || segments.iter().filter(|segment| segment.kind == symbols::PT_LOAD);
        let mut bytes = vec![0u8; loaded().map(|s| s.address + s.memory_bytes).max().unwrap() as usize];
        for segment in loaded() {
            let (to, from, count) =
                (segment.address as usize, segment.offset as usize, segment.file_bytes as usize);
            bytes[to..to + count].copy_from_slice(&file[from..from + count]);
        }
        Image { bytes, segments }
    }

    pub(crate) fn part(&self, at: u64, bytes: u64) -> &[u8] {
        &self.bytes[at as usize..(at + bytes) as usize]
    }

    pub(crate) fn tables(&self) -> Tables<'_> {
        let dynamic = self.segments.iter().find(|segment| segment.kind == symbols::PT_DYNAMIC).unwrap();
        let dynamic = symbols::Dynamic::parse(&self.bytes[dynamic.address as usize..], 0);
        let gnu = dynamic.gnu_hash.unwrap() as usize;
        let count = symbols::count_by_gnu_hash(|at| {
            let at = gnu + at as usize;
            Some(u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
        })
        .unwrap();
        Tables {
            symbols: self.part(dynamic.symbols, count * symbols::SYMBOL_BYTES),
            strings: self.part(dynamic.strings, dynamic.string_bytes),
            versions: dynamic.versions.map_or(&[], |at| self.part(at, count * 2)),
            version_definitions: dynamic.version_definitions.map_or(&[], |(at, _)| self.part(at, 4096)),
        }
    }
}
