//! `trace`: calls with arguments and results.
//!
//! One mediator serves all functions. It must leave every result as it is, whatever registers that is in, and let exceptions
//! and cancellation pass: so its frame is written by hand, and the Rust code around the inner call only looks on.

use core::arch::{global_asm, naked_asm};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use brant_mediator::{Call, Frame, Function};

use super::files::put_errno;
use super::journal;
use super::line::Line;
use super::system::{self, Once};
use crate::options::{self, STRINGS_MAX, STRINGS_UNSAID};

static FUNCTIONS: Once<&'static [Function]> = Once::new();
static IS_JSON: AtomicBool = AtomicBool::new(false);
static STRING_BYTES: AtomicUsize = AtomicUsize::new(STRINGS_UNSAID);

pub(super) fn prepare(options: &str, functions: &'static [Function]) -> Result<(), &'static str> {
    if functions.iter().any(|function| function.kinds().contains(&b'?')) {
        return Err(
            "trace cannot show structs by value, long double and complex numbers: leave such functions out",
        );
    }
    IS_JSON.store(options::value(options, "json").is_some(), Ordering::Relaxed);
    if let Some(bytes) = options::value(options, "strings") {
        let bytes: usize = bytes.parse().map_err(|_| "\"strings\" is no number")?;
        STRING_BYTES.store(bytes.min(STRINGS_MAX), Ordering::Relaxed);
    }
    FUNCTIONS.set(functions);
    Ok(())
}

/// A call that is being traced: what is known before it.
#[repr(C)]
struct Note {
    wall_ns: u64,
    begin_ns: u64,
    errno: u32,
    line: MaybeUninit<Line>,
}

const NOTE_BYTES: usize = size_of::<Note>().next_multiple_of(16);

// The results, from the stack pointer on: rax, rdx, xmm0, xmm1. Behind them the note.
global_asm!(
    ".macro BRANT_TRACE name, is_last",
    ".p2align 4",
    ".hidden \\name",
    ".type \\name, @function",
    "\\name:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rbx",
    ".cfi_offset rbx, -24",
    "sub rsp, {room}",
    "mov rbx, rdi",
    "lea rsi, [rsp + 48]",
    "mov edx, \\is_last",
    "call {before}",
    "mov rdi, rbx",
    "mov rax, [rbx]",
    "call [rax + 32]",
    "mov [rsp], rax",
    "mov [rsp + 8], rdx",
    "movaps [rsp + 16], xmm0",
    "movaps [rsp + 32], xmm1",
    "mov rdi, rbx",
    "lea rsi, [rsp + 48]",
    "mov rdx, rsp",
    "call {after}",
    "mov rax, [rsp]",
    "mov rdx, [rsp + 8]",
    "movaps xmm0, [rsp + 16]",
    "movaps xmm1, [rsp + 32]",
    "mov rbx, [rbp - 8]",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    ".size \\name, . - \\name",
    ".endm",
    "BRANT_TRACE brant_trace_call, 0",
    "BRANT_TRACE brant_trace_last, 1",
    room = const 48 + NOTE_BYTES + 8,
    before = sym before,
    after = sym after,
);

/// Before any function.
///
/// # Safety
///
/// The runtime calls it.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(super) unsafe extern "C" fn trace_call(_icall: *mut c_void) {
    naked_asm!("jmp brant_trace_call")
}

/// Before a function that may not return: what is known of the call is written before it.
///
/// # Safety
///
/// The runtime calls it.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(super) unsafe extern "C" fn trace_last(_icall: *mut c_void) {
    naked_asm!("jmp brant_trace_last")
}

fn function_of(icall: *mut c_void) -> Option<&'static Function> {
    // SAFETY: the runtime gave it to a mediator; neither function is called.
    let call = unsafe { Call::<extern "C" fn(), ()>::new(icall) };
    FUNCTIONS.get()?.get(call.index())
}

