//! Writing an image of the program, by a thread of ours in it. Whoever asked may end meanwhile: the image is whole under its name or not there,
//! and the program goes on.

use std::ffi::c_void;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::Ordering;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};
use brant_image::model::{
    Checkpoint, Clocks, Host, PageOwner, Windows, WindowsHandle, WindowsModule, WindowsRegion, WindowsThread,
};
use brant_image::{Codec, ImageError, Writer};
use brant_windows::{Code, Refused};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEMORY_BASIC_INFORMATION, PAGE_GUARD, PAGE_NOACCESS, PAGE_READWRITE, VirtualProtect,
    VirtualQuery,
};

use crate::calls::{clocks, environment, input, libraries, process};
use crate::freeze::{self, Frozen};
use crate::objects::{self, Kind};
use crate::pe::Module;
use crate::places::{PRIVATE_MODULE_BYTES, PRIVATE_MODULES, PRIVATE_MODULES_MAX, SPACE, SPACE_BYTES, STATE};
use crate::scan::Scan;
use crate::state::{self, State, load, state, store};
use crate::thread::{IN_BETWEEN, threads};
use crate::{raw, registers, thunk};

/// What the program has that cannot be carried; all of it.
pub(crate) fn refusals() -> Vec<String> {
    let mut found = Vec::new();
    let blocker = state().blocker.string();
    if !blocker.is_empty() {
        found.push(blocker);
    }
    let unknown = thunk::unknown_called();
    found.extend(unknown.iter().map(|(dll, name)| {
        format!("it has called {name} of {dll}, of which brant does not know what it leaves behind")
    }));
    for object in objects::all().filter(|object| object.kind() == Some(Kind::Other)) {
        found.push(format!("handle {:#x} is {}", object.handle(), object.text.string()));
    }
    found
}

fn refused(found: Vec<String>) -> Result<(), Refused> {
    if found.is_empty() {
        return Ok(());
    }
    Err(Refused::new(Code::NotCarried, "the program cannot be carried")
        .why(found.join("\n"))
        .next("the program goes on; brant.exe explain B-1330"))
}

/// Writes the image and lets the program go on, or ends it once the image is safe.
pub(crate) fn checkpoint(path: &Path, stop: bool) -> Result<u64, Refused> {
    refused(refusals())?;
    let frozen = freeze::freeze()?;
    refused(refusals())?;
    let mut bytes = write(path, &frozen)?;
    if stop {
        // What was read from the standard input meanwhile would be lost.
        while !input::hold() {
            bytes = write(path, &frozen)?;
        }
        end_now();
    }
    drop(frozen);
    Ok(bytes)
}

/// What a program ends with that was stopped by `checkpoint --stop`.
const STOPPED_CODE: u32 = 137;

fn end_now() {
    // SAFETY: a call without arguments.
    let own = unsafe { windows_sys::Win32::System::Threading::GetCurrentProcess() };
    // SAFETY: the end of this process, which its user has asked for.
    unsafe { windows_sys::Win32::System::Threading::TerminateProcess(own, STOPPED_CODE) };
}

fn write(path: &Path, _frozen: &Frozen) -> Result<u64, Refused> {
    input::deliver();
    threads().for_each(registers::settle);
    settle_objects()?;
    raw::settle()?;
    store(&state().xstate, registers::xstate().0);
    // The image has what was spent until now; here it goes on as it was.
    let before = [0, 1].map(|which| load(&state().spent[which]));
    let spent = process::spent();
    set_spent(spent);
    let result = write_settled(path);
    set_spent(before);
    result
}

fn set_spent(spent: [u64; 2]) {
    spent.into_iter().zip(&state().spent).for_each(|(value, field)| store(field, value));
}

