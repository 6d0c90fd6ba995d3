//! Libraries. Those of the system have handles that lead to no address, and their functions are thunks; a C library is loaded once more, for the
//! program alone and where it is in every process, as its state is the program's.

use std::ffi::c_void;

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_HANDLE, ERROR_MOD_NOT_FOUND, ERROR_PROC_NOT_FOUND, HMODULE,
};
use windows_sys::Win32::System::LibraryLoader::{
    GetModuleFileNameA as native_file_a, GetModuleFileNameW as native_file_w,
};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RESERVE, PAGE_READONLY, PAGE_READWRITE, VirtualAlloc, VirtualProtect,
};

use super::objects::narrow;
use super::{fails, ours};
use crate::pe::{Export, Module};
use crate::places::{PRIVATE_MODULE_BYTES, PRIVATE_MODULES, SYSTEM_MODULES, SYSTEM_MODULES_MAX};
use crate::state::{block, load, lock, state, store};
use crate::thread::Thread;
use crate::{catalog, switch, text, thunk};

ours! {
    GetModuleHandleA GetModuleHandleW GetModuleHandleExA GetModuleHandleExW LoadLibraryA LoadLibraryW LoadLibraryExA LoadLibraryExW
    FreeLibrary FreeLibraryAndExitThread GetProcAddress GetModuleFileNameA GetModuleFileNameW LdrAddRefDll RtlPcToFileHeader
    DisableThreadLibraryCalls;
}

mod native {
    #[link(name = "ntdll", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn RtlAddFunctionTable(table: *const core::ffi::c_void, count: u32, base: u64) -> u8;
    }
}

/// Libraries of C and C++ compilers, of which each program has its own.
const PRIVATE: [&str; 5] =
    ["msvcrt.dll", "ucrtbase.dll", "vcruntime140.dll", "vcruntime140_1.dll", "msvcp140.dll"];

const SYSTEM_MODULE_BYTES: usize = 0x1_0000;

/// The library's file name in lower case, with its ending. Sets of functions stand for the library behind them.
fn plain_name(name: &str) -> String {
    let name = name.rsplit(['\\', '/']).next().unwrap_or(name).to_ascii_lowercase();
    let name = if name.contains('.') { name } else { format!("{name}.dll") };
    if name.starts_with("api-ms-win-crt-") { "ucrtbase.dll".to_owned() } else { name }
}

/// The private copy of a C library, made where there is none yet. Nothing for other libraries.
pub(crate) fn private_module(name: &str) -> Result<Option<Module>, String> {
    let name = plain_name(name);
    if !PRIVATE.contains(&name.as_str()) {
        return Ok(None);
    }
    let wide = text::wide(&name);
    let known = state().private_modules.iter().position(|module| module.name.get() == wide);
    if let Some(index) = known {
        return Ok(Some(Module::at(PRIVATE_MODULES + index * PRIVATE_MODULE_BYTES)));
    }
    let free = state().private_modules.iter().position(|module| module.name.get().is_empty());
    let index = free.ok_or("it has too many C libraries")?;
    let base = PRIVATE_MODULES + index * PRIVATE_MODULE_BYTES;
    let module = map_private(&name, base)?;
    let record = &state().private_modules[index];
    store(&record.bytes, module.bytes() as u64);
    store(&record.entry, module.entry() as u64);
    record.name.set(&wide);
    bind(module)?;
    let before = state().private_modules.iter().map(|module| load(&module.order)).max().unwrap_or(0);
    store(&record.order, before + 1);
    protect(module);
    tell_unwinder(module);
    Ok(Some(module))
}

