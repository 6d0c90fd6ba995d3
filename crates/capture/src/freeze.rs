//! Freezing a tree and letting it go on.
//!
//! State of the target: a frozen thread is in a ptrace stop with its own registers. If brant is killed, the kernel
//! detaches every thread and each goes on; one in a job-control stop stays in it. [`Frozen::thaw`] does the same in
//! order, and so does dropping it. A call that our stop alone ended with EINTR is made again.

use std::collections::BTreeMap;
use std::time::Duration;

use brant_base::{Addr, Pid, Refusals, Tid, fault};
use brant_kernel::ending::{self, Mortal};
use brant_kernel::patience::Patience;
use brant_kernel::proc;
use brant_kernel::ptrace::{self, Options, Sentinel, Stop, UserRegisters, Waiter};
use brant_kernel::remote::Memory;
use brant_kernel::sleep::{self, Sleep};

use crate::error::Error;
use crate::preflight;
use crate::tree::{self, Member};

/// A whole tree, stopped.
pub(crate) struct Frozen {
    pub(crate) processes: Vec<FrozenProcess>,
    tracees: Tracees,
}

/// One process, all of whose threads are stopped; a zombie has none.
pub(crate) struct FrozenProcess {
    pub(crate) member: Member,
    /// The main thread first, where it is alive; the others by number.
    pub(crate) threads: Vec<FrozenThread>,
    /// The main thread has ended, others go on.
    pub(crate) leader_exited: bool,
}

pub(crate) struct FrozenThread {
    /// Its number in our pid namespace.
    pub(crate) host: Tid,
    /// As it goes on with them: a call that our stop alone has ended is put back to be made again.
    pub(crate) registers: UserRegisters,
    /// As they were when it stopped.
    pub(crate) at_stop: UserRegisters,
    pub(crate) mask: u64,
    /// The signal of a job-control stop that it was in.
    pub(crate) stopped_by: Option<i32>,
    /// The timed call that it slept in when it was stopped.
    pub(crate) sleep: Option<Sleep>,
}

/// How long one round waits for every thread to stop. A process in vfork cannot stop while its child lives in it, so
/// the others run for a moment after a round, and another one begins. Where all that do not stop only wait for a processor, that
/// would keep them from it, and the round goes on.
const ROUND_TIMEOUT: Duration = Duration::from_millis(300);
const ROUND_MORE: Duration = Duration::from_millis(30);
const ROUND_PAUSE: Duration = Duration::from_millis(20);
/// A thread that executes another program, or has just been let go by somebody, cannot be seized for a moment.
const SEIZE_TIMEOUT: Duration = Duration::from_secs(1);
const SEIZE_PAUSE: Duration = Duration::from_millis(2);
/// After this a thread that has not stopped is looked up: it may have ended.
const PATIENCE: Duration = Duration::from_millis(10);
/// How long freezing stays with one thread that would notice its stop.
const NOTICED_STOP_TIMEOUT: Duration = Duration::from_millis(2);
const POLL_PAUSE: Duration = Duration::from_micros(20);
/// How long a killed tree may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long letting go waits for a thread that is neither stopped nor ended.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// Stops every thread of every process that descends from `roots` (host numbers). `is_passing`: whether somebody else is about to
/// change one of them, who may wait for us as we do for what they have in hand.
pub(crate) fn freeze(
    roots: &[Pid],
    freeze_timeout: Duration,
    is_passing: &dyn Fn() -> bool,
) -> Result<Frozen, Error> {
    let waiter = Waiter::new().map_err(Error::Waiter)?;
    let patience = Patience::new(freeze_timeout);
    let tracees = Tracees { waiter, patience, threads: BTreeMap::new(), sentinel: Sentinel::start() };
    freeze_rest(roots, freeze_timeout, is_passing, tracees)
}