fn write_settled(path: &Path) -> Result<u64, Refused> {
    let checkpoint = describe()?;
    let partial = path.with_extension("partial");
    let failed = |what: &'static str| {
        let path = path.display().to_string();
        move |error: &dyn std::fmt::Display| {
            Refused::new(Code::NotWritten, format!("the image {path} was not written: {what}")).why(error)
        }
    };
    let result = write_file(&partial, &checkpoint).map_err(|error| match &error {
        WriteError::Address { .. } => Refused::new(Code::NotCarried, "the program cannot be carried")
            .why(&error)
            .next("the program goes on; brant.exe explain B-1330"),
        _ => failed("writing")(&error),
    });
    let bytes = match result.and_then(|bytes| {
        std::fs::rename(&partial, path).map_err(|error| failed("naming")(&error))?;
        Ok(bytes)
    }) {
        Ok(bytes) => bytes,
        Err(refused) => {
            let _ = std::fs::remove_file(&partial);
            return Err(refused);
        }
    };
    Ok(bytes)
}

/// What went wrong while pages were written.
#[derive(Debug)]
enum WriteError {
    Image(ImageError),
    File(std::io::Error),
    Address { at: usize, word: usize, library: String },
}

impl From<ImageError> for WriteError {
    fn from(error: ImageError) -> WriteError {
        WriteError::Image(error)
    }
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WriteError::Image(error) => error.fmt(f),
            WriteError::File(error) => error.fmt(f),
            WriteError::Address { at, word, library } => {
                write!(
                    f,
                    "the program has an address of {library}, {word:#x}, at {at:#x}: it would lead elsewhere"
                )
            }
        }
    }
}

fn write_file(path: &Path, checkpoint: &Checkpoint) -> Result<u64, WriteError> {
    let file = File::create(path).map_err(WriteError::File)?;
    let mut writer = Writer::create(BufWriter::with_capacity(1 << 20, file), checkpoint, Codec::Auto)?;
    let owner = PageOwner::Process(checkpoint.root);
    let scan = Scan::new();
    let regions = checkpoint.windows.iter().flat_map(|windows| &windows.regions);
    for region in regions {
        let (start, end) = (region.range.start().0 as usize, region.range.end().0 as usize);
        with_access(region, || {
            for at in (start..end).step_by(PAGE_SIZE as usize) {
                // SAFETY: the page is committed and can be read, and the program stands still.
                let page = unsafe { std::slice::from_raw_parts(at as *const u8, PAGE_SIZE as usize) };
                if brant_image::is_zero_page(page) {
                    continue;
                }
                let live = live_from(at);
                if live == PAGE_SIZE as usize {
                    continue;
                }
                if is_written(region)
                    && !is_state(at)
                    && let Some((at, word, library)) = scan.find(at + live, &page[live..])
                {
                    return Err(WriteError::Address { at, word, library });
                }
                writer.pages(owner, at as u64 / PAGE_SIZE, page)?;
            }
            Ok(())
        })?;
    }
    let (sink, summary) = writer.finish()?;
    let file = sink.into_inner().map_err(|error| WriteError::File(error.into_error()))?;
    (&file).flush().and_then(|()| file.sync_all()).map_err(WriteError::File)?;
    Ok(summary.bytes)
}

/// Constants and code come from files, and have what looks like addresses.
fn is_written(region: &WindowsRegion) -> bool {
    /// PAGE_READWRITE, PAGE_WRITECOPY, and the same with execution.
    const WRITTEN: u32 = 0x04 | 0x08 | 0x40 | 0x80;
    region.protection & WRITTEN != 0
}

/// Our own records have handles of this process in them, which a restore replaces.
fn is_state(at: usize) -> bool {
    (STATE..STATE + size_of::<State>()).contains(&at)
}

/// Where the memory of a page begins that the program still uses: what lies below a stack pointer is none.
fn live_from(at: usize) -> usize {
    let of_stack = threads().find(|thread| {
        (load(&thread.own_limit)..load(&thread.own_base)).contains(&(at as u64))
            && !freeze::is_not_begun(thread)
    });
    // SAFETY: the thread is parked.
    let rsp = of_stack.map_or(0, |thread| unsafe { (*thread.at()).registers.rsp as usize });
    rsp.saturating_sub(at).min(PAGE_SIZE as usize) & !7
}

/// Makes pages readable while they are copied.
fn with_access<T>(region: &WindowsRegion, copy: impl FnOnce() -> T) -> T {
    let is_closed = region.protection & (PAGE_NOACCESS | PAGE_GUARD) != 0 || region.protection == 0x10;
    let at = region.range.start().0 as *const c_void;
    let mut old = 0;
    if is_closed {
        // SAFETY: the program's pages, which stand still; they are closed again below.
        unsafe { VirtualProtect(at, region.range.bytes() as usize, PAGE_READWRITE, &raw mut old) };
    }
    let result = copy();
    if is_closed {
        // SAFETY: as above.
        unsafe { VirtualProtect(at, region.range.bytes() as usize, region.protection, &raw mut old) };
    }
    result
}

