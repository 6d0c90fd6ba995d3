//! The wrapper `handles`: the program holds virtual handles, and which real ones they stand for can be changed without its noticing.
//!
//! Virtual are those of regular files and folders, events, mutexes, semaphores and timers, unless a child is to inherit them. They are made where ntdll's
//! functions give a handle, and translated wherever these take one ([`rows`]): whatever library made the call, it went by there. Values that are no
//! virtual handle pass as they are. As the program keeps virtual handles, the wrapper cannot be taken off while there are any.

mod embedded;
mod rows;
mod table;

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use brant_mediator::Frame;
use brant_windows::{Code, Refused, Spec, VirtualHandle};
use windows_sys::Win32::Foundation::{CloseHandle, DUPLICATE_SAME_ACCESS, DuplicateHandle};
use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use crate::thread;
use embedded::Embedded;
use rows::{Kind, Row};

pub(crate) use table::real;

/// The name behind `brant:` in its definition.
pub(crate) const NAME: &str = "handles";

/// What the function of each `wrap` does with handles. Never freed, as calls may be under way.
static ROWS: AtomicPtr<Vec<Option<&'static Row>>> = AtomicPtr::new(std::ptr::null_mut());

/// The wrapper is about to be put on, with this definition.
pub(crate) fn begin(spec: &Spec) {
    let rows: Vec<Option<&'static Row>> =
        spec.functions.iter().map(|function| rows::find(&function.function)).collect();
    ROWS.store(Box::into_raw(Box::new(rows)), Ordering::Release);
}

/// Whether the wrapper can be taken off.
pub(crate) fn may_end() -> Result<(), Refused> {
    match table::all().len() {
        0 => Ok(()),
        count => Err(Refused::new(Code::Held, format!("the program holds {count} virtual handles"))
            .why("they would mean nothing to it any more")),
    }
}

/// The mediator before every function of ntdll that takes or gives such handles.
///
/// # Safety
///
/// The engine calls it, with a call of a function of the definition.
#[unsafe(no_mangle)]
#[allow(unreachable_pub)]
pub unsafe extern "C" fn handles_call(icall: *mut c_void) -> u64 {
    // SAFETY: promised by the caller. The function takes and gives integers and pointers.
    let call = unsafe { brant_mediator::Call::<extern "C" fn(), u64>::new(icall) };
    // SAFETY: never freed.
    let row = unsafe { ROWS.load(Ordering::Acquire).as_ref() }
        .and_then(|rows| rows.get(call.index()).copied().flatten());
    let Some(row) = row else { return call.inner() };
    // SAFETY: as above.
    let frame = unsafe { Frame::of(icall) };
    match row.kind {
        Kind::Closes => return close(&call, frame),
        Kind::Duplicates => return duplicate(&call, frame),
        _ => {}
    }
    let is_inherited = row.gives.is_some() && embedded::is_inherited(frame);
    let mut room = Embedded::new();
    row.takes.iter().for_each(|index| room.argument(frame, usize::from(*index)));
    room.translate(row, frame);
    let status = call.inner();
    drop(room);
    if let Some(index) = row.gives.filter(|_| is_success(status) && !is_inherited) {
        give(frame, usize::from(index), row.kind);
    }
    status
}

type Call = brant_mediator::Call<extern "C" fn(), u64>;

fn is_success(status: u64) -> bool {
    status as i32 >= 0
}

/// Puts a new virtual handle where the function has written a real one.
fn give(frame: &Frame, index: usize, kind: Kind) {
    let at = frame.arguments().get(index).copied().unwrap_or(0) as *mut u64;
    if at.is_null() {
        return;
    }
    // SAFETY: the function has just written a handle there.
    let real = unsafe { at.read_unaligned() };
    if kind == Kind::File && !is_regular(real) {
        return;
    }
    if let Some(handle) = table::add(real, kind) {
        // SAFETY: as above.
        unsafe { at.write_unaligned(handle) };
    }
}

/// A regular file or a folder. Sockets, pipes and consoles keep their handles: Windows has these in buffers of its own.
fn is_regular(real: u64) -> bool {
    let Some(_busy) = thread::busy() else { return false };
    let error = thread::last_error();
    // SAFETY: a handle that was just made.
    let kind = unsafe { GetFileType(real as *mut c_void) };
    thread::set_last_error(error);
    kind == FILE_TYPE_DISK
}

/// NtClose. Nobody else finds the virtual handle once its real one may mean something else.
fn close(call: &Call, frame: &Frame) -> u64 {
    let handle = frame.arguments().first().copied().unwrap_or(0);
    let Some((real, kind)) = table::take(handle) else { return call.inner() };
    frame.set_argument(0, real);
    let status = call.inner();
    if !is_success(status) {
        table::put_back(handle, real, kind);
    }
    status
}

/// NtDuplicateObject: source process, handle, target process, where the new one goes, access, attributes, options.
fn duplicate(call: &Call, frame: &Frame) -> u64 {
    const CURRENT: u64 = u64::MAX;
    const IS_INHERITED: u64 = 2;
    const CLOSE_SOURCE: u64 = 1;
    let argument = |index: usize| frame.arguments().get(index).copied().unwrap_or(0);
    let handle = argument(1);
    let is_own = argument(0) == CURRENT;
    let Some(kind) = table::kind(handle).filter(|_| is_own) else { return call.inner() };
    let is_closing = argument(6) & CLOSE_SOURCE != 0;
    let is_virtual = argument(2) == CURRENT && argument(5) & IS_INHERITED == 0;
    let known = if is_closing { table::take(handle) } else { None };
    frame.set_argument(1, known.map_or_else(|| real(handle), |(real, _)| real));
    let status = call.inner();
    if let Some((real, kind)) = known.filter(|_| !is_success(status)) {
        table::put_back(handle, real, kind);
    }
    if is_success(status) && is_virtual {
        give(frame, 3, kind);
    }
    status
}

/// The virtual handles, and the real ones that they stand for.
pub(crate) fn list() -> Vec<VirtualHandle> {
    let told = table::all().into_iter().map(|(handle, real, kind)| VirtualHandle {
        handle,
        real,
        kind: kind.name().to_owned(),
    });
    told.collect()
}

/// Real handles that virtual ones stood for, and that a call may still have.
static RETIRED: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// Lets every virtual handle stand for a new real one of the same object. The old ones are closed as soon as no call has them.
pub(crate) fn renew() -> Vec<VirtualHandle> {
    let mut retired = RETIRED.lock().unwrap_or_else(|broken| broken.into_inner());
    for (handle, real, kind) in table::all() {
        let mut new = std::ptr::null_mut();
        // SAFETY: a handle that the program holds, and room for the new one.
        let is_made = unsafe {
            let own = GetCurrentProcess();
            DuplicateHandle(own, real as *mut c_void, own, &raw mut new, 0, 0, DUPLICATE_SAME_ACCESS)
        };
        if is_made == 0 {
            continue;
        }
        // Where the program has closed it meanwhile, nobody has the new one.
        let is_changed = table::change(handle, real, new as u64, kind);
        retired.push((handle, if is_changed { real } else { new as u64 }));
    }
    retired.retain(|(handle, real)| {
        let is_used = table::is_used(*handle);
        if !is_used {
            // SAFETY: nothing stands for it any more, and no call has it.
            unsafe { CloseHandle(*real as *mut c_void) };
        }
        is_used
    });
    list()
}
