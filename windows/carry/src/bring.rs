//! Bringing a program back from its image, in a process that was started for it and has not begun.
//!
//! All is done before the process's first thread runs. Where anything fails, the process is ended by who started it: nothing of it has run.

use std::ffi::c_void;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;

use brant_image::model::{PageOwner, Windows};
use brant_image::{Image, ImageError, PageContent};
use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::{HANDLE, WAIT_OBJECT_0};
use windows_sys::Win32::Storage::FileSystem::{GetFileSizeEx, SetFilePointerEx};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RESERVE, PAGE_EXECUTE_READWRITE, PAGE_READWRITE, VirtualAlloc, VirtualProtect,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, CreateMutexW, CreateSemaphoreW, CreateThread, CreateWaitableTimerW, SetWaitableTimer,
    SuspendThread, TerminateThread, WaitForSingleObject,
};

use crate::calls::{clocks, console, files, heaps, libraries, process};
use crate::objects::{self, Kind};
use crate::places::{PRIVATE_MODULE_BYTES, PRIVATE_MODULES, PRIVATE_MODULES_MAX, STATE};
use crate::state::{self, Object, State, state, store};
use crate::thread::{Thread, threads};
use crate::{entry, freeze, gather, raw, registers, reserve, thunk};

/// How long a thread that is ended may take.
const END_LIMIT_MS: u32 = 60_000;

fn failed(what: impl Into<String>) -> Refused {
    Refused::new(Code::NotRestored, what)
}

/// Brings all of it back, up to the moment when the first thread is let go.
pub(crate) fn restore(path: &Path) -> Result<(), Refused> {
    let image = open(path)?;
    let windows =
        image.checkpoint().windows.clone().ok_or_else(|| failed("the image holds no Windows program"))?;
    check(&image, &windows)?;
    reserve::all()?;
    let heaps = heaps_in_place(&image, &windows)?;
    let natives = native_threads(windows.threads.len().min(state::THREADS_MAX))?;
    fill(&image, &windows)?;
    if state().bytes.load(Ordering::Acquire) != size_of::<State>() as u64 {
        return Err(failed("the image was made by another agent"));
    }
    heaps.iter().try_for_each(raw::Made::finish)?;
    clocks_go_on(&image);
    heaps::remember_process_heap();
    if !heaps::bring_space_back() || !thunk::make() {
        return Err(failed("there is no memory for thunks"));
    }
    thunk::bring_back().map_err(|name| failed(format!("this Windows has no {name}")))?;
    if !thunk::protect() {
        return Err(failed("thunks cannot be made code"));
    }
    libraries::private_modules().for_each(libraries::tell_unwinder);
    for object in objects::all() {
        bring_object(object)?;
    }
    let spare = assign(natives)?;
    process::bring_back();
    console::bring_back();
    entry::resume_at_entry();
    spare.into_iter().for_each(end);
    Ok(())
}

/// Where the program's heaps are the system's, these are made before anything else needs memory. What is known of them is in our records.
fn heaps_in_place(image: &Image, windows: &Windows) -> Result<Vec<raw::Made>, Refused> {
    if windows.heaps.is_empty() {
        return Ok(Vec::new());
    }
    let records = STATE..STATE + size_of::<State>();
    put_pages(image, |at| records.contains(&at))?;
    raw::make(windows)
}

fn open(path: &Path) -> Result<Image, Refused> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Refused::new(Code::NotAnImage, format!("the image {} cannot be read", path.display())).why(why)
    };
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let image = Image::open(file).map_err(|error: ImageError| unreadable(&error))?;
    image.verify().map_err(|error| unreadable(&error))?;
    Ok(image)
}