/// Committed pages of a range, those with the same protection together.
fn regions(start: usize, end: usize, into: &mut Vec<WindowsRegion>) {
    let mut at = start;
    while at < end {
        let mut found = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: there is room for the record.
        let bytes = unsafe { VirtualQuery(at as *const c_void, &raw mut found, size_of_val(&found)) };
        if bytes == 0 {
            return;
        }
        let next = (found.BaseAddress as usize + found.RegionSize).min(end);
        if found.State == MEM_COMMIT
            && let Ok(range) = PageRange::new(at as u64, next as u64)
        {
            into.push(WindowsRegion { range, protection: found.Protect });
        }
        at = next;
    }
}

fn describe() -> Result<Checkpoint, Refused> {
    let program = Module::at(load(&state().program_base) as usize);
    let mut all = Vec::new();
    regions(program.base(), program.base() + program.bytes(), &mut all);
    for index in 0..PRIVATE_MODULES_MAX {
        let base = PRIVATE_MODULES + index * PRIVATE_MODULE_BYTES;
        regions(base, base + load(&state().private_modules[index].bytes) as usize, &mut all);
    }
    regions(STATE, STATE + size_of::<State>().next_multiple_of(4096), &mut all);
    regions(SPACE, SPACE + SPACE_BYTES, &mut all);
    let heaps = raw::ranges();
    heaps.iter().for_each(|range| regions(range.start, range.end, &mut all));
    let heaps = heaps.iter().filter_map(|range| PageRange::new(range.start as u64, range.end as u64).ok());
    all.sort_by_key(|region| region.range.start());
    let environment = environment::environment();
    let texts = environment.split(|&unit| unit == 0).filter(|text| !text.is_empty());
    let program_path = libraries::program_path();
    let directory = std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default();
    let windows = Windows {
        pid: state().process.load(Ordering::Acquire),
        release: libraries::release(),
        program: unicode("the program's path", &program_path)?,
        command_line: unicode("its command line", &environment::command_line())?,
        directory,
        environment: texts.map(|text| unicode("its environment", text)).collect::<Result<_, _>>()?,
        state_version: state::VERSION,
        state: Addr(STATE as u64),
        modules: vec![module(program, &program_path)?],
        regions: all,
        heaps: heaps.collect(),
        threads: threads().map(thread_line).collect(),
        handles: objects::all().map(handle_line).collect(),
    };
    Ok(Checkpoint {
        host: Host {
            name: std::env::var("COMPUTERNAME").unwrap_or_default(),
            kernel_release: windows.release.clone(),
            machine: "x86_64".into(),
            xstate_features: load(&state().xstate),
            ..Host::default()
        },
        clocks: Clocks {
            realtime_ns: 0,
            monotonic_ns: (clocks::GetTickCount64() as i64).saturating_mul(1_000_000),
            boottime_ns: clocks::counter(),
        },
        command: vec![windows.command_line.clone().into_bytes()],
        root: Pid(windows.pid as i32),
        windows: Some(windows),
        ..Checkpoint::default()
    })
}

fn unicode(what: &str, text: &[u16]) -> Result<String, Refused> {
    String::from_utf16(text).map_err(|_| Refused::new(Code::NotCarried, format!("{what} is no Unicode")))
}

fn module(module: Module, path: &[u16]) -> Result<WindowsModule, Refused> {
    let path = unicode("the program's path", path)?;
    let unread = |why: String| Refused::new(Code::NotCarried, format!("{path} cannot be read")).why(why);
    let bytes = std::fs::read(&path).map_err(|error| unread(error.to_string()))?;
    let range = PageRange::new(module.base() as u64, (module.base() + module.bytes()) as u64);
    let range = range.map_err(|error| unread(error.to_string()))?;
    Ok(WindowsModule { range, digest: *blake3::hash(&bytes).as_bytes(), path })
}

