//! `virtual`: numbers of processes that sockets and terminals tell, and addresses of messages.

use super::system;
use super::virtual_addresses::{self, led};
use super::virtual_calls::{peek, word};
use super::virtual_table::{apparent, real, real_or_group, show, table};
use brant_identity::{End, Kind};

const SOL_SOCKET: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// `struct msghdr`, with its address and control data, and their lengths.
const MESSAGE_BYTES: usize = 56;
const NAME_LENGTH_AT: usize = 8;
const CONTROL_AT: usize = 32;
const CONTROL_LENGTH_AT: usize = 40;
/// `struct cmsghdr`.
const HEADER_BYTES: usize = 16;
/// Longer control data with credentials than this are sent as they are.
const CONTROL_BYTES_MAX: usize = 1024;

brant_mediator::mediator! {
    fn virtual_getsockopt(call, socket: usize, level: usize, name: usize, at: usize, length: usize, f: usize) -> isize {
        const SO_PEERCRED: i32 = 17;
        let result = call.inner();
        let is_wanted = result == 0 && (level as i32, name as i32) == (SOL_SOCKET, SO_PEERCRED);
        if is_wanted && peek::<4>(length).is_some_and(|bytes| word(&bytes, 0) >= 4) {
            // SAFETY: the kernel has written so much.
            unsafe { show(at) };
        }
        result
    }

    fn virtual_recvmsg(call, socket: usize, message: usize, flags: usize, d: usize, e: usize, f: usize) -> isize {
        let result = call.inner();
        if result >= 0 {
            show_message(message);
        }
        result
    }

    fn virtual_recvmmsg(call, socket: usize, messages: usize, count: usize, d: usize, e: usize, f: usize) -> isize {
        const ENTRY_BYTES: usize = MESSAGE_BYTES + 8;
        let result = call.inner();
        for index in 0..usize::try_from(result).unwrap_or(0) {
            show_message(messages + index * ENTRY_BYTES);
        }
        result
    }

    fn virtual_sendmsg(call, socket: usize, message: usize, flags: usize, d: usize, e: usize, f: usize) -> isize {
        let mut control = [0; CONTROL_BYTES_MAX];
        let mut own = with_own_credentials(message, &mut control);
        let name = led_name(message);
        if let Some(name) = &name {
            own = own.or_else(|| peek(message)).map(|head| with_name(head, name));
        }
        match own {
            Some(own) => {
                // SAFETY: as the program called it, with another address, or other numbers in its control data.
                unsafe { call.inner_fn()(socket, own.as_ptr() as usize, flags, d, e, f) }
            }
            None => call.inner(),
        }
    }

    fn virtual_ioctl(call, file: usize, request: usize, argument: usize, d: usize, e: usize, f: usize) -> isize {
        const TIOCGPGRP: usize = 0x540f;
        const TIOCSPGRP: usize = 0x5410;
        const TIOCGSID: usize = 0x5429;
        const TIOCGPTN: usize = 0x8004_5430;
        const SETS_OWNER: [usize; 2] = [0x8901, 0x8902];
        const GETS_OWNER: [usize; 2] = [0x8903, 0x8904];
        let given = match request {
            TIOCSPGRP => peek::<4>(argument).map(|bytes| real(word(&bytes, 0) as usize) as i32),
            owner if SETS_OWNER.contains(&owner) => {
                peek::<4>(argument).map(|bytes| real_or_group(word(&bytes, 0) as usize) as i32)
            }
            _ => None,
        };
        if let Some(own) = given {
            // SAFETY: as the program called it, with another number.
            return unsafe { call.inner_fn()(file, request, &raw const own as usize, d, e, f) };
        }
        let result = call.inner();
        if result != 0 {
            return result;
        }
        match request {
            // SAFETY: the kernel has written it.
            TIOCGPGRP | TIOCGSID => unsafe { show(argument) },
            // SAFETY: the kernel has written it.
            owner if GETS_OWNER.contains(&owner) => unsafe { show_owner(argument) },
            // SAFETY: the kernel has written it.
            TIOCGPTN => unsafe { show_terminal(argument) },
            _ => {}
        }
        result
    }
}

/// # Safety
///
/// The kernel has written four bytes there.
unsafe fn show_owner(at: usize) {
    let place = at as *mut i32;
    // SAFETY: promised by the caller.
    let found = unsafe { place.read_unaligned() };
    let shown = match found {
        group if group < 0 => -(apparent(-(group as isize)) as i32),
        process => apparent(process as isize) as i32,
    };
    // SAFETY: promised by the caller.
    unsafe { place.write_unaligned(shown) };
}