/// What must hold of this process before anything of it is changed.
fn check(image: &Image, windows: &Windows) -> Result<(), Refused> {
    if windows.state_version != state::VERSION || windows.state.0 != STATE as u64 {
        return Err(failed("the image was made by another version of brant's agent"));
    }
    let program = libraries::program();
    let own = windows.modules[0].range;
    if own.start().0 != program.base() as u64 || own.bytes() != program.bytes() as u64 {
        return Err(failed(format!("the program is at {:#x}, and was at {}", program.base(), own.start()))
            .why("Windows has moved it (ASLR): it must be linked so that it stays (/DYNAMICBASE:NO)"));
    }
    let (features, has_room) = registers::xstate();
    let lost = image.checkpoint().host.xstate_features & !features;
    if lost != 0 || !has_room {
        return Err(failed(format!(
            "this CPU lacks state components that the program's threads may use: {lost:#x}"
        )));
    }
    Ok(())
}

/// Native threads for so many of the program, and one that becomes none. The loader tells the executable of each new thread: of these it has been told, while its
/// memory is still its own.
fn native_threads(count: usize) -> Result<Vec<HANDLE>, Refused> {
    let natives = (0..=count).map(|_| native_thread()).collect::<Result<Vec<_>, _>>()?;
    if gather::wait_for_here(natives.len() as u32) {
        return Ok(natives);
    }
    Err(failed("a new thread does not begin"))
}

/// Ends a thread that becomes none of the program's: the mutexes that it has are abandoned then. By force, as the loader would tell the program's code of
/// a thread that this does not know.
fn end(native: HANDLE) {
    // SAFETY: a thread of ours that only sleeps, with no lock.
    unsafe { TerminateThread(native, 0) };
    // SAFETY: as above: it ends.
    unsafe { WaitForSingleObject(native, END_LIMIT_MS) };
    freeze::close(native);
}

/// A native thread that waits to be one of the program's.
fn native_thread() -> Result<HANDLE, Refused> {
    // Its record is not known yet; it is told when all is there.
    // SAFETY: our own function; what it reads is set before it goes on.
    let thread = unsafe {
        CreateThread(std::ptr::null(), 0, Some(entry::waiting), std::ptr::null(), 0, std::ptr::null_mut())
    };
    if thread.is_null() {
        return Err(failed("a thread could not be made"));
    }
    Ok(thread)
}

/// Commits all regions, writes all pages, and gives the regions their protection.
fn fill(image: &Image, windows: &Windows) -> Result<(), Refused> {
    let program = windows.modules[0].range;
    for index in 0..PRIVATE_MODULES_MAX {
        let base = PRIVATE_MODULES + index * PRIVATE_MODULE_BYTES;
        if !windows.regions.iter().any(|region| region.range.start().0 == base as u64) {
            continue;
        }
        // SAFETY: asks for pages at an address.
        let got =
            unsafe { VirtualAlloc(base as *const c_void, PRIVATE_MODULE_BYTES, MEM_RESERVE, PAGE_READWRITE) };
        if got as usize != base {
            return Err(failed(format!("something else is at {base:#x}")));
        }
    }
    for region in &windows.regions {
        let (at, bytes) = (region.range.start().0 as usize, region.range.bytes() as usize);
        let is_program = program.contains(region.range.start());
        let is_heap = windows.heaps.iter().any(|range| range.contains(region.range.start()));
        let mut old = 0;
        let is_ready = if is_program {
            // SAFETY: pages of the executable, whose code has not begun.
            unsafe { VirtualProtect(at as *const c_void, bytes, PAGE_EXECUTE_READWRITE, &raw mut old) != 0 }
        } else {
            // SAFETY: pages of our reservations; the system refuses others.
            !unsafe { VirtualAlloc(at as *const c_void, bytes, MEM_COMMIT, PAGE_READWRITE) }.is_null()
        };
        if !is_ready {
            let why = std::io::Error::last_os_error();
            return Err(failed(format!("the memory at {at:#x} is not to be had ({bytes} bytes)")).why(why));
        }
        if is_program || is_heap {
            // SAFETY: as above; what is not in the image is zero.
            unsafe { (at as *mut u8).write_bytes(0, bytes) };
        }
    }
    put_pages(image, |_| true)?;
    for region in &windows.regions {
        let (at, bytes) = (region.range.start().0 as usize, region.range.bytes() as usize);
        let mut old = 0;
        // What the loader has mapped is copied when it is written to, and says so.
        let protection = match region.protection {
            0x08 => PAGE_READWRITE,
            0x80 => PAGE_EXECUTE_READWRITE,
            protection => protection,
        };
        // SAFETY: as above.
        if unsafe { VirtualProtect(at as *const c_void, bytes, protection, &raw mut old) } == 0 {
            return Err(failed(format!("the memory at {at:#x} cannot be protected as it was")));
        }
    }
    Ok(())
}

