//! A process, and what is asked of the agent in it.

use std::ffi::c_void;
use std::os::windows::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use brant_windows::{AGENT_ENTRY, AGENT_FILE, Block, Code, PROTOCOL, Refused, Reply, Request, exports};
use windows_sys::Win32::Foundation::{WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Threading::{
    CreateRemoteThread, GetExitCodeProcess, INFINITE, IsWow64Process, LPTHREAD_START_ROUTINE, OpenProcess,
    PROCESS_CREATE_THREAD, PROCESS_QUERY_INFORMATION, PROCESS_SYNCHRONIZE, PROCESS_VM_OPERATION,
    PROCESS_VM_READ, PROCESS_VM_WRITE, WaitForMultipleObjects, WaitForSingleObject,
};

use crate::error::last;
use crate::handle::Handle;
use crate::{memory, module};

/// How long the agent has for each step to an answer.
pub const ANSWER_LIMIT_MS: u32 = 30_000;
/// So many times as long for all of them.
const STEPS_LIMITS_MAX: u32 = 10;
/// How often it is looked whether it goes on.
const LOOK_MS: u32 = 1_000;
/// How long a program's loader has for the agent.
const LOAD_LIMIT_MS: u32 = 60_000;
const REPLY_BYTES_MAX: u64 = 256 << 20;

/// A process that is or may be wrapped.
#[derive(Debug)]
pub struct Process {
    pub(crate) handle: Handle,
    pid: u32,
}

impl Process {
    /// A process that is running.
    pub fn open(pid: u32) -> Result<Process, Refused> {
        let rights = PROCESS_CREATE_THREAD
            | PROCESS_QUERY_INFORMATION
            | PROCESS_SYNCHRONIZE
            | PROCESS_VM_OPERATION
            | PROCESS_VM_READ
            | PROCESS_VM_WRITE;
        // SAFETY: a call without pointers.
        let handle = Handle::new(unsafe { OpenProcess(rights, 0, pid) })
            .ok_or_else(|| last(Code::NoProcess, format!("process {pid} cannot be opened")))?;
        let process = Process::of(handle, pid)?;
        if process.exit_code_now().is_some() {
            return Err(Refused::new(Code::NoProcess, format!("process {pid} has ended")));
        }
        Ok(process)
    }

    pub(crate) fn of(handle: Handle, pid: u32) -> Result<Process, Refused> {
        let mut is_32_bit = 0;
        // SAFETY: there is room for the answer.
        let is_known = unsafe { IsWow64Process(handle.raw(), &raw mut is_32_bit) };
        if is_known == 0 || is_32_bit != 0 {
            return Err(Refused::new(Code::OtherMachine, format!("process {pid} is no 64-bit program")));
        }
        Ok(Process { handle, pid })
    }

    /// LoadLibraryW, where the process has it; nothing where its loader has not begun.
    fn load_library(&self) -> Option<u64> {
        let library = module::find(self.handle.raw(), self.pid, "kernelbase.dll")?;
        Some(library.base + u64::from(exports::find(&library, "LoadLibraryW")?))
    }

    /// Lets the process's loader begin, by a thread that does nothing.
    pub(crate) fn begin_loader(&self) -> Result<(), Refused> {
        let failed = || Refused::new(Code::Failed, "ntdll exports no NtYieldExecution");
        let name: Vec<u16> = "ntdll.dll\0".encode_utf16().collect();
        // SAFETY: a text that ends with a zero.
        let ntdll = unsafe { GetModuleHandleW(name.as_ptr()) };
        // SAFETY: a loaded library, and a text that ends with a zero byte.
        let function = unsafe { GetProcAddress(ntdll, c"NtYieldExecution".as_ptr().cast()) };
        self.run(function.ok_or_else(failed)? as usize as u64, 0, LOAD_LIMIT_MS, None).map(drop)
    }

    /// Takes an address, so that no library will lie there: for tests of what must not depend on it.
    pub(crate) fn take(&self, at: u64) {
        memory::take(self.handle.raw(), at);
    }

    /// Reserves memory at an address; tells whether it was free.
    pub(crate) fn reserve(&self, at: u64, bytes: u64) -> bool {
        memory::reserve(self.handle.raw(), at, bytes as usize)
    }

    /// Reserves what is free in a range of addresses. Where.
    pub(crate) fn reserve_parts(&self, at: u64, bytes: u64) -> Vec<u64> {
        memory::free_parts(self.handle.raw(), at, bytes)
            .into_iter()
            .filter(|&(at, bytes)| self.reserve(at, bytes))
            .map(|(at, _)| at)
            .collect()
    }

    /// Gives back what was reserved.
    pub(crate) fn release(&self, at: u64) {
        memory::release(self.handle.raw(), at);
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end. The exit code.
    pub fn wait(&self) -> u32 {
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(self.handle.raw(), INFINITE) };
        self.exit_code_now().unwrap_or(u32::MAX)
    }

    fn exit_code_now(&self) -> Option<u32> {
        // SAFETY: the handle is open.
        let is_over = unsafe { WaitForSingleObject(self.handle.raw(), 0) } == WAIT_OBJECT_0;
        let mut code = 0;
        // SAFETY: there is room for the answer.
        (is_over && unsafe { GetExitCodeProcess(self.handle.raw(), &raw mut code) } != 0).then_some(code)
    }

    pub fn has_agent(&self) -> bool {
        module::find(self.handle.raw(), self.pid, AGENT_FILE).is_some()
    }

    /// Lets the process load the agent, unless it has it. If brant ends meanwhile, it is loaded or it is not: alone it does nothing.
    pub fn load_agent(&self, agent: &Path) -> Result<(), Refused> {
        if self.has_agent() {
            return Ok(());
        }
        let refused = |why: &str| {
            Refused::new(Code::NoAgent, format!("process {} does not load {}", self.pid, agent.display()))
                .why(why)
        };
        if !agent.is_file() {
            return Err(refused("there is no such file"));
        }
        let path: Vec<u8> = agent.as_os_str().encode_wide().chain([0]).flat_map(u16::to_le_bytes).collect();
        let load = self
            .load_library()
            .or_else(load_library)
            .ok_or_else(|| refused("kernel32 exports no LoadLibraryW"))?;
        let at = self.put(&path)?;
        let end = self.run(load, at, LOAD_LIMIT_MS, None);
        if !matches!(end, Err(Refused { code: Code::Slow, .. })) {
            memory::release(self.handle.raw(), at);
        }
        if end? == 0 {
            return Err(refused("its loader refuses the file"));
        }
        // The thread's result is half of an address: the list of libraries has the last word.
        if self.has_agent() { Ok(()) } else { Err(refused("it is not among its libraries afterwards")) }
    }

    /// Asks the agent. It answers on a thread of the program that is made for it, and that ends by itself.
    pub fn ask(&self, request: &Request, limit_ms: u32) -> Result<Reply, Refused> {
        let failed = |why: &str| {
            Refused::new(Code::Failed, format!("the agent in process {} was not asked", self.pid)).why(why)
        };
        let other =
            || Refused::new(Code::OtherAgent, format!("process {} has the agent of another build", self.pid));
        let agent = module::find(self.handle.raw(), self.pid, AGENT_FILE)
            .ok_or_else(|| Refused::new(Code::NotWrapped, format!("process {} has no wrappers", self.pid)))?;
        let entry = agent.base + u64::from(exports::find(&agent, AGENT_ENTRY).ok_or_else(other)?);
        let words = serde_json::to_vec(request).map_err(|error| failed(&error.to_string()))?;
        let block = Block { protocol: PROTOCOL, request_bytes: words.len() as u32, ..Block::default() };
        let at = self.put(&[&block.to_bytes(), words.as_slice()].concat())?;
        // Where it is slow, the agent still has the block, so that stays.
        self.run(entry, at, limit_ms, Some(at + Block::STEPS as u64)).inspect_err(|_| {
            memory::write(self.handle.raw(), at + Block::IS_WITHDRAWN as u64, &1_u64.to_le_bytes());
        })?;
        let mut head = [0; Block::BYTES];
        let is_read = memory::read(self.handle.raw(), at, &mut head);
        memory::release(self.handle.raw(), at);
        let block = Block::from_bytes(head);
        if !is_read || block.reply == 0 || block.reply_bytes > REPLY_BYTES_MAX {
            return Err(other());
        }
        let mut words = vec![0; block.reply_bytes as usize];
        let is_read = memory::read(self.handle.raw(), block.reply, &mut words);
        memory::release(self.handle.raw(), block.reply);
        if !is_read {
            return Err(failed("its answer cannot be read"));
        }
        match serde_json::from_slice(&words) {
            Ok(Reply::Refused(refused)) => Err(refused),
            Ok(reply) => Ok(reply),
            Err(_) => Err(other()),
        }
    }

    /// New memory of the process with these bytes.
    fn put(&self, bytes: &[u8]) -> Result<u64, Refused> {
        let at = memory::allocate(self.handle.raw(), bytes.len());
        if at == 0 || !memory::write(self.handle.raw(), at, bytes) {
            return Err(last(Code::Failed, format!("process {} gives no memory", self.pid)));
        }
        Ok(at)
    }

    /// Runs a function of the process on a new thread of it. Its result. It has so much time for each of the steps that it counts at `steps`.
    fn run(&self, function: u64, argument: u64, limit_ms: u32, steps: Option<u64>) -> Result<u32, Refused> {
        // SAFETY: a function of the other process that takes one pointer: LoadLibraryW, or the agent's.
        let function: LPTHREAD_START_ROUTINE = unsafe { std::mem::transmute(function as usize) };
        let argument = argument as *const c_void;
        // SAFETY: the function runs in the other process, with memory there.
        let thread = unsafe {
            CreateRemoteThread(
                self.handle.raw(),
                std::ptr::null(),
                0,
                function,
                argument,
                0,
                std::ptr::null_mut(),
            )
        };
        let thread = Handle::new(thread)
            .ok_or_else(|| last(Code::Failed, format!("no thread could be made in process {}", self.pid)))?;
        self.wait_for(&thread, Duration::from_millis(u64::from(limit_ms)), steps)?;
        if self.exit_code_now().is_some() {
            return Err(Refused::new(Code::NoProcess, format!("process {} has ended meanwhile", self.pid)));
        }
        let mut code = 0;
        // SAFETY: there is room for the answer.
        unsafe { windows_sys::Win32::System::Threading::GetExitCodeThread(thread.raw(), &raw mut code) };
        Ok(code)
    }
}

impl Process {
    /// Waits until a thread has ended, as long as it goes on.
    fn wait_for(&self, thread: &Handle, limit: Duration, steps: Option<u64>) -> Result<(), Refused> {
        let begin = Instant::now();
        let mut counted = (0, begin);
        let both = [thread.raw(), self.handle.raw()];
        // SAFETY: both handles are open.
        while unsafe { WaitForMultipleObjects(2, both.as_ptr(), 0, LOOK_MS) } == WAIT_TIMEOUT {
            let mut count = [0; 8];
            if let Some(at) = steps
                && memory::read(self.handle.raw(), at, &mut count)
                && u64::from_le_bytes(count) != counted.0
            {
                counted = (u64::from_le_bytes(count), Instant::now());
            }
            if counted.1.elapsed() >= limit || begin.elapsed() >= limit * STEPS_LIMITS_MAX {
                let waited = Duration::from_secs(begin.elapsed().as_secs());
                let what = format!("process {} did not answer in {waited:?}", self.pid);
                return Err(match counted.0 {
                    0 => Refused::new(Code::Slow, what),
                    count => Refused::new(Code::Slow, what).why(format!("it had done {count} steps by then")),
                });
            }
        }
        Ok(())
    }
}

/// LoadLibraryW: kernel32 lies at the same place in all processes of a session.
fn load_library() -> Option<u64> {
    let name: Vec<u16> = "kernel32.dll\0".encode_utf16().collect();
    // SAFETY: a text that ends with a zero.
    let kernel = unsafe { GetModuleHandleW(name.as_ptr()) };
    // SAFETY: a loaded library, and a text that ends with a zero byte.
    unsafe { GetProcAddress(kernel, c"LoadLibraryW".as_ptr().cast()) }
        .map(|function| function as usize as u64)
}
