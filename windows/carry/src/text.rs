//! Texts of the system: UTF-16, and code pages.

use windows_sys::Win32::Globalization::{CP_ACP, MultiByteToWideChar, WideCharToMultiByte};

pub(crate) fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// A text in the system's code page.
pub(crate) fn from_code_page(bytes: &[u8]) -> Vec<u16> {
    let mut room = vec![0; bytes.len()];
    if bytes.is_empty() {
        return room;
    }
    // SAFETY: so many bytes, and room for as many units, of which there are never more.
    let count = unsafe {
        MultiByteToWideChar(
            CP_ACP,
            0,
            bytes.as_ptr(),
            bytes.len() as i32,
            room.as_mut_ptr(),
            room.len() as i32,
        )
    };
    room.truncate(count.max(0) as usize);
    room
}

/// The other way round.
pub(crate) fn to_code_page(text: &[u16]) -> Vec<u8> {
    let mut room = vec![0; 4 * text.len()];
    if text.is_empty() {
        return room;
    }
    // SAFETY: so many units, and room for what they may take.
    let count = unsafe {
        WideCharToMultiByte(
            CP_ACP,
            0,
            text.as_ptr(),
            text.len() as i32,
            room.as_mut_ptr(),
            room.len() as i32,
            std::ptr::null(),
            std::ptr::null_mut(),
        )
    };
    room.truncate(count.max(0) as usize);
    room
}
