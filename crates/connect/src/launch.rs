//! Wrappers from a program's first instruction on.
//!
//! The program is stopped at its entry point: its libraries are loaded and relocated then, and nothing of its own has run but
//! their constructors. It is traced with *exit kill* until the wrappers are on, so that it runs with all of them or not at all,
//! whatever becomes of brant.

use std::time::Duration;

use brant_base::{Addr, Pid, Tid};
use brant_kernel::proc;
use brant_kernel::ptrace::{self, Options, Stop, Waiter};
use brant_kernel::remote::{HandThread, Memory};
use brant_kernel::thread;

use crate::alone;
use crate::error::Error;
use crate::session::Session;
use crate::target::Target;
use crate::{Log, Turn, Wrapped, Wrapper, put_on};

const AT_ENTRY: u64 = 9;
const BREAKPOINT: u8 = 0xcc;
/// How long a program may take to be executed and linked.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(60);

/// A child of the calling thread that is about to execute a program.
pub struct Launch {
    waiter: Waiter,
    pid: Pid,
}

impl Launch {
    /// Takes hold of a child that waits for that. From here on it ends with the calling thread.
    pub fn hold(child: Pid) -> Result<Launch, Error> {
        let waiter = crate::waiter(child)?;
        let options = Options { exit_kill: true, stop_at_exec: true, ..Options::default() };
        ptrace::seize(child.into(), options).map_err(|error| Error::NotAllowed(child, error))?;
        Ok(Launch { waiter, pid: child })
    }

    /// Puts wrappers on the program that the child executes, in this order, and lets it run. On an error it has been killed.
    pub fn wrap(self, wrappers: &[Wrapper], log: &Log) -> Result<Vec<Wrapped>, Error> {
        let done = self.wrap_and_go(wrappers, log);
        if done.is_err() {
            let _ = thread::kill(self.pid);
        }
        done
    }

    /// Lets the program execute, stops it at its entry point, puts the wrappers on and lets it go. It ends with us
    /// until then.
    fn wrap_and_go(&self, wrappers: &[Wrapper], log: &Log) -> Result<Vec<Wrapped>, Error> {
        let _turn = Turn::take(self.pid)?;
        let tid = Tid(self.pid.0);
        self.run_until(0, |stop| matches!(stop, Stop::Event(libc::PTRACE_EVENT_EXEC)))?;
        let is_alone = alone::is_alone(self.pid)?;
        if is_alone {
            alone::check(self.pid, wrappers)?;
        }
        let thread = self.run_to_entry(tid)?;
        let (target, thread) = match is_alone {
            true => alone::prepare(&self.waiter, self.pid, thread)?,
            false => (Target::inspect_own(self.pid)?, thread),
        };
        let mut session = match is_alone {
            true => Session::open_standing(&self.waiter, &target, &[thread], wrappers)?,
            false => Session::open_with(&self.waiter, &target, thread, wrappers)?,
        };
        let mut wrapped = Vec::new();
        for wrapper in wrappers {
            let done = put_on(&target, &mut session, wrapper);
            log.put_on(self.pid, &wrapper.name, &done);
            wrapped.push(done?);
        }
        session.close()?;
        ptrace::set_options(tid, Options::default()).map_err(|e| Error::thread(tid, "letting it live", e))?;
        ptrace::detach(tid, 0).map_err(|e| Error::thread(tid, "letting it go", e))?;
        Ok(wrapped)
    }

    /// Runs the program to its entry point, by a breakpoint there.
    fn run_to_entry(&self, tid: Tid) -> Result<HandThread, Error> {
        let failed = |operation| move |error| Error::thread(tid, operation, error);
        let auxv = proc::auxv(self.pid).map_err(|error| Error::looking(self.pid, error))?;
        let entry = auxv.iter().find(|(kind, _)| *kind == AT_ENTRY).map(|(_, value)| *value);
        let entry = entry.ok_or(Error::NotSupported(self.pid))?;
        let memory = Memory::open(self.pid).map_err(|error| Error::NotAllowed(self.pid, error))?;
        let byte: u8 = memory.read_value(Addr(entry)).map_err(failed("reading its entry point"))?;
        memory.write_by_force(Addr(entry), &[BREAKPOINT]).map_err(failed("writing a breakpoint"))?;
        ptrace::resume(tid, 0).map_err(failed("running it to its entry point"))?;
        self.run_until(entry + 1, |stop| *stop == Stop::Signal(libc::SIGTRAP))?;
        memory.write_by_force(Addr(entry), &[byte]).map_err(failed("removing a breakpoint"))?;
        let mut registers = ptrace::registers(tid).map_err(failed("reading registers"))?;
        registers.rip = entry;
        ptrace::set_registers(tid, &registers).map_err(failed("setting registers"))?;
        // To a stop of another kind: at this one a signal is about to be delivered.
        ptrace::interrupt(tid).map_err(failed("interrupting"))?;
        ptrace::resume(tid, 0).map_err(failed("interrupting"))?;
        self.run_until(0, |stop| *stop == Stop::Interrupt)?;
        let mask = ptrace::signal_mask(tid).map_err(failed("reading its signal mask"))?;
        Ok(HandThread { tid, registers, mask })
    }

    /// Waits for a stop, which is at `rip` where that is not 0; signals before it are delivered.
    fn run_until(&self, rip: u64, is_wanted: impl Fn(&Stop) -> bool) -> Result<(), Error> {
        let tid = Tid(self.pid.0);
        loop {
            let stop = self.waiter.wait(tid, ENTRY_TIMEOUT).map_err(|_| Error::DoesNotStop(tid))?;
            if is_wanted(&stop)
                && (rip == 0 || ptrace::registers(tid).is_ok_and(|registers| registers.rip == rip))
            {
                return Ok(());
            }
            let signal = match stop {
                Stop::Ended(_) => return Err(Error::Gone(self.pid)),
                Stop::Signal(signal) => signal,
                _ => 0,
            };
            ptrace::resume(tid, signal)
                .map_err(|error| Error::thread(tid, "running it to its entry point", error))?;
        }
    }
}
