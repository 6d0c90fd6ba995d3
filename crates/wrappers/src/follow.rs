//! What the mediator of `follow-exec` and the brant that it starts say to each other, and how that is started.
//!
//! `brant VERB "PID TID SOCKET FILE" OPTIONS`: the thread TID of process PID is about to execute FILE. No options mean that
//! nothing is handed on but the process's table of numbers, if it has one. The mediator says PID and TID again
//! ([`NUMBERS_BYTES`]): where they are others by now, the process is a copy of the one that has started that brant, which then ends.
//! The brant says [`PERMIT`] where it needs leave to trace (the mediator says the same back when that is given), then [`GO`] when
//! it has seized the thread, or [`NOT`] where nothing comes of it. One that ends without either was killed, or belongs to
//! another copy: the mediator starts another one. If the program cannot be executed the mediator says [`DONE`] and waits for the brant's end.

use core::ffi::CStr;

/// The verb, which no help shows.
pub const VERB: &CStr = c"follow-exec";
/// The line of the options that names brant.
pub const OPTION_BRANT: &str = "brant=";

pub const PERMIT: u8 = b'p';
pub const GO: u8 = b'g';
pub const DONE: u8 = b'd';
pub const NOT: u8 = b'n';

/// Two numbers of four bytes, little-endian.
pub const NUMBERS_BYTES: usize = 8;

/// How long the mediator waits for a byte. A brant that has ended closes its end of the connection, which shows at once; so this is for one that
/// hangs or was stopped, and long enough for one that gets hardly a processor: without it the program that is executed has no wrappers.
pub const WAIT_S: u64 = 60;
