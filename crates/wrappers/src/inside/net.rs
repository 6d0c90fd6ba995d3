//! `net`: connections made and accepted.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use super::files::put_errno;
use super::journal;
use super::line::Line;
use super::system;
use crate::options;

/// `struct sockaddr_storage`.
const ADDRESS_BYTES: usize = 128;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

static IS_JSON: AtomicBool = AtomicBool::new(false);

pub(super) fn prepare(options: &str) {
    IS_JSON.store(options::value(options, "json").is_some(), Ordering::Relaxed);
}

struct Record<'a> {
    function: &'a str,
    socket: c_int,
    address: Option<&'a [u8]>,
    result: c_int,
    errno: u32,
}

impl Record<'_> {
    fn write(&self) {
        let is_json = IS_JSON.load(Ordering::Relaxed);
        let now = system::wall_ns();
        let mut line = MaybeUninit::uninit();
        let line = Line::begin(&mut line);
        let field = |line: &mut Line, key: &str| {
            line.put(if is_json { b",\"" } else { b" " });
            if is_json {
                line.put(key.as_bytes());
                line.put(b"\":");
            }
        };
        line.put(if is_json { b"{\"time\":" } else { b"" });
        line.seconds(now);
        field(line, "tid");
        line.unsigned(system::thread().into());
        field(line, "function");
        if is_json {
            line.quoted(self.function.as_bytes(), true);
        } else {
            line.put(self.function.as_bytes());
        }
        field(line, "socket");
        line.signed(self.socket.into());
        field(line, "address");
        put_address(line, self.address, is_json);
        if !is_json {
            line.put(b" =");
        }
        field(line, "result");
        line.signed(self.result.into());
        if self.result < 0 {
            field(line, "errno");
            line.put(if is_json { b"\"" } else { b"" });
            put_errno(line, self.errno);
            line.put(if is_json { b"\"" } else { b"" });
        }
        line.put(if is_json { b"}\n" } else { b"\n" });
        journal::record(line, now);
    }
}

/// `127.0.0.1:80`, `[::1]:80`, `unix:/path`, `unix:@abstract`, or the family's number.
fn put_address(line: &mut Line, address: Option<&[u8]>, is_json: bool) {
    let Some(address) = address.filter(|address| address.len() >= 2) else {
        return line.put(if is_json { b"null" } else { b"?" });
    };
    let mut text = MaybeUninit::uninit();
    let text = Line::begin(&mut text);
    let port = |at: &[u8]| u64::from(u16::from_be_bytes([at[2], at[3]]));
    match u16::from_le_bytes([address[0], address[1]]) {
        AF_INET if address.len() >= 8 => {
            for (place, byte) in address[4..8].iter().enumerate() {
                text.put(if place > 0 { b"." } else { b"" });
                text.unsigned((*byte).into());
            }
            text.put(b":");
            text.unsigned(port(address));
        }
        AF_INET6 if address.len() >= 24 => {
            let bytes: [u8; 16] = address[8..24].try_into().unwrap_or_default();
            text.put(b"[");
            text.display(&core::net::Ipv6Addr::from(bytes));
            text.put(b"]:");
            text.unsigned(port(address));
        }
        AF_UNIX => {
            let path = &address[2..];
            text.put(b"unix:");
            match path.first() {
                None => {}
                Some(0) => {
                    text.put(b"@");
                    text.put(&path[1..]);
                }
                Some(_) => {
                    text.put(&path[..path.iter().position(|byte| *byte == 0).unwrap_or(path.len())]);
                }
            }
        }
        family => {
            text.put(b"family ");
            text.unsigned(family.into());
        }
    }
    line.quoted(text.bytes(), is_json);
}

/// What the program gave, before the call.
fn given(at: *const c_void, bytes: u32, room: &mut [u8; ADDRESS_BYTES]) -> Option<&[u8]> {
    let bytes = (bytes as usize).min(ADDRESS_BYTES);
    system::read_bytes(at as usize, &mut room[..bytes]).then_some(&room[..bytes])
}

fn accepted(function: &str, socket: c_int, result: c_int) {
    let errno = system::errno();
    let mut room = [0; ADDRESS_BYTES];
    // The program may not have asked for it.
    let address = if result >= 0 { system::peer(result, &mut room) } else { None };
    Record { function, socket, address, result, errno }.write();
}

brant_mediator::mediator! {
    fn net_connect(call, socket: c_int, address: *const c_void, bytes: u32) -> c_int {
        let mut room = [0; ADDRESS_BYTES];
        let given = given(address, bytes, &mut room);
        let result = call.inner();
        Record { function: "connect", socket, address: given, result, errno: system::errno() }.write();
        result
    }

    fn net_bind(call, socket: c_int, address: *const c_void, bytes: u32) -> c_int {
        let mut room = [0; ADDRESS_BYTES];
        let given = given(address, bytes, &mut room);
        let result = call.inner();
        Record { function: "bind", socket, address: given, result, errno: system::errno() }.write();
        result
    }

    fn net_accept(call, socket: c_int, address: *mut c_void, bytes: *mut u32) -> c_int {
        let result = call.inner();
        accepted("accept", socket, result);
        result
    }

    fn net_accept4(call, socket: c_int, address: *mut c_void, bytes: *mut u32, flags: c_int) -> c_int {
        let result = call.inner();
        accepted("accept4", socket, result);
        result
    }
}