fn map_private(name: &str, base: usize) -> Result<Module, String> {
    let native = catalog::module(name).ok_or_else(|| format!("{name} is not there"))?;
    let path = file_of(native);
    let file = std::fs::read(String::from_utf16_lossy(&path))
        .map_err(|error| format!("{name} cannot be read: {error}"))?;
    let bytes = Module::at(native as usize).bytes();
    if bytes > PRIVATE_MODULE_BYTES {
        return Err(format!("{name} is too large"));
    }
    // SAFETY: asks for pages at an address.
    let at = unsafe { VirtualAlloc(base as *const c_void, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    if at as usize != base {
        return Err(format!("something else is at {base:#x}"));
    }
    let copy = |from: usize, to: usize, length: usize| {
        let length = length.min(file.len().saturating_sub(from)).min(bytes.saturating_sub(to));
        if length > 0 {
            // SAFETY: both ranges were just bounded.
            unsafe { std::ptr::copy_nonoverlapping(file[from..].as_ptr(), (base + to) as *mut u8, length) };
        }
    };
    let module = Module::at(base);
    copy(0, 0, Module::at(native as usize).header_bytes());
    for section in module.sections() {
        copy(section.file_start, section.start, section.file_bytes);
    }
    let moved = base.wrapping_sub(module.preferred_base());
    for place in module.relocations().ok_or_else(|| format!("{name} cannot be moved"))? {
        let place = (base + place) as *mut usize;
        // SAFETY: relocations lie in the module, whose pages are writable now.
        let old = unsafe { place.read_unaligned() };
        // SAFETY: as above.
        unsafe { place.write_unaligned(old.wrapping_add(moved)) };
    }
    Ok(module)
}

fn protect(module: Module) {
    let mut old = 0;
    // SAFETY: the headers are in the module, which is ours.
    unsafe {
        VirtualProtect(module.base() as *const c_void, module.header_bytes(), PAGE_READONLY, &raw mut old)
    };
    for section in module.sections() {
        let mut old = 0;
        let at = (module.base() + section.start) as *const c_void;
        // SAFETY: the section is in the module, which is ours.
        unsafe { VirtualProtect(at, section.bytes, section.protection(), &raw mut old) };
    }
}

/// Lets exceptions pass through a private module.
pub(crate) fn tell_unwinder(module: Module) {
    let (table, count) = module.unwind_table();
    if count > 0 {
        // SAFETY: the table is the module's, which is never unloaded.
        unsafe { native::RtlAddFunctionTable(table as *const c_void, count as u32, module.base() as u64) };
    }
}

/// All private modules.
pub(crate) fn private_modules() -> impl Iterator<Item = Module> {
    let all = state().private_modules.iter().enumerate();
    all.filter(|(_, record)| load(&record.bytes) != 0)
        .map(|(index, _)| Module::at(PRIVATE_MODULES + index * PRIVATE_MODULE_BYTES))
}

/// Tells each private library of the process or a thread, as the loader does.
pub(crate) fn tell_private(thread: &Thread, reason: usize) {
    let records = state().private_modules.iter().map(|record| load(&record.order));
    let mut all: Vec<(u64, usize)> = records.zip(0..).filter(|(order, _)| *order != 0).collect();
    all.sort_unstable();
    for (_, index) in all {
        let module = Module::at(PRIVATE_MODULES + index * PRIVATE_MODULE_BYTES);
        // SAFETY: the library's own entry, on the thread's own stack.
        unsafe { switch::call(thread, module.entry(), [module.base(), reason, 0]) };
    }
}

/// Puts thunks, and addresses of private libraries, into the places of a module's imports.
pub(crate) fn bind(module: Module) -> Result<(), String> {
    for import in module.imports() {
        let target = address_of(&import.dll, &import.name)?;
        let place = import.place as *mut usize;
        let mut old = 0;
        // SAFETY: the place is in the module.
        unsafe { VirtualProtect(place.cast(), 8, PAGE_READWRITE, &raw mut old) };
        // SAFETY: it is writable now.
        unsafe { place.write(target) };
        if old != 0 {
            // SAFETY: as above.
            unsafe { VirtualProtect(place.cast(), 8, old, &raw mut old) };
        }
    }
    Ok(())
}

/// What the program has for a function or a variable of a library.
fn address_of(dll: &str, name: &str) -> Result<usize, String> {
    let none = || format!("{name} of {dll} is not there");
    match private_module(dll)? {
        Some(module) => export(module, name).ok_or_else(none),
        None => thunk::of(&plain_name(dll), name).ok_or_else(none),
    }
}

pub(crate) fn export(module: Module, name: &str) -> Option<usize> {
    match module.export(name)? {
        Export::At(at) => Some(at),
        Export::Forward(to) => {
            let (dll, name) = to.rsplit_once('.')?;
            address_of(&format!("{dll}.dll"), name).ok()
        }
    }
}

fn file_of(module: HMODULE) -> Vec<u16> {
    let mut room = vec![0; 1024];
    // SAFETY: there is room for so many units.
    let length = unsafe { native_file_w(module, room.as_mut_ptr(), room.len() as u32) };
    room.truncate(length as usize);
    room
}

/// The program's handle of a library; 0 where it is not there.
fn handle_of(name: &str, may_load: bool) -> usize {
    let name = plain_name(name);
    let not_there = || fails(ERROR_MOD_NOT_FOUND) as usize;
    if PRIVATE.contains(&name.as_str()) {
        let is_there = state().private_modules.iter().any(|module| module.name.string() == name);
        return match private_module(&name) {
            Ok(Some(module)) if is_there || may_load => {
                if !is_there {
                    // Its entry was never called, and cannot be on this stack.
                    block("it has loaded a C library while it ran");
                }
                module.base()
            }
            _ => not_there(),
        };
    }
    let own = load(&state().program_base) as usize;
    let path = String::from_utf16_lossy(&file_of(std::ptr::null_mut()));
    if plain_name(&path) == name {
        return own;
    }
    let held = lock();
    let wide = text::wide(&name);
    if let Some(known) = state().system_modules.iter().position(|module| module.name.get() == wide) {
        return SYSTEM_MODULES + known * SYSTEM_MODULE_BYTES;
    }
    let is_loaded = {
        let name = format!("{name}\0");
        // SAFETY: a text that ends with a zero.
        !unsafe { windows_sys::Win32::System::LibraryLoader::GetModuleHandleA(name.as_ptr()) }.is_null()
    };
    let Some(native) = catalog::module(&name).filter(|_| is_loaded || may_load) else { return not_there() };
    let free = state().system_modules.iter().position(|module| module.name.get().is_empty());
    let Some(index) = free.filter(|&index| state().system_modules[index].name.set(&wide)) else {
        drop(held);
        block("it has more than 64 libraries of the system");
        return native as usize;
    };
    drop(held);
    if !is_of_system(native) {
        block(&format!("it has loaded {name}, which is no library of the system"));
    }
    SYSTEM_MODULES + index * SYSTEM_MODULE_BYTES
}

/// Whether a library lies in Windows's own folder.
pub(crate) fn is_of_system(module: HMODULE) -> bool {
    let mut folder = vec![0; 512];
    // SAFETY: there is room for so many units.
    let length = unsafe {
        windows_sys::Win32::System::SystemInformation::GetSystemDirectoryW(
            folder.as_mut_ptr(),
            folder.len() as u32,
        )
    };
    let folder = String::from_utf16_lossy(&folder[..length as usize]).to_ascii_lowercase();
    String::from_utf16_lossy(&file_of(module)).to_ascii_lowercase().starts_with(&folder)
}

/// The name of the library of the system that a handle stands for.
fn system_name(module: usize) -> Option<String> {
    let index = module.checked_sub(SYSTEM_MODULES)? / SYSTEM_MODULE_BYTES;
    let record = state().system_modules.get(index).filter(|_| index < SYSTEM_MODULES_MAX)?;
    let name = record.name.string();
    (!name.is_empty()).then_some(name)
}

fn wide_text(name: *const u16) -> String {
    // SAFETY: the program's text ends with a zero.
    let length = (0..).find(|&index| unsafe { name.add(index).read() } == 0).unwrap_or(0);
    // SAFETY: as above.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(name, length) })
}

fn by_name_a(name: *const u8, may_load: bool) -> usize {
    if name.is_null() {
        return load(&state().program_base) as usize;
    }
    handle_of(&String::from_utf16_lossy(&narrow(name)), may_load)
}

fn by_name_w(name: *const u16, may_load: bool) -> usize {
    if name.is_null() {
        return load(&state().program_base) as usize;
    }
    handle_of(&wide_text(name), may_load)
}

extern "system" fn GetModuleHandleA(name: *const u8) -> usize {
    by_name_a(name, false)
}

extern "system" fn GetModuleHandleW(name: *const u16) -> usize {
    by_name_w(name, false)
}

/// GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS.
const FROM_ADDRESS: u32 = 4;

fn put_handle(handle: usize, into: *mut usize) -> i32 {
    // SAFETY: the program has room for the handle.
    unsafe { into.write(handle) };
    if handle == 0 { fails(ERROR_MOD_NOT_FOUND) as i32 } else { 1 }
}

extern "system" fn GetModuleHandleExA(flags: u32, name: *const u8, into: *mut usize) -> i32 {
    let handle = if flags & FROM_ADDRESS != 0 { module_at(name as usize) } else { by_name_a(name, false) };
    put_handle(handle, into)
}

extern "system" fn GetModuleHandleExW(flags: u32, name: *const u16, into: *mut usize) -> i32 {
    let handle = if flags & FROM_ADDRESS != 0 { module_at(name as usize) } else { by_name_w(name, false) };
    put_handle(handle, into)
}

/// The program's module that an address is in.
fn module_at(address: usize) -> usize {
    let program = Module::at(load(&state().program_base) as usize);
    let mut all = std::iter::once(program).chain(private_modules());
    all.find(|module| (module.base()..module.base() + module.bytes()).contains(&address))
        .map_or(0, Module::base)
}

extern "system" fn RtlPcToFileHeader(address: usize, into: *mut usize) -> usize {
    let base = module_at(address);
    // SAFETY: the program has room for the address.
    unsafe { into.write(base) };
    base
}

extern "system" fn LoadLibraryA(name: *const u8) -> usize {
    by_name_a(name, true)
}

extern "system" fn LoadLibraryW(name: *const u16) -> usize {
    by_name_w(name, true)
}

extern "system" fn LoadLibraryExA(name: *const u8, _file: usize, _flags: u32) -> usize {
    by_name_a(name, true)
}

extern "system" fn LoadLibraryExW(name: *const u16, _file: usize, _flags: u32) -> usize {
    by_name_w(name, true)
}

/// Libraries stay.
extern "system" fn FreeLibrary(_module: usize) -> i32 {
    1
}

extern "system" fn FreeLibraryAndExitThread(_module: usize, code: u32) {
    block("it has used FreeLibraryAndExitThread");
    // SAFETY: the calling thread's own end.
    unsafe { windows_sys::Win32::System::Threading::ExitThread(code) };
}

extern "system" fn LdrAddRefDll(_flags: u32, _module: usize) -> i32 {
    0
}

extern "system" fn DisableThreadLibraryCalls(_module: usize) -> i32 {
    1
}

extern "system" fn GetProcAddress(module: usize, name: *const u8) -> usize {
    let name = match name as usize {
        ordinal if ordinal < 0x1_0000 => format!("#{ordinal}"),
        _ => String::from_utf16_lossy(&narrow(name)),
    };
    let found = match system_name(module) {
        // A function that is not there has no thunk.
        Some(dll) => catalog::real(&dll, &name).and_then(|_| thunk::of(&dll, &name)),
        None if module_at(module) == module && module != 0 => export(Module::at(module), &name),
        None => return fails(ERROR_INVALID_HANDLE) as usize,
    };
    found.unwrap_or_else(|| fails(ERROR_PROC_NOT_FOUND) as usize)
}

/// The system's handle for the program's.
fn real_module(module: usize) -> HMODULE {
    if let Some(name) = system_name(module) {
        return catalog::module(&name).unwrap_or_default();
    }
    let index = module.checked_sub(PRIVATE_MODULES).map(|offset| offset / PRIVATE_MODULE_BYTES);
    match index.and_then(|index| state().private_modules.get(index)).filter(|record| load(&record.bytes) != 0)
    {
        Some(record) => catalog::module(&record.name.string()).unwrap_or_default(),
        None => module as HMODULE,
    }
}

extern "system" fn GetModuleFileNameA(module: usize, into: *mut u8, room: u32) -> u32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { native_file_a(real_module(module), into, room) }
}

extern "system" fn GetModuleFileNameW(module: usize, into: *mut u16, room: u32) -> u32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { native_file_w(real_module(module), into, room) }
}

/// A library's file name, for people.
pub(crate) fn name_of(module: HMODULE) -> String {
    plain_name(&String::from_utf16_lossy(&file_of(module)))
}

/// The executable's path.
pub(crate) fn program_path() -> Vec<u16> {
    file_of(std::ptr::null_mut())
}

/// Windows's version, as `10.0.19043`.
pub(crate) fn release() -> String {
    use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOW;
    mod native {
        use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOW;
        #[link(name = "ntdll", kind = "raw-dylib")]
        unsafe extern "system" {
            pub(super) fn RtlGetVersion(into: *mut OSVERSIONINFOW) -> i32;
        }
    }
    let mut version =
        OSVERSIONINFOW { dwOSVersionInfoSize: size_of::<OSVERSIONINFOW>() as u32, ..Default::default() };
    // SAFETY: there is room for the record.
    unsafe { native::RtlGetVersion(&raw mut version) };
    format!("{}.{}.{}", version.dwMajorVersion, version.dwMinorVersion, version.dwBuildNumber)
}

/// The executable.
pub(crate) fn program() -> Module {
    // SAFETY: the process's own module.
    Module::at(
        unsafe { windows_sys::Win32::System::LibraryLoader::GetModuleHandleW(std::ptr::null()) } as usize
    )
}
