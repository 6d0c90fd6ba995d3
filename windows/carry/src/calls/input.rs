//! Reading from the standard input, which cannot be taken back from a read: a thread of ours reads as much as the program wants, into memory that travels.
//!
//! What that thread has just read may not be in an image that is being written. A program that goes on gets it after that; for one that ends, the image is written again.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Storage::FileSystem::ReadFile as native_read;
use windows_sys::Win32::System::Threading::{CreateThread, INFINITE, WaitForSingleObject};

use super::{files, waits};
use crate::freeze;
use crate::state::{INPUT_BYTES, lock, state};

/// The event that says that there is input, once there is somebody who reads it.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);
static WANTED: AtomicUsize = AtomicUsize::new(0);
/// The thread that reads.
static READER: AtomicUsize = AtomicUsize::new(0);
/// Threads of the program that wait for input.
static WAITING: AtomicU32 = AtomicU32::new(0);
/// What was read and is not in our records yet; nothing in it where the input has ended.
static GOT: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Reads from the standard input. Nothing where the input has ended.
pub(super) fn read(into: *mut u8, room: usize) -> Option<usize> {
    loop {
        if let Some(end) = take(into, room) {
            // Another one that waits looks for what is left, or asks for more.
            if WAITING.load(Ordering::SeqCst) > 0 {
                freeze::set(ARRIVED.load(Ordering::Acquire) as HANDLE);
            }
            return end;
        }
        let arrived = reader();
        WAITING.fetch_add(1, Ordering::SeqCst);
        freeze::set(WANTED.load(Ordering::Acquire) as HANDLE);
        waits::wait(&[arrived], INFINITE, |_, _| {});
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes what was read before. Nothing where there is none; nothing in that where the input has ended.
fn take(into: *mut u8, room: usize) -> Option<Option<usize>> {
    let _held = lock();
    let (begin, end) =
        (state().input_begin.load(Ordering::Acquire), state().input_end.load(Ordering::Acquire));
    let count = ((end - begin) as usize).min(room);
    for index in 0..count {
        let byte = state().input[begin as usize + index].load(Ordering::Acquire);
        // SAFETY: the program has room for so many bytes.
        unsafe { into.add(index).write(byte) };
    }
    state().input_begin.store(begin + count as u32, Ordering::Release);
    if count > 0 || room == 0 {
        return Some(Some(count));
    }
    (state().input_over.load(Ordering::Acquire) == 1).then_some(None)
}

/// The reader's event; it is started when it is first needed in a process.
fn reader() -> HANDLE {
    let held = lock();
    let known = ARRIVED.load(Ordering::Acquire);
    if known != 0 {
        return known as HANDLE;
    }
    let arrived = freeze::event(false);
    WANTED.store(freeze::event(false) as usize, Ordering::Release);
    ARRIVED.store(arrived as usize, Ordering::Release);
    // SAFETY: a thread of ours, which ends with the process.
    let thread = unsafe {
        CreateThread(std::ptr::null(), 0, Some(read_on), std::ptr::null(), 0, std::ptr::null_mut())
    };
    READER.store(thread as usize, Ordering::Release);
    drop(held);
    arrived
}

fn is_there_more() -> bool {
    state().input_begin.load(Ordering::Acquire) != state().input_end.load(Ordering::Acquire)
        || state().input_over.load(Ordering::Acquire) == 1
}

unsafe extern "system" fn read_on(_argument: *mut core::ffi::c_void) -> u32 {
    let mut room = [0; INPUT_BYTES];
    loop {
        // SAFETY: the event is ours.
        unsafe { WaitForSingleObject(WANTED.load(Ordering::Acquire) as HANDLE, INFINITE) };
        let is_there = {
            let _held = lock();
            is_there_more()
        };
        if is_there {
            // Several have asked for it.
            freeze::set(ARRIVED.load(Ordering::Acquire) as HANDLE);
            continue;
        }
        let mut count = 0;
        // SAFETY: there is room for so many bytes.
        let is_read = unsafe {
            native_read(
                files::native_handle(0),
                room.as_mut_ptr(),
                INPUT_BYTES as u32,
                &raw mut count,
                std::ptr::null_mut(),
            )
        };
        let read = if is_read == 0 { &[] } else { &room[..count as usize] };
        *GOT.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(read.to_vec());
        let _turn = freeze::still();
        deliver();
    }
}

/// Puts what was read into our records. By who keeps the program from being captured, or captures it.
pub(crate) fn deliver() {
    let Some(read) = GOT.lock().unwrap_or_else(|broken| broken.into_inner()).take() else { return };
    let _held = lock();
    if read.is_empty() {
        state().input_over.store(1, Ordering::Release);
    }
    for (place, byte) in state().input.iter().zip(&read) {
        place.store(*byte, Ordering::Release);
    }
    state().input_begin.store(0, Ordering::Release);
    state().input_end.store(read.len() as u32, Ordering::Release);
    freeze::set(ARRIVED.load(Ordering::Acquire) as HANDLE);
}

/// How long a reader that has just read may take to say so.
const OUT_OF_READ: Duration = Duration::from_millis(5);

/// Lets nothing be read any more: the program is about to end. False where something was read that is not in our records.
pub(crate) fn hold() -> bool {
    let reader = READER.load(Ordering::Acquire) as HANDLE;
    if reader.is_null() {
        return true;
    }
    // Twice: where it stood between the system's read and our note of it, it goes on meanwhile.
    for pause in [OUT_OF_READ, Duration::ZERO] {
        freeze::suspend(reader);
        let has_read = match GOT.try_lock() {
            Ok(got) => got.is_some(),
            Err(TryLockError::Poisoned(_)) => false,
            Err(TryLockError::WouldBlock) => true,
        };
        if has_read || !pause.is_zero() {
            freeze::resume(reader);
        }
        if has_read {
            return false;
        }
        std::thread::sleep(pause);
    }
    true
}