/// Stops what runs beside the tracees that stand.
fn freeze_rest(
    roots: &[Pid],
    freeze_timeout: Duration,
    is_passing: &dyn Fn() -> bool,
    mut tracees: Tracees,
) -> Result<Frozen, Error> {
    let give_up = |stuck| Error::DoesNotStop { tid: stuck, timeout: freeze_timeout, place: wchan(stuck) };
    loop {
        let mut members = tree::discover(roots);
        if tracees.seize_new(&members)? == 0 && tracees.recheck() && tracees.running().next().is_none() {
            return Frozen::gather(members, tracees);
        }
        if tracees.patience.is_over() {
            // It grows faster than it can be stopped.
            return Err(give_up(roots[0].into()));
        }
        while let Err(stuck) = tracees.stop_all(ROUND_TIMEOUT)? {
            if tracees.patience.is_over() {
                return Err(give_up(stuck));
            }
            if is_passing() {
                return Err(Error::Passing(roots[0]));
            }
            tracees.run_for(ROUND_PAUSE, |_| true)?;
            members = tree::discover(roots);
            tracees.seize_new(&members)?;
        }
    }
}

/// Whether a thread will stop as soon as it gets a processor: it hangs in nothing.
fn waits_for_processor(tid: Tid) -> bool {
    proc::stat((Pid(tid.0), tid)).is_ok_and(|stat| stat.state == b'R')
}

/// Where in the kernel a thread hangs, for people.
fn wchan(tid: Tid) -> String {
    let text = std::fs::read_to_string(format!("/proc/{tid}/wchan")).unwrap_or_default();
    if text.is_empty() || text == "0" { "an unknown place".to_owned() } else { text }
}

#[derive(Debug, Clone, Copy, Default)]
struct Tracee {
    /// `None` while it runs.
    stop: Option<Stop>,
    /// A main thread that has ended, whose process goes on: nothing reports that. By an exec of another thread its number
    /// can come back to life.
    ended: bool,
    at_stop: UserRegisters,
    registers: UserRegisters,
    interrupted: bool,
    sleep: Option<Sleep>,
}

/// Every thread that we hold. Dropping lets all of them go.
struct Tracees {
    waiter: Waiter,
    /// For all to stand still; asked at every look.
    patience: Patience,
    threads: BTreeMap<Tid, Tracee>,
    sentinel: Sentinel,
}

impl Tracee {
    /// A call that our stop has ended with EINTR is put back at once: from here on the thread makes it again even if
    /// we are killed.
    fn note_stop(&mut self, tid: Tid, stop: Stop) {
        let Ok(registers) = ptrace::registers(tid) else { return };
        self.sleep = self.sleep.map(|sleep| sleep.at_stop(tid));
        let again = sleep::call_again(tid, &registers, self.sleep);
        if let Some(again) = &again
            && ptrace::set_registers(tid, again).is_err()
        {
            return;
        }
        self.ended = false;
        self.at_stop = registers;
        self.registers = again.unwrap_or(registers);
        self.stop = Some(stop);
    }
}

impl Tracees {
    /// Seizes the threads that are not held yet; none stops by that. Returns how many there were.
    fn seize_new(&mut self, members: &[Member]) -> Result<usize, Error> {
        let mut new = 0;
        for member in members.iter().filter(|member| !member.zombie) {
            for tid in proc::tasks(member.host).unwrap_or_default() {
                let is_new = match self.threads.get(&tid) {
                    None => self.seize(member.host, tid)?,
                    Some(tracee) => tracee.ended && self.revive(member.host, tid)?,
                };
                new += usize::from(is_new);
            }
        }
        Ok(new)
    }