extern "C" fn before(icall: *mut c_void, note: *mut Note, is_last: u32) {
    let Some(function) = function_of(icall) else { return };
    // SAFETY: the mediator's frame has room for it, and any bytes are valid in it.
    let (note, frame) = unsafe { (&mut *note, Frame::of(icall)) };
    note.errno = system::errno();
    note.wall_ns = system::wall_ns();
    let line = Line::begin(&mut note.line);
    put_begin(line, note.wall_ns, function, frame);
    if is_last != 0 {
        let is_json = IS_JSON.load(Ordering::Relaxed);
        let begin = line.bytes().len();
        line.put(if is_json { b"}\n" } else { b" = ?\n" });
        journal::record_at_once(line, note.wall_ns);
        line.shorten(begin);
    }
    note.begin_ns = system::monotonic_ns();
}

extern "C" fn after(icall: *mut c_void, note: *mut Note, results: *const Results) {
    let end_ns = system::monotonic_ns();
    let Some(function) = function_of(icall) else { return };
    // SAFETY: `before` has filled the note, its line too; the mediator's frame has the results.
    let (note, results) = unsafe { (&mut *note, &*results) };
    // SAFETY: as above.
    let line = unsafe { note.line.assume_init_mut() };
    let errno = system::errno();
    let outcome = match failed_in_kernel(function, results.rax) {
        Some(error) => Outcome { value: u64::MAX, error: Some(error) },
        None => outcome_of(function, results, errno, errno != note.errno),
    };
    put_end(line, function.kinds(), &outcome, end_ns.saturating_sub(note.begin_ns));
    journal::record(line, note.wall_ns);
}

#[repr(C)]
struct Results {
    rax: u64,
    rdx: u64,
    xmm0: [u64; 2],
    xmm1: [u64; 2],
}

/// Time, thread, function and arguments.
fn put_begin(line: &mut Line, now: u64, function: &Function, frame: &Frame) {
    let is_json = IS_JSON.load(Ordering::Relaxed);
    if is_json {
        line.put(b"{\"time\":");
        line.seconds(now);
        line.put(b",\"tid\":");
        line.unsigned(system::thread().into());
        line.put(b",\"function\":");
        line.quoted(function.name(), true);
        line.put(b",\"arguments\":[");
    } else {
        line.seconds(now);
        line.put(b" ");
        line.unsigned(system::thread().into());
        line.put(b" ");
        line.put(function.name());
        line.put(b"(");
    }
    let is_whole = put_arguments(line, function.kinds(), frame, is_json);
    if is_json {
        line.put(if is_whole { b"]" } else { b"],\"more\":true" });
    } else {
        line.put(if is_whole { b")" } else { b", ...)" });
    }
}

/// Tells whether these are all of them.
fn put_arguments(line: &mut Line, kinds: &[u8], frame: &Frame, is_json: bool) -> bool {
    let Some((_, parameters)) = kinds.split_first() else { return false };
    let (mut integers, mut vectors, mut stack) = (0, 0, 0);
    for (place, kind) in parameters.iter().enumerate() {
        if *kind == b'.' || !line.has_room(4 * STRINGS_MAX / 2) {
            return false;
        }
        let is_vector = matches!(kind, b'f' | b'd');
        let registers = if is_vector { &mut vectors } else { &mut integers };
        let value = if is_vector && *registers < 8 {
            frame.vectors[*registers][0]
        } else if !is_vector && *registers < 6 {
            frame.integers[*registers]
        } else {
            stack += 1;
            // SAFETY: the signature says that the caller has passed so many.
            unsafe { frame.stack(stack - 1) }
        };
        *registers += 1;
        if place > 0 {
            line.put(if is_json { b"," } else { b", " });
        }
        put_value(line, *kind, value, is_json);
    }
    true
}