/// Writes those of the image's pages that are wanted, by their addresses, to where they belong.
fn put_pages(image: &Image, is_wanted: impl Fn(usize) -> bool) -> Result<(), Refused> {
    image
        .visit_pages(PageOwner::Process(image.checkpoint().root), |run| {
            if let PageContent::Bytes(bytes) = run.content {
                let start = (run.first_page * brant_base::PAGE_SIZE) as usize;
                for (index, page) in bytes.chunks(brant_base::PAGE_SIZE as usize).enumerate() {
                    let at = start + index * brant_base::PAGE_SIZE as usize;
                    if is_wanted(at) {
                        // SAFETY: the image's pages lie in its regions, which are writable when they are wanted.
                        unsafe { std::ptr::copy_nonoverlapping(page.as_ptr(), at as *mut u8, page.len()) };
                    }
                }
            }
            Ok::<(), ImageError>(())
        })
        .map_err(|error| failed("the image cannot be read").why(error))
}

fn clocks_go_on(image: &Image) {
    let before = image.checkpoint().clocks;
    state().ticks_ms.store(0, Ordering::Release);
    state().performance.store(0, Ordering::Release);
    let ticks_ms = before.monotonic_ns / 1_000_000 - clocks::GetTickCount64() as i64;
    let counter = before.boottime_ns.saturating_sub(clocks::counter());
    state().ticks_ms.store(ticks_ms, Ordering::Release);
    state().performance.store(counter, Ordering::Release);
}

fn bring_object(object: &Object) -> Result<(), Refused> {
    let earlier = objects::same(object).take_while(|other| other.index() < object.index()).next();
    if let Some(earlier) = earlier {
        store(&object.real, freeze::duplicate(earlier.real()) as u64);
        return Ok(());
    }
    let none = std::ptr::null();
    let manual = object.number(0) as i32;
    // SAFETY: calls without names, and with room for what is asked.
    let real = unsafe {
        match object.kind() {
            Some(Kind::File) => file(object)?,
            Some(Kind::Event) => CreateEventW(none, manual, object.number(1) as i32, std::ptr::null()),
            Some(Kind::Mutex) => CreateMutexW(none, 0, std::ptr::null()),
            Some(Kind::Semaphore) => {
                CreateSemaphoreW(none, object.number(0) as i32, object.number(1) as i32, std::ptr::null())
            }
            Some(Kind::Timer) => timer(object, CreateWaitableTimerW(none, manual, std::ptr::null())),
            // One that is there gets its handle with its native thread; one that has ended stays so.
            Some(Kind::Thread) if object.number(0) == 0 => CreateEventW(none, 1, 1, std::ptr::null()),
            Some(Kind::Thread) => return Ok(()),
            Some(Kind::Standard) => files::native_handle(object.number(0) as usize),
            Some(Kind::Console) => files::open_again(object).unwrap_or_default(),
            _ => std::ptr::null_mut(),
        }
    };
    if real.is_null() {
        return Err(failed(format!(
            "handle {:#x} ({}) cannot be made again",
            object.handle(),
            object.text.string()
        )));
    }
    store(&object.real, real as u64);
    Ok(())
}

fn file(object: &Object) -> Result<HANDLE, Refused> {
    let name = object.text.string();
    let real = files::open_again(object).map_err(|error| {
        Refused::new(Code::NotRestored, format!("the file {name} cannot be opened as it was"))
            .why(std::io::Error::from_raw_os_error(error as i32))
    })?;
    let (mut bytes, at) = (0, object.number(3) as i64);
    // SAFETY: an open file, and room for the answer.
    let is_known = unsafe { GetFileSizeEx(real, &raw mut bytes) } != 0;
    if is_known && bytes < at {
        return Err(failed(format!("the file {name} is shorter than the program knows it"))
            .why(format!("it was at {at}, and the file has {bytes} bytes")));
    }
    // SAFETY: as above.
    unsafe { SetFilePointerEx(real, at, std::ptr::null_mut(), 0) };
    Ok(real)
}

