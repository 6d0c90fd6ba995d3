//! The libraries of the process, and which of them are Windows's own.
//!
//! A call counts as the program's unless it comes from one of Windows's own libraries: these call each other's exports all the
//! time. The C and C++ libraries are none of them, as what they call they call for the program.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use windows_sys::Win32::Foundation::HMODULE;
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, MODULEENTRY32W, Module32FirstW, Module32NextW, TH32CS_SNAPMODULE,
};
use windows_sys::Win32::System::SystemInformation::GetSystemDirectoryW;

/// A library that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) path: String,
    is_of_windows: bool,
}

/// Windows's own libraries that are known, at most. Calls of any others count as the program's.
const RANGES_MAX: usize = 1024;

/// What a call is judged by: ranges of Windows's own libraries, ascending. Odd while they are changed, another number each time.
static TURN: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static STARTS: [AtomicU64; RANGES_MAX] = [const { AtomicU64::new(0) }; RANGES_MAX];
static ENDS: [AtomicU64; RANGES_MAX] = [const { AtomicU64::new(0) }; RANGES_MAX];
/// The agent itself.
static AGENT_START: AtomicU64 = AtomicU64::new(0);
static AGENT_END: AtomicU64 = AtomicU64::new(0);

/// Names of libraries in Windows's folder whose calls are the program's.
const OF_PROGRAM: [&str; 8] =
    ["msvcrt", "msvcr", "msvcp", "ucrtbase", "vcruntime", "api-ms-win-crt", "concrt", "vcomp"];

impl Module {
    pub(crate) fn new(base: u64, bytes: u64, path: String) -> Module {
        let is_of_windows = is_of_windows(&path);
        Module { base, bytes, path, is_of_windows }
    }

    pub(crate) fn handle(&self) -> HMODULE {
        self.base as HMODULE
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.base..self.base + self.bytes).contains(&address)
    }

    /// The file's name.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit(['\\', '/']).next().unwrap_or(&self.path)
    }
}

fn is_of_windows(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let is_there = [system_folder(), r"c:\windows\winsxs".to_owned()]
        .iter()
        .any(|folder| path.starts_with(folder.as_str()));
    let name = path.rsplit(['\\', '/']).next().unwrap_or(&path);
    is_there && !OF_PROGRAM.iter().any(|start| name.starts_with(start))
}

fn system_folder() -> String {
    let mut path = [0; 260];
    // SAFETY: there is room for so many units.
    let length = unsafe { GetSystemDirectoryW(path.as_mut_ptr(), path.len() as u32) } as usize;
    String::from_utf16_lossy(path.get(..length).unwrap_or(&[])).to_ascii_lowercase()
}

/// All that are loaded. The caller holds the loader's lock, so that none goes meanwhile.
pub(crate) fn all() -> Vec<Module> {
    let mut found = Vec::new();
    // SAFETY: a call without pointers.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPMODULE, 0) };
    let mut entry = MODULEENTRY32W { dwSize: size_of::<MODULEENTRY32W>() as u32, ..Default::default() };
    // SAFETY: the entry says how long it is; an invalid handle fails.
    let mut is_there = unsafe { Module32FirstW(snapshot, &raw mut entry) };
    while is_there != 0 {
        let length = entry.szExePath.iter().position(|unit| *unit == 0).unwrap_or(entry.szExePath.len());
        let path = String::from_utf16_lossy(&entry.szExePath[..length]);
        found.push(Module::new(entry.modBaseAddr as u64, u64::from(entry.modBaseSize), path));
        // SAFETY: as above.
        is_there = unsafe { Module32NextW(snapshot, &raw mut entry) };
    }
    // SAFETY: ours.
    unsafe { windows_sys::Win32::Foundation::CloseHandle(snapshot) };
    found
}

/// From now on calls are judged by these libraries. Only who holds the engine's lock calls this.
pub(crate) fn judge_by(modules: &[Module]) {
    let own = judge_by as *const () as u64;
    let mut of_windows: Vec<&Module> = modules.iter().filter(|module| module.is_of_windows).collect();
    of_windows.sort_unstable_by_key(|module| module.base);
    if let Some(agent) = modules.iter().find(|module| module.contains(own)) {
        AGENT_START.store(agent.base, Ordering::Relaxed);
        AGENT_END.store(agent.base + agent.bytes, Ordering::Relaxed);
    }
    TURN.fetch_add(1, Ordering::AcqRel);
    for (module, (start, end)) in of_windows.iter().zip(STARTS.iter().zip(&ENDS)) {
        start.store(module.base, Ordering::Relaxed);
        end.store(module.base + module.bytes, Ordering::Relaxed);
    }
    COUNT.store(of_windows.len().min(RANGES_MAX), Ordering::Relaxed);
    TURN.fetch_add(1, Ordering::AcqRel);
}

/// Whether this is code of the agent.
pub(crate) fn is_agent(address: u64) -> bool {
    (AGENT_START.load(Ordering::Relaxed)..AGENT_END.load(Ordering::Relaxed)).contains(&address)
}

/// Whether a call that returns there is the program's.
pub(crate) fn is_of_program(address: u64) -> bool {
    loop {
        let turn = TURN.load(Ordering::Acquire);
        let count = COUNT.load(Ordering::Relaxed).min(RANGES_MAX);
        let ends = ENDS.get(..count).unwrap_or(&[]);
        let at = ends.partition_point(|end| end.load(Ordering::Relaxed) <= address);
        let start =
            STARTS.get(at).filter(|_| at < count).map_or(u64::MAX, |start| start.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if turn.is_multiple_of(2) && TURN.load(Ordering::Relaxed) == turn {
            return address < start;
        }
        std::hint::spin_loop();
    }
}