    /// Takes one thread, which may be ending, or just come into being, or traced by somebody else. Tells whether
    /// there was one to take.
    fn seize(&mut self, process: Pid, tid: Tid) -> Result<bool, Error> {
        let sleep = sleep::measure(process, tid);
        let _stuck_is_freed = self.sentinel.watch();
        let mut moment = Patience::new(SEIZE_TIMEOUT);
        loop {
            let error = match ptrace::seize(tid, Options::default()) {
                Ok(()) => {
                    self.hold(tid, sleep);
                    return Ok(true);
                }
                Err(_) if tree::thread_ended(process, tid) => return Ok(false),
                Err(error) => error,
            };
            // One that is on its way out need not be held, but it has descriptors yet: it is waited for.
            if tree::thread_ends(process, tid) && !self.patience.is_over() {
                std::thread::sleep(SEIZE_PAUSE);
                continue;
            }
            if moment.is_over() {
                return Err(Error::Seize { tid, error });
            }
            match proc::status((process, tid)) {
                // An exec has given it the number of a main thread.
                Ok(status) if preflight::is_own_thread(status.tracer) => {
                    self.hold(tid, None);
                    return Ok(true);
                }
                // Somebody else was quicker.
                Ok(status) if status.tracer != Pid(0) => {
                    return Err(Error::Refused(Refusals(vec![preflight::traced(process, status.tracer)])));
                }
                _ => std::thread::sleep(SEIZE_PAUSE),
            }
        }
    }

    fn hold(&mut self, tid: Tid, sleep: Option<Sleep>) {
        self.threads.insert(tid, Tracee { sleep, ..Tracee::default() });
        self.sentinel.add(tid);
    }

    /// Takes hold of the thread that has got the number of a main thread that had ended, by an exec. It may be one that we
    /// held under its old number.
    fn revive(&mut self, process: Pid, tid: Tid) -> Result<bool, Error> {
        if tree::thread_ended(process, tid) {
            return Ok(false);
        }
        self.threads.insert(tid, Tracee::default());
        self.interrupt(tid);
        if !self.threads[&tid].interrupted {
            self.threads.remove(&tid);
            return self.seize(process, tid);
        }
        Ok(true)
    }

    fn interrupt(&mut self, tid: Tid) {
        if let Some(tracee) = self.threads.get_mut(&tid) {
            // Fails only where it has ended, which the next poll shows.
            tracee.interrupted = ptrace::interrupt(tid).is_ok();
        }
    }

