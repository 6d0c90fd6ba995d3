//! The exported functions of a library as it is loaded: its headers and its export table, read through whatever gives memory.

/// Exported names that are looked at, at most.
const NAMES_MAX: u32 = 100_000;
const NAME_BYTES_MAX: u32 = 512;

/// Gives bytes of a loaded library: fills the buffer from an offset from its base, or says that it cannot.
pub trait Memory {
    fn read(&self, offset: u32, into: &mut [u8]) -> bool;
}

impl Memory for [u8] {
    fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        let at = offset as usize;
        let Some(from) = at.checked_add(into.len()).and_then(|end| self.get(at..end)) else { return false };
        into.copy_from_slice(from);
        true
    }
}

/// Where the function `name` is, from the base on; nothing where the library does not export it, or only leads on to another one.
pub fn find(library: &(impl Memory + ?Sized), name: &str) -> Option<u32> {
    let (table, table_bytes) = directory(library)?;
    let count = word(library, table.checked_add(24)?)?.min(NAMES_MAX);
    let functions = word(library, table.checked_add(28)?)?;
    let names = word(library, table.checked_add(32)?)?;
    let ordinals = word(library, table.checked_add(36)?)?;
    let place = (0..count).find(|place| {
        let at = names.checked_add(4 * place).and_then(|at| word(library, at));
        at.is_some_and(|at| is_text(library, at, name))
    })?;
    let mut ordinal = [0; 2];
    library.read(ordinals.checked_add(2 * place)?, &mut ordinal).then_some(())?;
    let function = word(library, functions.checked_add(4 * u32::from(u16::from_le_bytes(ordinal)))?)?;
    let is_forwarded = (table..table.checked_add(table_bytes)?).contains(&function);
    (!is_forwarded).then_some(function)
}

/// The machine that a library or program is for: 0x8664 for x86-64.
pub fn machine(library: &(impl Memory + ?Sized)) -> Option<u16> {
    let mut machine = [0; 2];
    library.read(headers(library)?.checked_add(4)?, &mut machine).then(|| u16::from_le_bytes(machine))
}

fn headers(library: &(impl Memory + ?Sized)) -> Option<u32> {
    let at = word(library, 0x3c)?;
    (word(library, at)? == 0x4550).then_some(at)
}

/// Where the export table is, and how long.
fn directory(library: &(impl Memory + ?Sized)) -> Option<(u32, u32)> {
    let headers = headers(library)?;
    let optional = headers.checked_add(24)?;
    let mut magic = [0; 2];
    library.read(optional, &mut magic).then_some(())?;
    let directories = match u16::from_le_bytes(magic) {
        0x20b => optional.checked_add(112)?,
        0x10b => optional.checked_add(96)?,
        _ => return None,
    };
    Some((word(library, directories)?, word(library, directories.checked_add(4)?)?))
}

fn word(library: &(impl Memory + ?Sized), offset: u32) -> Option<u32> {
    let mut bytes = [0; 4];
    library.read(offset, &mut bytes).then(|| u32::from_le_bytes(bytes))
}

fn is_text(library: &(impl Memory + ?Sized), at: u32, wanted: &str) -> bool {
    if wanted.len() as u32 > NAME_BYTES_MAX {
        return false;
    }
    let mut found = vec![0; wanted.len() + 1];
    library.read(at, &mut found) && found.ends_with(&[0]) && &found[..wanted.len()] == wanted.as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A library with headers at 0x80, a table at 0x200, and two functions, one of which leads on.
    fn library() -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0x3c, 0x80);
        put(0x80, 0x4550);
        put(0x84, 0x8664);
        put(0x98, 0x20b);
        put(0x98 + 112, 0x200);
        put(0x98 + 116, 0x100);
        put(0x218, 2);
        put(0x21c, 0x240);
        put(0x220, 0x250);
        put(0x224, 0x260);
        put(0x240, 0x1234);
        put(0x244, 0x280);
        put(0x250, 0x270);
        put(0x254, 0x278);
        put(0x260, 1); // Ordinals 1, 0.
        bytes[0x270..0x273].copy_from_slice(b"far");
        bytes[0x278..0x27c].copy_from_slice(b"near");
        bytes
    }

    #[test]
    fn functions_are_found_by_name() {
        let bytes = library();
        assert_eq!(find(bytes.as_slice(), "near"), Some(0x1234));
        assert_eq!(find(bytes.as_slice(), "far"), None);
        assert_eq!(find(bytes.as_slice(), "nea"), None);
        assert_eq!(machine(bytes.as_slice()), Some(0x8664));
    }

    #[test]
    fn broken_libraries_export_nothing() {
        let whole = library();
        for length in 0..whole.len() {
            let _ = find(&whole[..length], "near");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            let _ = find(broken.as_slice(), "near");
        }
        assert_eq!(find(&whole[..0x100], "near"), None);
    }

    proptest! {
        /// Whatever another process has in its memory, it is read or it is not.
        #[test]
        fn any_bytes_are_read(changes in prop::collection::vec((0usize..0x400, any::<u8>()), 0..40), length in 0usize..0x400) {
            let mut bytes = library();
            changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            let _ = (find(&bytes[..length], "near"), machine(&bytes[..length]));
        }
    }
}
