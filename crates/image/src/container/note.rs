//! Notes: what others than the engine keep of a process in an image. Opaque here, and nobody must know them.

use brant_base::Pid;

use super::header::{u16_at, u32_at};

/// A note is never larger, its head included.
pub const NOTE_BYTES_MAX: u64 = 8 << 20;
/// Its name is never longer.
pub const NOTE_NAME_BYTES_MAX: usize = 32;

/// pid (u32), length of the name (u16), reserved (u16).
const HEAD_BYTES: usize = 8;

/// Bytes that somebody keeps of a process.
#[derive(Clone, PartialEq, Eq)]
pub struct Note {
    /// The process, by its number in the image.
    pub pid: Pid,
    /// Who keeps it.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Contents may be a program's memory, which never reaches a log.
impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "note {:?} of {} ({} bytes)", self.name, self.pid, self.bytes.len())
    }
}

pub(crate) fn encode(pid: Pid, name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + name.len() + bytes.len());
    out.extend_from_slice(&pid.0.to_le_bytes());
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(bytes);
    out
}

/// Whether a note may have this name.
pub(crate) fn is_name(name: &[u8]) -> bool {
    let is_fine = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    !name.is_empty() && name.len() <= NOTE_NAME_BYTES_MAX && name.iter().all(is_fine)
}

pub(crate) fn decode(raw: &[u8]) -> Result<Note, &'static str> {
    let Some((head, rest)) = raw.split_at_checked(HEAD_BYTES) else {
        return Err("it is too short for a note");
    };
    if u16_at(head, 6) != 0 {
        return Err("its reserved bytes are not zero");
    }
    let Some((name, bytes)) = rest.split_at_checked(u16_at(head, 4) as usize) else {
        return Err("it is too short for its name");
    };
    match std::str::from_utf8(name) {
        Ok(text) if is_name(name) => {
            let pid = i32::try_from(u32_at(head, 0)).map_err(|_| "its process has no such number")?;
            Ok(Note { pid: Pid(pid), name: text.to_owned(), bytes: bytes.to_owned() })
        }
        _ => Err("its name is none"),
    }
}
