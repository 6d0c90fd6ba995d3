//! What we know of the program: records of plain numbers at one address, which travel in the image as any memory of the program does.
//!
//! Fields are atomic, as several threads of the program and a capture use them; who changes several together has [`lock`]. Nobody has it
//! while the program is frozen.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::places;
use crate::thread::Thread;

/// Raised when a record changes.
pub(crate) const VERSION: u32 = 3;

pub(crate) const OBJECTS_MAX: usize = 2048;
pub(crate) const THREADS_MAX: usize = 256;
pub(crate) const INPUT_BYTES: usize = 4096;
pub(crate) const TLS_SLOTS: usize = 64;
pub(crate) const CTRL_HANDLERS_MAX: usize = 16;
pub(crate) const PROCESS_HEAPS_MAX: usize = 64;
pub(crate) const RAW_HEAPS_MAX: usize = 64;
pub(crate) const RAW_OWN_MAX: usize = 8;

const TEXT_MAX: usize = 276;

/// A short text, written once by whoever made its record.
#[repr(C)]
pub(crate) struct Text(UnsafeCell<[u16; TEXT_MAX]>);

// SAFETY: a text is written under the lock of the tables, before its record is known to others.
unsafe impl Sync for Text {}

impl Text {
    /// False where it is too long.
    pub(crate) fn set(&self, text: &[u16]) -> bool {
        if text.len() >= TEXT_MAX {
            return false;
        }
        // SAFETY: see above: nobody reads it meanwhile.
        let own = unsafe { &mut *self.0.get() };
        own[..text.len()].copy_from_slice(text);
        own[text.len()] = 0;
        true
    }

    pub(crate) fn get(&self) -> &[u16] {
        // SAFETY: as above: nobody writes it any more.
        let own = unsafe { &*self.0.get() };
        &own[..own.iter().position(|&unit| unit == 0).unwrap_or(TEXT_MAX)]
    }

    pub(crate) fn string(&self) -> String {
        String::from_utf16_lossy(self.get())
    }
}

/// A function of the system that the program may call.
#[repr(C)]
pub(crate) struct Function {
    /// `dll!name`, in lower case before the sign.
    pub(crate) name: Text,
}

/// What a handle of the program stands for.
#[repr(C)]
pub(crate) struct Object {
    /// A number of [`crate::objects::Kind`]; 0 is free.
    pub(crate) kind: AtomicU32,
    /// Handles of the same thing have the same.
    pub(crate) group: AtomicU32,
    /// The system's handle, of this process.
    pub(crate) real: AtomicU64,
    /// By kind: see [`crate::objects`].
    pub(crate) numbers: [AtomicU64; 4],
    pub(crate) text: Text,
}

/// A library that the program has loaded.
#[repr(C)]
pub(crate) struct Module {
    /// As the loader knows it, or nothing.
    pub(crate) name: Text,
    /// Of a private one, in bytes.
    pub(crate) bytes: AtomicU64,
    pub(crate) entry: AtomicU64,
    /// Of a private one: its place among those that are told of threads, from 1; those that it needs stand before it.
    pub(crate) order: AtomicU64,
}

/// A heap of the system's that is the program's ([`crate::raw`]).
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawHeap {
    /// Its handle, which is where it lies; 0 is free.
    pub(crate) handle: AtomicU64,
    /// What it was made with.
    pub(crate) options: AtomicU32,
    /// How many of `own` there are.
    pub(crate) own_count: AtomicU32,
    pub(crate) initial: AtomicU64,
    pub(crate) maximum: AtomicU64,
    /// What belongs to the process in it and not to the program ([`crate::raw::own`]).
    pub(crate) own: [AtomicU32; RAW_OWN_MAX],
    /// Written by a checkpoint: a digest of all of its blocks' places.
    pub(crate) blocks: [AtomicU64; 4],
}

#[repr(C)]
pub(crate) struct State {
    pub(crate) version: AtomicU32,
    pub(crate) process: AtomicU32,
    /// Bytes of this record.
    pub(crate) bytes: AtomicU64,
    /// The executable.
    pub(crate) program_base: AtomicU64,
    pub(crate) program_bytes: AtomicU64,
    /// XCR0 of the CPU: what threads have in registers.
    pub(crate) xstate: AtomicU64,
    /// What is added to clocks that count from the system's start, in their units.
    pub(crate) ticks_ms: AtomicI64,
    pub(crate) performance: AtomicI64,
    /// Time that the program spent in earlier processes, in 100 ns: in the kernel, and in its own code.
    pub(crate) spent: [AtomicU64; 2],
    pub(crate) functions: AtomicU32,
    /// The standard handles as the program knows them: input, output, errors.
    pub(crate) standard: [AtomicU64; 3],
    pub(crate) command_line_a: AtomicU64,
    pub(crate) command_line_w: AtomicU64,
    pub(crate) exception_filter: AtomicU64,
    pub(crate) ctrl_handlers: [AtomicU64; CTRL_HANDLERS_MAX],
    /// Bits: TLS slots that the program has.
    pub(crate) tls_slots: AtomicU64,
    pub(crate) fls_slots: AtomicU64,
    pub(crate) fls_callbacks: [AtomicU64; TLS_SLOTS],
    /// What was read for the program from its standard input and not yet taken.
    pub(crate) input_begin: AtomicU32,
    pub(crate) input_end: AtomicU32,
    /// 1: the input has ended.
    pub(crate) input_over: AtomicU32,
    /// 1: the program's heaps are the system's own.
    pub(crate) has_raw_heaps: AtomicU32,
    /// Where the system's process heap was when the program began.
    pub(crate) process_heap: AtomicU64,
    /// Where it was in this process and in all before, once each: the program may have kept its address in any of them.
    pub(crate) process_heaps: [AtomicU64; PROCESS_HEAPS_MAX],
    pub(crate) raw_heaps: [RawHeap; RAW_HEAPS_MAX],
    pub(crate) input: [AtomicU8; INPUT_BYTES],
    /// Whether a function was called.
    pub(crate) called: [AtomicU8; places::FUNCTIONS_MAX],
    pub(crate) private_modules: [Module; places::PRIVATE_MODULES_MAX],
    pub(crate) system_modules: [Module; places::SYSTEM_MODULES_MAX],
    /// Why the program cannot be carried any more, where that is so.
    pub(crate) blocker: Text,
    pub(crate) function_records: [Function; places::FUNCTIONS_MAX],
    pub(crate) objects: [Object; OBJECTS_MAX],
    pub(crate) threads: [Thread; THREADS_MAX],
}

/// The records. They must have been made.
pub(crate) fn state() -> &'static State {
    // SAFETY: `begin` and `restore` commit these pages before anything else of this library runs; zeroes are valid records.
    unsafe { &*(places::STATE as *const State) }
}

/// Whoever adds or removes records has it.
pub(crate) fn lock() -> MutexGuard<'static, ()> {
    static TABLES: Mutex<()> = Mutex::new(());
    TABLES.lock().unwrap_or_else(|broken| broken.into_inner())
}

/// Keeps the first reason why the program cannot be carried.
pub(crate) fn block(why: &str) {
    let _held = lock();
    if state().blocker.get().is_empty() {
        let text: Vec<u16> = why.encode_utf16().take(200).collect();
        state().blocker.set(&text);
    }
}

pub(crate) fn load(field: &AtomicU64) -> u64 {
    field.load(Ordering::Acquire)
}

pub(crate) fn store(field: &AtomicU64, value: u64) {
    field.store(value, Ordering::Release);
}