    /// Waits until all are stopped, or names one that was not within `timeout`.
    fn stop_all(&mut self, timeout: Duration) -> Result<Result<(), Tid>, Error> {
        let running: Vec<Tid> = self.running().collect();
        for tid in running {
            if self.threads.get(&tid).is_some_and(|tracee| !tracee.interrupted) {
                let is_noticed = sleep::would_notice_stop(tid);
                self.interrupt(tid);
                if is_noticed {
                    self.await_stop(tid)?;
                }
            }
        }
        let (mut round, mut at_once) = (Patience::new(timeout), Patience::new(PATIENCE));
        loop {
            self.poll()?;
            let Some(stuck) = self.running().next() else { return Ok(Ok(())) };
            let is_over = self.patience.is_over();
            if round.is_over() {
                if is_over || !self.running().all(waits_for_processor) {
                    return Ok(Err(stuck));
                }
                round = Patience::new(ROUND_MORE);
            }
            if at_once.is_over() {
                self.recheck();
                self.note_ended();
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// Stays with one thread whose call a stop ends with EINTR: as long as that is not put back, our own end would let the
    /// program see it.
    fn await_stop(&mut self, tid: Tid) -> Result<(), Error> {
        let mut patience = Patience::new(NOTICED_STOP_TIMEOUT);
        while self.threads.get(&tid).is_some_and(|tracee| tracee.stop.is_none()) && !patience.is_over() {
            self.poll_thread(tid)?;
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Takes note of main threads that have ended.
    fn note_ended(&mut self) {
        for (tid, tracee) in self.threads.iter_mut().filter(|(_, tracee)| tracee.stop.is_none()) {
            let is_main = || proc::status(Pid(tid.0)).is_ok_and(|status| status.tgid.0 == tid.0);
            tracee.ended = tree::thread_ended(Pid(tid.0), *tid) && is_main();
        }
    }

    /// Whether all that are held as stopped still are. A stopped thread can end, and by an exec of another thread a new
    /// main thread can take its number: what is no longer as it was counts as running, and is stopped again.
    fn recheck(&mut self) -> bool {
        let mut same = true;
        for (tid, tracee) in &mut self.threads {
            if tracee.stop.is_some() && ptrace::registers(*tid).is_err() {
                *tracee = Tracee::default();
                same = false;
            }
        }
        same
    }

    fn running(&self) -> impl Iterator<Item = Tid> {
        let runs = |tracee: &Tracee| tracee.stop.is_none() && !tracee.ended;
        self.threads.iter().filter(move |(_, tracee)| runs(tracee)).map(|(tid, _)| *tid)
    }

    /// Takes note of every stop that has been reported. A signal is passed on; its handler's frame is built before the
    /// interrupt stops the thread.
    fn poll(&mut self) -> Result<(), Error> {
        let unstopped = self.threads.iter().filter(|(_, tracee)| tracee.stop.is_none());
        let unstopped: Vec<Tid> = unstopped.map(|(tid, _)| *tid).collect();
        unstopped.into_iter().try_for_each(|tid| self.poll_thread(tid))
    }

    fn poll_thread(&mut self, tid: Tid) -> Result<(), Error> {
        match self.waiter.poll(tid) {
            Ok(None) => {}
            Ok(Some(stop @ (Stop::Interrupt | Stop::Group(_)))) => {
                self.threads.get_mut(&tid).expect("held").note_stop(tid, stop);
            }
            Ok(Some(Stop::Ended(_))) | Err(_) => drop(self.threads.remove(&tid)),
            Ok(Some(Stop::Signal(signal))) => drop(ptrace::resume(tid, signal)),
            Ok(Some(_)) => drop(ptrace::resume(tid, 0)),
        }
        Ok(())
    }

    /// Lets those of the stopped ones run for a moment that are to, but none that job control has stopped.
    fn run_for(&mut self, pause: Duration, is_to: impl Fn(Tid) -> bool) -> Result<(), Error> {
        for (tid, tracee) in &mut self.threads {
            let may = tracee.stop == Some(Stop::Interrupt) && is_to(*tid);
            if may && ptrace::resume(*tid, 0).is_ok() {
                *tracee = Tracee::default();
            }
        }
        let mut moment = Patience::new(pause);
        while !moment.is_over() {
            self.patience.is_over();
            self.poll()?;
            std::thread::sleep(POLL_PAUSE);
        }
        Ok(())
    }

    /// Lets go of all. Only a stopped thread can be let go, so one that runs is waited for; where it does not stop in
    /// time (it hangs in the kernel), the kernel lets it go when we end.
    fn release(&mut self) {
        let mut patience = Patience::new(RELEASE_TIMEOUT);
        self.threads.retain(|_, tracee| !tracee.ended);
        while !self.threads.is_empty() {
            self.threads.retain(|tid, tracee| tracee.stop.is_none() || ptrace::detach(*tid, 0).is_err());
            if self.poll().is_err() || patience.is_over() {
                break;
            }
            self.threads.retain(|tid, tracee| tracee.stop.is_none() || ptrace::detach(*tid, 0).is_err());
            if !self.threads.is_empty() {
                std::thread::sleep(POLL_PAUSE);
            }
        }
        self.threads.clear();
    }
}

impl Tracees {
    /// Waits for the end of all, which were killed.
    fn reap(&mut self, timeout: Duration) {
        let mut patience = Patience::new(timeout);
        while !self.threads.is_empty() && !patience.is_over() {
            self.threads.values_mut().for_each(|tracee| tracee.stop = None);
            if self.poll().is_err() {
                return;
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }
}

impl Drop for Tracees {
    fn drop(&mut self) {
        self.release();
    }
}

impl Frozen {
    /// The processes as they stand, with their threads; those that were reaped meanwhile are left out.
    fn gather(members: Vec<Member>, tracees: Tracees) -> Result<Frozen, Error> {
        let mut processes = Vec::with_capacity(members.len());
        for member in members {
            let mut threads = Vec::new();
            for tid in proc::tasks(member.host).unwrap_or_default() {
                if let Some(tracee) = tracees.threads.get(&tid).filter(|tracee| tracee.stop.is_some()) {
                    threads.push(FrozenThread::read(tid, tracee)?);
                }
            }
            let zombie = threads.is_empty();
            // Reaped since it was listed: its parent wants to know nothing of its children.
            if zombie && tree::member(member.host).is_none() {
                continue;
            }
            let leader_exited = !zombie && threads.iter().all(|thread| thread.host != member.host.into());
            abort_sequences(&member, &mut threads)?;
            threads.sort_by_key(|thread| (thread.host != member.host.into(), thread.host));
            processes.push(FrozenProcess { member: Member { zombie, ..member }, threads, leader_exited });
        }
        Ok(Frozen { processes, tracees })
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        self.processes.iter().map(|process| process.member.clone()).collect()
    }

    /// The numbers of the processes here.
    pub(crate) fn hosts(&self) -> Vec<Pid> {
        self.processes.iter().map(|process| process.member.host).collect()
    }

    /// What waits for our tracees.
    pub(crate) fn waiter(&self) -> &Waiter {
        &self.tracees.waiter
    }

    /// Lets some threads run for a moment while all others stand, and stops them again, with all that has come into being
    /// meanwhile. After an error the tree goes on.
    pub(crate) fn run_some(
        mut self,
        roots: &[Pid],
        threads: &[Tid],
        pause: Duration,
        freeze_timeout: Duration,
        is_passing: &dyn Fn() -> bool,
    ) -> Result<Frozen, Error> {
        self.tracees.patience = Patience::new(freeze_timeout);
        self.tracees.run_for(pause, |tid| threads.contains(&tid))?;
        freeze_rest(roots, freeze_timeout, is_passing, self.tracees)
    }

    /// Lets everything go on where it was.
    pub(crate) fn thaw(self) {
        drop(self);
    }

    /// Ends every process of the tree. From here on it lives in its image only. Returns when all have ended; after an error
    /// none has been ended, and the tree goes on.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        let failed = |pid: Pid| move |error| Error::Thread { tid: pid.into(), operation: "ending", error };
        let mut living = Vec::new();
        for process in self.processes.iter().filter(|process| !process.member.zombie) {
            let pid = process.member.host;
            let Some(thread) = process.threads.first() else { continue };
            living.push(Mortal::new(pid, thread.host, thread.stopped_by.is_some()).map_err(failed(pid))?);
        }
        fault::reach("capture.before-end");
        ending::end_together(&living).map_err(failed(self.processes[0].member.host))?;
        // From here on nothing is an error: the tree is gone.
        fault::reach("capture.ending");
        self.tracees.reap(END_TIMEOUT);
        fault::reach("capture.ended");
        Ok(())
    }
}

/// Sends threads that were stopped inside a restartable sequence to its abort handler, as the kernel does for any
/// thread that was interrupted there: foreign instructions would make it forget.
fn abort_sequences(member: &Member, threads: &mut [FrozenThread]) -> Result<(), Error> {
    if threads.is_empty() {
        return Ok(());
    }
    let failed = |error| Error::Memory { pid: member.host, error };
    let memory = Memory::open(member.task()).map_err(failed)?;
    for thread in threads {
        let area = ptrace::rseq_configuration(thread.host).unwrap_or_default().area;
        if area == 0 {
            continue;
        }
        let bytes = memory.read_value::<[u8; 32]>(Addr(area)).map_err(failed)?;
        let section = |at| memory.read_value::<[u8; 32]>(Addr(at)).ok();
        if let Some(abort) = ptrace::in_rseq_section(&bytes, section, thread.registers.rip) {
            thread.registers.rip = abort;
            thread.at_stop.rip = abort;
        }
    }
    Ok(())
}

impl FrozenThread {
    /// A thread's registers and signal mask, and whether a signal had stopped it before us.
    fn read(tid: Tid, tracee: &Tracee) -> Result<FrozenThread, Error> {
        let failed = |error| Error::Thread { tid, operation: "reading its signal mask", error };
        let stopped_by = match tracee.stop {
            Some(Stop::Group(signal)) => Some(signal),
            _ => None,
        };
        Ok(FrozenThread {
            host: tid,
            registers: tracee.registers,
            at_stop: tracee.at_stop,
            mask: ptrace::signal_mask(tid).map_err(failed)?,
            stopped_by,
            sleep: tracee.sleep,
        })
    }
}
