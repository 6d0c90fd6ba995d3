//! `virtual`: internet addresses that lead elsewhere now.
//!
//! What the program gives is copied first where another address must be in it. What the kernel tells is changed in the
//! program's memory: 8 bytes of an IPv4 address or 24 of an IPv6 one, which are looked at before. That they are there and are the
//! address which is looked for is enough, so that nobody need remember how much room the program gave: a table may come while a call waits.

use brant_identity::{End, SOCKET_BYTES};

use super::system;
use super::virtual_calls::{peek, word};
use super::virtual_table::table;

/// A `struct sockaddr` with another address, and where it begins.
pub(super) struct Led([u8; SOCKET_BYTES], usize);

impl Led {
    pub(super) fn at(&self) -> usize {
        self.0.as_ptr() as usize
    }

    pub(super) fn length(&self) -> usize {
        self.1
    }
}

/// What the program's address leads to; `None` where it is to stay.
pub(super) fn led(at: usize, length: usize) -> Option<Led> {
    let table = table();
    if at == 0 || !table.has_addresses() {
        return None;
    }
    // What is behind an address of the internet is nothing that the kernel looks at.
    let length = (length as u32 as usize).min(SOCKET_BYTES);
    let mut bytes = [0; SOCKET_BYTES];
    let is_another = system::read_bytes(at, &mut bytes[..length]) && table.lead_address(&mut bytes[..length]);
    is_another.then_some(Led(bytes, length))
}

/// Changes an address of which the kernel has just said that it takes `length` bytes.
pub(super) fn show(at: usize, length: usize, end: End) {
    let table = table();
    if at == 0 || !table.has_addresses() {
        return;
    }
    // Without what is behind the address: it does not change.
    const V4: usize = 8;
    const V6: usize = 24;
    let mut bytes = [0; V6];
    let length = if length >= SOCKET_BYTES - 4 { V6 } else { V4.min(length) };
    let Some(given) = bytes.get_mut(..length) else { return };
    if system::read_bytes(at, given) && table.show_address(given, end) {
        // SAFETY: it could be read, and is an address that the kernel has written.
        unsafe { core::ptr::copy_nonoverlapping(given.as_ptr(), at as *mut u8, length) };
    }
}

/// As [`show`], where the length is in memory.
fn show_sized(at: usize, length: usize, end: End) {
    if at != 0
        && table().has_addresses()
        && let Some(length) = peek::<4>(length)
    {
        show(at, word(&length, 0) as u32 as usize, end);
    }
}

brant_mediator::mediator! {
    /// bind, connect.
    fn virtual_address(call, socket: usize, at: usize, length: usize, d: usize, e: usize, f: usize) -> isize {
        match led(at, length) {
            // SAFETY: as the program called it, with another address.
            Some(other) => unsafe { call.inner_fn()(socket, other.at(), other.length(), d, e, f) },
            None => call.inner(),
        }
    }

    fn virtual_sendto(call, socket: usize, b: usize, c: usize, d: usize, at: usize, length: usize) -> isize {
        match led(at, length) {
            // SAFETY: as the program called it, with another address.
            Some(other) => unsafe { call.inner_fn()(socket, b, c, d, other.at(), other.length()) },
            None => call.inner(),
        }
    }

    fn virtual_getsockname(call, socket: usize, at: usize, length: usize, d: usize, e: usize, f: usize) -> isize {
        let result = call.inner();
        if result == 0 {
            show_sized(at, length, End::Own);
        }
        result
    }

    /// getpeername, accept, accept4.
    fn virtual_peer(call, socket: usize, at: usize, length: usize, d: usize, e: usize, f: usize) -> isize {
        let result = call.inner();
        if result >= 0 {
            show_sized(at, length, End::Peer);
        }
        result
    }

    fn virtual_recvfrom(call, socket: usize, b: usize, c: usize, d: usize, at: usize, length: usize) -> isize {
        let result = call.inner();
        if result >= 0 {
            show_sized(at, length, End::Peer);
        }
        result
    }
}