fn put_value(line: &mut Line, kind: u8, value: u64, is_json: bool) {
    match kind {
        b'c' => line.signed((value as i8).into()),
        b'h' => line.signed((value as i16).into()),
        b'i' => line.signed((value as i32).into()),
        b'l' => line.signed(value as i64),
        b'C' => line.unsigned((value as u8).into()),
        b'H' => line.unsigned((value as u16).into()),
        b'I' => line.unsigned((value as u32).into()),
        b'L' => line.unsigned(value),
        b'f' => line.float(f32::from_bits(value as u32).into(), is_json),
        b'd' => line.float(f64::from_bits(value), is_json),
        b's' => put_text(line, value, is_json),
        _ => put_pointer(line, value, is_json),
    }
}

fn put_pointer(line: &mut Line, value: u64, is_json: bool) {
    match (value, is_json) {
        (0, true) => line.put(b"null"),
        (0, false) => line.put(b"NULL"),
        (_, true) => {
            line.put(b"\"");
            line.hex(value);
            line.put(b"\"");
        }
        (_, false) => line.hex(value),
    }
}

fn put_text(line: &mut Line, value: u64, is_json: bool) {
    let mut room = [0; STRINGS_MAX + 1];
    let bytes = STRING_BYTES.load(Ordering::Relaxed);
    if value == 0 || bytes == 0 {
        return put_pointer(line, value, is_json);
    }
    match system::read_text(value as *const _, &mut room[..=bytes]) {
        Some((text, is_whole)) => {
            // Octal takes four times the room.
            let fits =
                if line.has_room(4 * text.len()) { text.len().min(bytes) } else { text.len().min(bytes / 8) };
            line.quoted(&text[..fits], is_json);
            if (!is_whole || fits < text.len()) && !is_json {
                line.put(b"...");
            }
        }
        None => put_pointer(line, value, is_json),
    }
}

/// What a call gave.
struct Outcome {
    value: u64,
    error: Option<u32>,
}

/// A system call's error is its result itself.
fn failed_in_kernel(function: &Function, result: u64) -> Option<u32> {
    const ERROR_MAX: u64 = 4095;
    let error = result.wrapping_neg();
    (function.library() == b"kernel" && (1..=ERROR_MAX).contains(&error)).then_some(error as u32)
}

fn outcome_of(function: &Function, results: &Results, errno: u32, is_new: bool) -> Outcome {
    let kind = function.kinds().first().copied().unwrap_or(b'l');
    let value = if matches!(kind, b'f' | b'd') { results.xmm0[0] } else { results.rax };
    let has_failed = match kind {
        _ if function.library() == b"kernel" => false,
        b'i' => results.rax as i32 == -1,
        b'l' => results.rax as i64 == -1,
        b's' | b'S' | b'p' => results.rax == 0 && is_new,
        _ => false,
    };
    Outcome { value, error: (has_failed && errno != 0).then_some(errno) }
}

/// The result, the error where it is one, and how long it took.
fn put_end(line: &mut Line, kinds: &[u8], outcome: &Outcome, took_ns: u64) {
    let is_json = IS_JSON.load(Ordering::Relaxed);
    let kind = kinds.first().copied().unwrap_or(b'l');
    if kind != b'v' {
        line.put(if is_json { b",\"result\":" } else { b" = " });
        // What a function gives is a text where it says so, const or not.
        let shown = match kind {
            b'S' => b's',
            // One that gives an address says by -1 that it has failed, if it is a system call.
            b'p' if outcome.error.is_some() && outcome.value == u64::MAX => b'l',
            kind => kind,
        };
        put_value(line, shown, outcome.value, is_json);
        if let Some(error) = outcome.error {
            line.put(if is_json { b",\"errno\":\"" } else { b" " });
            put_errno(line, error);
            line.put(if is_json { b"\"" } else { b"" });
        }
    }
    if is_json {
        line.put(b",\"ns\":");
        line.unsigned(took_ns);
        line.put(b"}\n");
    } else {
        line.put(b" <");
        line.seconds(took_ns);
        line.put(b">\n");
    }
}