/// The number of a terminal.
///
/// # Safety
///
/// The kernel has written four bytes there.
unsafe fn show_terminal(at: usize) {
    let number = |path: &[u8]| {
        let digits = path.strip_prefix(b"/dev/pts/")?;
        core::str::from_utf8(digits).ok()?.parse::<u32>().ok()
    };
    let place = at as *mut u32;
    // SAFETY: promised by the caller.
    let found = unsafe { place.read_unaligned() };
    let known = table().texts(Kind::Terminal).find(|(_, to)| number(to) == Some(found));
    if let Some(shown) = known.and_then(|(from, _)| number(from)) {
        // SAFETY: promised by the caller.
        unsafe { place.write_unaligned(shown) };
    }
}

fn long(bytes: &[u8], at: usize) -> usize {
    usize::from_ne_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

/// The places of credentials in control data, from their beginning.
fn credentials(control: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let mut next = 0;
    core::iter::from_fn(move || {
        while control.len() >= next + HEADER_BYTES {
            let at = next;
            let bytes = long(control, at);
            if bytes < HEADER_BYTES || bytes > control.len() - at {
                return None;
            }
            next = at + bytes.next_multiple_of(8);
            let kind = (word(control, at + 8), word(control, at + 12));
            if kind == (SOL_SOCKET, SCM_CREDENTIALS) && bytes >= HEADER_BYTES + 4 {
                return Some(at + HEADER_BYTES);
            }
        }
        None
    })
}

/// What the address of a message leads to.
fn led_name(message: usize) -> Option<virtual_addresses::Led> {
    let head = peek::<16>(message).filter(|_| table().has_addresses())?;
    led(long(&head, 0), word(&head, NAME_LENGTH_AT) as u32 as usize)
}

fn with_name(mut head: [u8; MESSAGE_BYTES], name: &virtual_addresses::Led) -> [u8; MESSAGE_BYTES] {
    head[..8].copy_from_slice(&name.at().to_ne_bytes());
    head[NAME_LENGTH_AT..NAME_LENGTH_AT + 4].copy_from_slice(&(name.length() as u32).to_ne_bytes());
    head
}

/// Changes the address and the numbers in a message that was received.
fn show_message(message: usize) {
    let Some(head) = peek::<MESSAGE_BYTES>(message) else { return };
    virtual_addresses::show(long(&head, 0), word(&head, NAME_LENGTH_AT) as u32 as usize, End::Peer);
    show_credentials(&head);
}

/// Changes the numbers in control data that were received.
fn show_credentials(head: &[u8; MESSAGE_BYTES]) {
    let (at, length) = (long(head, CONTROL_AT), long(head, CONTROL_LENGTH_AT));
    if at == 0 || length < HEADER_BYTES || table().is_same() {
        return;
    }
    // SAFETY: the kernel has just written control data of that length there.
    let control = unsafe { core::slice::from_raw_parts(at as *const u8, length) };
    for place in credentials(control) {
        // SAFETY: within these.
        unsafe { show(at + place) };
    }
}

/// A message with the real numbers in its credentials, which are put into `control`; `None` where it has none.
fn with_own_credentials(
    message: usize,
    control: &mut [u8; CONTROL_BYTES_MAX],
) -> Option<[u8; MESSAGE_BYTES]> {
    let mut head = peek::<MESSAGE_BYTES>(message)?;
    let (at, length) = (long(&head, CONTROL_AT), long(&head, CONTROL_LENGTH_AT));
    if at == 0 || length < HEADER_BYTES || table().is_same() {
        return None;
    }
    let given = control.get_mut(..length)?;
    if !system::read_bytes(at, given) {
        return None;
    }
    credentials(given).next()?;
    let mut from = 0;
    loop {
        let Some(place) = credentials(&given[from..]).next() else { break };
        let place = from + place;
        let own = real(word(given, place) as usize) as i32;
        given[place..place + 4].copy_from_slice(&own.to_ne_bytes());
        // To the next header.
        let begin = place - HEADER_BYTES;
        from = (begin + long(given, begin).next_multiple_of(8)).min(given.len());
    }
    head[CONTROL_AT..CONTROL_AT + 8].copy_from_slice(&(given.as_ptr() as usize).to_ne_bytes());
    Some(head)
}