fn thread_line(thread: &crate::thread::Thread) -> WindowsThread {
    let function = match thread.inside.load(Ordering::Acquire) {
        0 | IN_BETWEEN => String::new(),
        inside => thunk::name_of(inside as usize - 1).1,
    };
    WindowsThread { number: thread.number.load(Ordering::Acquire), function }
}

mod native {
    use windows_sys::Win32::Foundation::HANDLE;
    #[link(name = "ntdll", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn NtQueryEvent(
            handle: HANDLE,
            class: u32,
            into: *mut u32,
            bytes: u32,
            length: *mut u32,
        ) -> i32;
        pub(super) fn NtQuerySemaphore(
            handle: HANDLE,
            class: u32,
            into: *mut u32,
            bytes: u32,
            length: *mut u32,
        ) -> i32;
        pub(super) fn NtQueryTimer(
            handle: HANDLE,
            class: u32,
            into: *mut u32,
            bytes: u32,
            length: *mut u32,
        ) -> i32;
    }
}

/// Writes the state of each object into its record.
fn settle_objects() -> Result<(), Refused> {
    for object in objects::all() {
        let Some(kind) = object.kind() else { continue };
        let real = object.real();
        let mut words = [0_u32; 4];
        let into = words.as_mut_ptr();
        // SAFETY: open handles, and room for the records that the system gives: two words, for timers four.
        let status = unsafe {
            match kind {
                Kind::Event => native::NtQueryEvent(real, 0, into, 8, std::ptr::null_mut()),
                Kind::Semaphore => native::NtQuerySemaphore(real, 0, into, 8, std::ptr::null_mut()),
                Kind::Timer => native::NtQueryTimer(real, 0, into, 16, std::ptr::null_mut()),
                Kind::File => i32::from(!position(real, object)),
                _ => continue,
            }
        };
        if status != 0 {
            let what = handle_line(object);
            return Err(Refused::new(
                Code::NotCarried,
                format!("the state of {} is not to be had", what.what),
            ));
        }
        match kind {
            Kind::Event => object.set_number(1, u64::from(words[1])),
            Kind::Semaphore => object.set_number(0, u64::from(words[0])),
            Kind::Timer => object.set_number(3, u64::from(words[2] & 0xff)),
            _ => {}
        }
    }
    Ok(())
}

fn position(real: windows_sys::Win32::Foundation::HANDLE, object: &state::Object) -> bool {
    let mut at = 0;
    const FROM_CURRENT: u32 = 1;
    // SAFETY: an open file, and room for the answer.
    let is_known = unsafe {
        windows_sys::Win32::Storage::FileSystem::SetFilePointerEx(real, 0, &raw mut at, FROM_CURRENT)
    };
    object.set_number(3, at as u64);
    is_known != 0
}

fn handle_line(object: &state::Object) -> WindowsHandle {
    let yes = |number: u64, yes: &'static str, no: &'static str| if number != 0 { yes } else { no };
    let name = object.text.string();
    let what = match object.kind() {
        Some(Kind::File) => {
            let access = crate::calls::files::access_text(object.number(0) as u32);
            format!("file {name} at {}, {access}", object.number(3))
        }
        Some(Kind::Event) => format!(
            "event, {}, {}",
            yes(object.number(0), "manual", "automatic"),
            yes(object.number(1), "set", "not set")
        ),
        Some(Kind::Mutex) if object.number(0) == objects::ABANDONED => "mutex, abandoned".to_owned(),
        Some(Kind::Mutex) => format!("mutex, {}", yes(object.number(0), "owned", "free")),
        Some(Kind::Semaphore) => format!("semaphore, {} of {}", object.number(0), object.number(1)),
        Some(Kind::Timer) => format!("timer, {}", yes(object.number(1), "running", "not set")),
        Some(Kind::Thread) => match object.number(0) {
            0 => format!("thread, ended with {}", object.number(1) as u32),
            _ => "thread".to_owned(),
        },
        Some(Kind::Standard) => ["standard input", "standard output", "standard error"]
            [(object.number(0) as usize).min(2)]
        .to_owned(),
        Some(Kind::Console) => format!("console {name}"),
        _ => name,
    };
    WindowsHandle { value: object.handle(), what }
}
