//! Handles in memory that arguments point to. The program's own memory is not written: the function gets a copy, which lives as long as the call.

use std::ffi::c_void;

use brant_mediator::Frame;
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::rows::{Inside, Row};
use super::table::{Uses, real};

/// Handles that can be waited for at once.
const ARRAY_MAX: usize = 64;
/// OBJECT_ATTRIBUTES: its bytes, where the folder is in it, and where the flags are.
const ATTRIBUTES_BYTES: usize = 48;
const ROOT: usize = 8;
const FLAGS: usize = 24;
const IS_INHERITED: u8 = 2;
/// Classes of NtSetInformationFile with a name in them: rename, link, and their newer forms.
const NAMES: [u32; 4] = [10, 11, 65, 72];
const NAME_BYTES_MAX: usize = 0x1_0000;
/// IOCTL_AFD_EVENT_SELECT.
const EVENT_SELECT: u32 = 0x12087;
/// Where the standard handles are in the parameters of a new process.
const STANDARD: [u64; 3] = [0x20, 0x28, 0x30];

/// Room for what a call is given instead.
#[derive(Debug)]
pub(crate) struct Embedded {
    uses: Uses,
    words: [u64; ARRAY_MAX],
    bytes: Vec<u8>,
}

fn argument(frame: &Frame, index: u8) -> u64 {
    frame.arguments().get(usize::from(index)).copied().unwrap_or(0)
}

/// Copies memory of the program, whatever it is.
fn read(at: u64, into: &mut [u8]) -> bool {
    let mut done = 0;
    // SAFETY: our own process; where there is no memory the call fails.
    let is_read = at != 0
        && unsafe {
            ReadProcessMemory(
                GetCurrentProcess(),
                at as *const c_void,
                into.as_mut_ptr().cast(),
                into.len(),
                &raw mut done,
            )
        } != 0;
    is_read && done == into.len()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(std::array::from_fn(|byte| word[byte])))
}

/// Whether the attributes of a new object, the third argument, say that children inherit its handle.
pub(crate) fn is_inherited(frame: &Frame) -> bool {
    let at = argument(frame, 2);
    if at == 0 {
        return false;
    }
    // SAFETY: the function reads the attributes too, wherever they are.
    let flags = unsafe { ((at + FLAGS as u64) as *const u8).read() };
    flags & IS_INHERITED != 0
}

impl Embedded {
    pub(crate) fn new() -> Embedded {
        Embedded { uses: Uses::new(), words: [0; ARRAY_MAX], bytes: Vec::new() }
    }

    /// Puts the real handle where an argument is a virtual one.
    pub(crate) fn argument(&mut self, frame: &Frame, index: usize) {
        let value = frame.arguments().get(index).copied().unwrap_or(0);
        let known = self.uses.real(value);
        if known != value {
            frame.set_argument(index, known);
        }
    }

    /// Lets the call have real handles where the row says that there may be virtual ones.
    pub(crate) fn translate(&mut self, row: &Row, frame: &Frame) {
        match row.inside {
            Inside::Nothing => {}
            Inside::Attributes(index) => self.patch(frame, index, ATTRIBUTES_BYTES, ROOT),
            Inside::Array(array, count) => self.array(frame, array, count),
            Inside::Name => {
                let (bytes, class) = (argument(frame, 3) as usize, argument(frame, 4) as u32);
                if NAMES.contains(&class) && (16..NAME_BYTES_MAX).contains(&bytes) {
                    self.patch(frame, 2, bytes, 8);
                }
            }
            Inside::SocketEvent => {
                // Its control code is the sixth argument; what goes in, and how much, the seventh and eighth.
                let bytes = argument(frame, 7) as u32 as usize;
                if argument(frame, 5) as u32 == EVENT_SELECT && (8..=64).contains(&bytes) {
                    self.patch(frame, 6, bytes, 0);
                }
            }
            Inside::Standard(index) => standard(argument(frame, index)),
        }
    }

    /// Gives the call a copy of what an argument points to, with the real handle for the virtual one at an offset in it.
    fn patch(&mut self, frame: &Frame, index: u8, bytes: usize, offset: usize) {
        let at = argument(frame, index);
        let mut head = [0; 8];
        if at == 0 || !read_word(at + offset as u64, &mut head) {
            return;
        }
        let handle = u64::from_le_bytes(head);
        if real(handle) == handle {
            return;
        }
        let mut copy = vec![0; bytes];
        if !read(at, &mut copy) {
            return;
        }
        let known = self.uses.real(word(&copy, offset));
        copy[offset..offset + 8].copy_from_slice(&known.to_le_bytes());
        self.bytes = copy;
        frame.set_argument(usize::from(index), self.bytes.as_ptr() as u64);
    }

    fn array(&mut self, frame: &Frame, array: u8, count: u8) {
        let (at, count) = (argument(frame, array), argument(frame, count) as u32 as usize);
        if at == 0 || count == 0 || count > ARRAY_MAX {
            return;
        }
        for index in 0..count {
            // SAFETY: the function reads so many handles too.
            let handle = unsafe { (at as *const u64).add(index).read_unaligned() };
            self.words[index] = self.uses.real(handle);
        }
        frame.set_argument(usize::from(array), self.words.as_ptr() as u64);
    }
}

/// A word that the function reads too.
fn read_word(at: u64, into: &mut [u8; 8]) -> bool {
    // Attributes and buffers begin in memory, not in its first page.
    if at < 0x1_0000 {
        return false;
    }
    // SAFETY: the function reads it too.
    *into = unsafe { (at as *const u64).read_unaligned() }.to_le_bytes();
    true
}

/// A child's standard handles: its parameters were made for this call, by whoever creates processes.
fn standard(parameters: u64) {
    if parameters == 0 {
        return;
    }
    for offset in STANDARD {
        let at = (parameters + offset) as *mut u64;
        // SAFETY: the parameters are so long.
        let handle = unsafe { at.read() };
        let known = real(handle);
        if known != handle {
            // SAFETY: as above.
            unsafe { at.write(known) };
        }
    }
}
