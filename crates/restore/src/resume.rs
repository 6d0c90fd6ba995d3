//! The last steps: the stub goes, final registers come, the tree is let go.
//!
//! Before [`commit`] everything dies with the builder. Within it, until the keeper has its message, the keeper ends
//! when the builder does and takes the whole pid namespace with it; without such a namespace it ends all that is below it first. After it the tree runs, or, where the builder
//! was killed before it let go of all, the kernel lets go of the rest; every thread has its true state.
//!
//! What cannot be closed: of a builder that is killed between its first task's independence and the byte (some microseconds;
//! the client's end does not do it), the tasks may run until the kernel ends them. That is a restored program that is
//! killed as soon as it runs, and nothing else: all its threads have their true state, each is ended, none is left, and
//! what moves a program has ended it at the source before. The kernel closes a builder's descriptors, by which the keeper
//! wakes and ends all, before it lets go of its tracees (`do_exit`: `exit_files` and `exit_task_work` come before
//! `exit_notify`), so that mostly no instruction is run. To hold the tasks through that moment would need a stop that the
//! program or its parent can see (SIGSTOP and SIGCONT), or code of ours in it that it goes through.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use brant_base::{Addr, Pid, fault};
use brant_image::model::{ProcessBody, QueuedSignal, Thread, XstateComponent};
use brant_kernel::facts;
use brant_kernel::ptrace::UserRegisters;
use brant_kernel::remote::Puppet;
use brant_kernel::thread;

use crate::Error;
use crate::build::signals::action_bytes;
use crate::build::threads::{adapt_xstate, find_call};
use crate::build::vdso::Gap;
use crate::builder::go_message;
use crate::numbers::Numbers;

/// A process whose threads all exist, in the order of the image (a main thread that has ended is not among them).
pub(crate) struct Ready<'i> {
    pub(crate) pid: Pid,
    pub(crate) body: &'i ProcessBody,
    pub(crate) threads: Vec<(Puppet, &'i Thread, UserRegisters)>,
    /// A `syscall` instruction that stays.
    pub(crate) call_at: Option<Addr>,
}

const MASK_BYTES: u64 = 8;

impl Ready<'_> {
    /// Unmaps the stub and sets the true state of every thread.
    pub(crate) fn finish(
        &mut self,
        gap: &Gap,
        (layout, numbers): (&[XstateComponent], &Numbers),
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let pid = self.pid;
        let call_at = self.call_at.or_else(|| find_call(&self.threads[0].0, self.body));
        match call_at {
            Some(at) => self.leave_stub(gap, at, numbers)?,
            None => warnings.push(format!(
                "process {pid}: none of its code makes a system call; {} bytes of brant stay mapped",
                gap.stub.range.bytes()
            )),
        }
        let failed = || Error::remote(pid, "setting its final state");
        let own_layout = facts::xstate_layout();
        for (puppet, thread, registers) in &mut self.threads {
            if !thread.xstate.0.is_empty() {
                let host = puppet.xstate().map_err(failed())?;
                puppet
                    .set_xstate(&adapt_xstate((&thread.xstate.0, layout), (&host, &own_layout)))
                    .map_err(failed())?;
            }
            puppet.set_final_registers(registers).map_err(failed())?;
            puppet.set_mask(thread.signal_mask).map_err(failed())?;
        }
        Ok(())
    }

    /// What needs the stub's SIGTRAP or the stub itself no longer: all by calls at the program's own instruction.
    fn leave_stub(&mut self, gap: &Gap, at: Addr, numbers: &Numbers) -> Result<(), Error> {
        let pid = self.pid;
        let process = numbers.of(pid)?;
        let failed = || Error::remote(pid, "leaving the stub");
        let trap = libc::SIGTRAP;
        let room = gap.stub.data().start();
        let (puppet, thread, _) = self.threads.last_mut().expect("a process has a thread");
        if let Some(action) = self.body.actions.get(trap as usize - 1) {
            puppet.write_memory(room, &action_bytes(action)).map_err(failed())?;
            let arguments = [trap as u64, room.0, 0, MASK_BYTES];
            puppet.call_at(at, libc::SYS_rt_sigaction, &arguments).map_err(failed())?;
        }
        for signal in self.body.pending.iter().filter(|signal| signal.signal == trap) {
            puppet.write_memory(room, &signal.info.0).map_err(failed())?;
            let arguments = [process.0 as u64, signal.signal as u64, room.0];
            puppet.call_at(at, libc::SYS_rt_sigqueueinfo, &arguments).map_err(failed())?;
        }
        for signal in thread.pending.iter().filter(|signal| signal.signal == trap) {
            let own = (process, numbers.of(Pid(thread.tid.0))?);
            queue_trap(puppet, own, at, room, signal).map_err(failed())?;
        }
        let arguments = [gap.stub.range.start().0, gap.stub.range.bytes()];
        puppet.call_at(at, libc::SYS_munmap, &arguments).map(drop).map_err(failed())
    }
}

fn queue_trap(
    puppet: &mut Puppet,
    (process, thread): (Pid, Pid),
    at: Addr,
    room: Addr,
    signal: &QueuedSignal,
) -> Result<(), brant_kernel::remote::RemoteError> {
    puppet.write_memory(room, &signal.info.0)?;
    let arguments = [process.0 as u64, thread.0 as u64, signal.signal as u64, room.0];
    puppet.call_at(at, libc::SYS_rt_tgsigqueueinfo, &arguments).map(drop)
}

/// Makes the tree independent of us, tells the keeper, and lets go of everything.
pub(crate) fn commit(
    ready: Vec<Ready<'_>>,
    stand_ins: BTreeMap<Pid, Puppet>,
    root: Pid,
    go: File,
) -> Result<(), Error> {
    let told = make_independent(&ready, &stand_ins, root, go);
    if told.is_err() {
        // Without a namespace nobody else ends those that would outlive us already.
        let threads = ready.iter().flat_map(|process| process.threads.iter().map(|(puppet, ..)| puppet));
        for puppet in threads.chain(stand_ins.values()) {
            let _ = thread::kill(Pid(puppet.tid().0));
        }
        return told;
    }
    // From here on the tree lives; what cannot be let go of is let go of by our end.
    for puppet in stand_ins.into_values() {
        let _ = puppet.release();
    }
    for process in ready {
        for (puppet, ..) in process.threads {
            let _ = puppet.release();
            fault::reach("restore.half-released");
        }
    }
    fault::reach("restore.released");
    Ok(())
}

/// The commit. First every task is made to outlive us, then the keeper is told to go on alone; if we end before that word, it ends, and all with it.
fn make_independent(
    ready: &[Ready<'_>],
    stand_ins: &BTreeMap<Pid, Puppet>,
    root: Pid,
    mut go: File,
) -> Result<(), Error> {
    let tasks = || {
        let threads = ready.iter().flat_map(|process| process.threads.iter().map(|(puppet, ..)| puppet));
        threads.chain(stand_ins.values())
    };
    for puppet in tasks() {
        puppet.survive().map_err(Error::remote(Pid(puppet.tid().0), "letting it outlive us"))?;
        fault::reach("restore.half-independent");
    }
    fault::reach("restore.independent");
    go.write_all(&go_message(root)).map_err(|_| Error::KeeperEnded)?;
    fault::reach("restore.told-keeper");
    Ok(())
}
