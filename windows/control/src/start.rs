//! Programs that are started with the agent in them before their first instruction.

use std::ffi::OsString;
use std::mem;
use std::os::windows::io::{AsRawHandle as _, IntoRawHandle as _};
use std::os::windows::process::CommandExt as _;
use std::process::{Child, Command};

use brant_image::model::Windows;
use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::TRUE;
use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation, SetInformationJobObject,
};
use windows_sys::Win32::System::Threading::{
    CREATE_SUSPENDED, OpenThread, ResumeThread, THREAD_SUSPEND_RESUME,
};

use windows_sys::core::BOOL;

use crate::error::last;
use crate::handle::Handle;
use crate::module;
use crate::process::Process;

/// A program whose first thread has not begun. Dropped, and with the end of brant, it ends.
#[derive(Debug)]
pub struct Starting {
    process: Process,
    thread: Handle,
    /// Ends the program with its last handle, which is ours. Nothing where there can be none: a program that is in a job already.
    job: Option<Handle>,
    child: Option<Child>,
}

/// A program that runs.
#[derive(Debug)]
pub struct Started(Process);

impl Starting {
    /// Starts a program with our own standard handles, environment and folder, and stops it before its first instruction.
    pub fn new(program: &OsString, arguments: &[OsString]) -> Result<Starting, Refused> {
        let what = || format!("{} does not start", program.display());
        let mut command = Command::new(program);
        command.args(arguments);
        Starting::by(command, what)
    }

    /// Starts the program of an image: with the arguments, environment and folder that it had, and our standard handles.
    pub fn again(windows: &Windows) -> Result<Starting, Refused> {
        let mut command = Command::new(&windows.program);
        let variables = windows.environment.iter().filter_map(|text| {
            // A name may begin with the sign.
            let at = text.char_indices().skip(1).find(|(_, sign)| *sign == '=')?.0;
            Some((&text[..at], &text[at + 1..]))
        });
        command.env_clear().envs(variables).current_dir(&windows.directory);
        command.raw_arg(arguments_of(&windows.command_line));
        Starting::by(command, || format!("{} does not start", windows.program))
    }

    /// Starts it suspended, and takes what is needed of it: ended, if that fails.
    fn by(mut command: Command, what: impl Fn() -> String) -> Result<Starting, Refused> {
        command.creation_flags(CREATE_SUSPENDED);
        let mut child = command.spawn().map_err(|error| Refused::new(Code::NoStart, what()).why(error))?;
        let pid = child.id();
        let starting = Starting::of(&child, pid);
        match starting {
            Ok(mut starting) => {
                starting.child = Some(child);
                Ok(starting)
            }
            Err(refused) => {
                let _ = child.kill();
                Err(refused)
            }
        }
    }

    fn of(child: &Child, pid: u32) -> Result<Starting, Refused> {
        let job = ending_job(child);
        let process = Process::open(pid)?;
        let first = module::threads(pid).first().copied();
        // SAFETY: a call without pointers.
        let thread =
            first.and_then(|thread| Handle::new(unsafe { OpenThread(THREAD_SUSPEND_RESUME, 0, thread) }));
        let thread =
            thread.ok_or_else(|| last(Code::NoStart, "the program's first thread cannot be opened"))?;
        Ok(Starting { process, thread, job, child: None })
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Lets it go: from now on it does not need brant.
    pub fn go(mut self) -> Result<Started, Refused> {
        if let Some(job) = &self.job {
            limit(job, 0);
        }
        leave_interrupts();
        // SAFETY: the handle is open.
        if unsafe { ResumeThread(self.thread.raw()) } == u32::MAX {
            return Err(last(Code::NoStart, "the program's first thread does not go on"));
        }
        let Some(child) = self.child.take() else {
            return Err(Refused::new(Code::Failed, "the program is gone"));
        };
        let handle = Handle::new(child.into_raw_handle().cast());
        let handle = handle.ok_or_else(|| Refused::new(Code::Failed, "the program is gone"))?;
        Ok(Started(Process::of(handle, self.process.pid())?))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
        }
    }
}

impl Started {
    /// Waits for its end. The exit code.
    pub fn wait(&self) -> u32 {
        self.0.wait()
    }
}

/// Leaves interrupts of the console to the program: it decides what they mean, and brant waits for it.
fn leave_interrupts() {
    unsafe extern "system" fn seen(_kind: u32) -> BOOL {
        TRUE
    }
    // SAFETY: the function does nothing.
    unsafe { SetConsoleCtrlHandler(Some(seen), TRUE) };
}

/// What stands behind the program in a command line.
fn arguments_of(line: &str) -> &str {
    let rest = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').map_or("", |(_, rest)| rest),
        None => line.find([' ', '\t']).map_or("", |at| &line[at..]),
    };
    rest.trim_start()
}

/// A job with the child in it that ends with its last handle.
fn ending_job(child: &Child) -> Option<Handle> {
    // SAFETY: a job without a name, for us only.
    let job = Handle::new(unsafe { CreateJobObjectW(std::ptr::null(), std::ptr::null()) })?;
    limit(&job, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE);
    // SAFETY: both handles are open.
    let is_in = unsafe { AssignProcessToJobObject(job.raw(), child.as_raw_handle().cast()) };
    (is_in != 0).then_some(job)
}

fn limit(job: &Handle, flags: u32) {
    let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
    limits.BasicLimitInformation.LimitFlags = flags;
    let bytes = mem::size_of_val(&limits) as u32;
    // SAFETY: the limits are as long as it is said.
    unsafe {
        SetInformationJobObject(
            job.raw(),
            JobObjectExtendedLimitInformation,
            (&raw const limits).cast(),
            bytes,
        )
    };
}