fn timer(object: &Object, real: HANDLE) -> HANDLE {
    let (due_ms, period_ms, was_set) = (object.number(1), object.number(2) as i32, object.number(3) == 1);
    if due_ms == 0 || real.is_null() {
        return real;
    }
    let remaining_ms = due_ms as i64 - clocks::GetTickCount64() as i64;
    // One that has rung stays so; one with a period rings on, when it would have.
    let next_ms = match period_ms {
        0 if remaining_ms <= 0 && !was_set => return real,
        1.. if remaining_ms <= 0 => i64::from(period_ms) - (-remaining_ms % i64::from(period_ms)),
        _ => remaining_ms.max(1),
    };
    let due = if was_set { 0 } else { -next_ms * 10_000 };
    // SAFETY: the timer was just made.
    unsafe { SetWaitableTimer(real, &raw const due, period_ms, None, std::ptr::null(), 0) };
    real
}

/// Gives each thread of the program a native one, which then takes what was its own. The first thread of the process is the one that was the first, if it is there.
/// What is left.
fn assign(mut natives: Vec<HANDLE>) -> Result<Vec<HANDLE>, Refused> {
    let mut count = 0;
    for thread in threads() {
        thread.parked.store(0, Ordering::Release);
        thread.inside.store(crate::thread::IN_BETWEEN, Ordering::Release);
        store(&thread.real, 0);
        if thread.is_main.load(Ordering::Acquire) == 1 {
            entry::set_main(thread);
            continue;
        }
        let Some(native) = natives.pop() else { continue };
        store(&thread.real, native as u64);
        entry::give(native, thread);
        let own = |object: &&Object| {
            object.kind() == Some(Kind::Thread) && object.number(0) == thread.index() as u64 + 1
        };
        objects::all().filter(own).for_each(|object| store(&object.real, freeze::duplicate(native) as u64));
        // Before any other one may resume it.
        let suspended = thread.suspended.load(Ordering::Acquire);
        for _ in 0..suspended {
            // SAFETY: the thread's handle; it waits in our own code.
            unsafe { SuspendThread(native) };
        }
        count += u32::from(suspended == 0);
    }
    if gather::assign(count + natives.len() as u32) {
        return Ok(natives);
    }
    Err(failed("not all threads of the program come back"))
}

/// Gives the calling thread the mutexes that threads had which have ended.
pub(crate) fn take_abandoned() {
    for object in objects::all()
        .filter(|object| object.kind() == Some(Kind::Mutex) && object.number(0) == objects::ABANDONED)
    {
        // SAFETY: a mutex that was just made; one of another handle of it was there before.
        unsafe { WaitForSingleObject(object.real(), 0) };
    }
}

/// Gives the calling thread the mutexes that it had.
pub(crate) fn own_mutexes(thread: &Thread) {
    let index = thread.index() as u64 + 1;
    for object in
        objects::all().filter(|object| object.kind() == Some(Kind::Mutex) && object.number(0) == index)
    {
        if objects::same(object).next().is_some_and(|first| first.index() != object.index()) {
            continue;
        }
        for _ in 0..object.number(1) {
            // SAFETY: a mutex that was just made, and that nobody else has had.
            let end = unsafe { WaitForSingleObject(object.real(), 0) };
            debug_assert_eq!(end, WAIT_OBJECT_0);
        }
    }
    // The objects of the first thread have no handle until it runs.
    if thread.is_main.load(Ordering::Acquire) == 1 {
        let own = |object: &&Object| object.kind() == Some(Kind::Thread) && object.number(0) == index;
        objects::all().filter(own).for_each(|object| store(&object.real, freeze::own_handle() as u64));
    }
}
