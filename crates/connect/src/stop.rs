//! Stopping threads of one process, all or some, and letting them go.
//!
//! State of the target: a stopped thread is in a ptrace stop with its own registers, a call that our stop alone has ended
//! being put back. Dropping what holds them lets them go; if brant is killed, the kernel does. One in a job-control stop
//! stays in it.
//!
//! A program stands still for as short as may be: a thread that is seized runs on (ptrace(2)), so all are seized and looked
//! at first, then all are asked to stop, and only then is any waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use brant_base::{Addr, Pid, Tid};
use brant_kernel::patience::Patience;
use brant_kernel::proc;
use brant_kernel::ptrace::{self, Options, Sentinel, Stop, Waiter};
use brant_kernel::remote::{HandThread, Memory};
use brant_kernel::sleep::{self, Sleep};

use crate::error::Error;

/// How long all threads together may take to stop: a thread that could run must come to a processor for that. One in vfork
/// does not stop before its child has executed a program.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a thread of ours may take from its last instruction to its end.
const END_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TRIES: u32 = 10;
const SEIZE_TRIES: u32 = 50;
/// How often new threads are looked for before the others are asked to stop.
const SEIZE_PASSES: u32 = 4;
const SEIZE_PAUSE: Duration = Duration::from_millis(2);
/// Who has slept begins a new turn on its processor. In the rest of an old one it would be put off by a busy program in the middle of asking
/// its threads to stop: some of them would stand, and the others run for a turn of their own each.
const FRESH_TURN: Duration = Duration::from_micros(200);
const POLL_PAUSE: Duration = Duration::from_micros(20);

/// Acts while every thread of a process but those in `but` stands still, and tells for how long they did.
///
/// They are held by a thread of ours that then ends: the kernel lets all of them go at once. Let go one by one, the first ones
/// would take the processor from us that the last ones wait for.
pub(crate) fn while_stopped<T: Send>(
    pid: Pid,
    but: &[Tid],
    act: impl FnOnce(&mut Held<'_>) -> Result<T, Error> + Send,
) -> Result<(T, Duration), Error> {
    let stand_still = || -> Result<(T, Duration), Error> {
        let waiter = crate::waiter(pid)?;
        let mut held = Held::none(&waiter, pid);
        held.stop_all(but)?;
        let done = act(&mut held)?;
        Ok((done, held.leave()))
    };
    by_thread_that_ends(stand_still)
}

/// Acts in a thread of ours. When it has ended, the kernel has let go of every thread that it held, also of those that did not come to
/// a stop in time and so could not be let go: they would come to it later, and stand there for as long as the one that holds them
/// lives.
pub(crate) fn by_thread_that_ends<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let holder = scope.spawn(move || (nix::unistd::gettid(), act()));
        let (tid, done) = holder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // It is joined a moment before the kernel lets go of what it traces, and gone a moment after that.
        let own = format!("/proc/self/task/{tid}");
        let mut patience = Patience::new(END_TIMEOUT);
        while std::path::Path::new(&own).exists() && !patience.is_over() {
            std::thread::yield_now();
        }
        done
    })
}

/// Threads of one process that we hold.
pub(crate) struct Held<'w> {
    waiter: &'w Waiter,
    pid: Pid,
    threads: BTreeMap<Tid, Thread>,
    /// Where more than one thread is held.
    sentinel: Option<Sentinel>,
    /// When the first of them was asked to stop, or there turned out to be none.
    since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Thread {
    /// `None` while it runs.
    stopped: Option<HandThread>,
    is_asked: bool,
    /// The call that it slept in before it was stopped, where a stop alone would end that, and when that was looked at.
    sleep: Option<(Sleep, Instant)>,
}

impl<'w> Held<'w> {
    pub(crate) fn none(waiter: &'w Waiter, pid: Pid) -> Held<'w> {
        Held { waiter, pid, threads: BTreeMap::new(), sentinel: None, since: None }
    }

    /// Stops one thread; `None` where it has ended.
    pub(crate) fn stop_one(&mut self, tid: Tid) -> Result<Option<HandThread>, Error> {
        if !self.seize(tid)? {
            return Ok(None);
        }
        self.ask_to_stop();
        let mut patience = Patience::new(STOP_TIMEOUT);
        loop {
            self.poll(tid)?;
            match self.threads.get(&tid) {
                None => return Ok(None),
                Some(Thread { stopped: Some(stopped), .. }) => return Ok(Some(*stopped)),
                Some(_) if patience.is_over() => return Err(Error::DoesNotStop(tid)),
                Some(_) => std::thread::sleep(POLL_PAUSE),
            }
        }
    }

    /// Stops every thread of the process but those in `but`, which somebody else of us holds stopped.
    pub(crate) fn stop_all(&mut self, but: &[Tid]) -> Result<(), Error> {
        for _ in 0..STOP_TRIES {
            if self.try_to_stop_all(but)? {
                return Ok(());
            }
            // A process in vfork runs on when its child has executed a program, which another thread may hold up.
            self.release();
            std::thread::sleep(SEIZE_PAUSE);
        }
        Err(Error::DoesNotStop(Tid(self.pid.0)))
    }

    /// From now on, who executes a program does not wait for us in vain.
    fn watch(&mut self, others: &[Tid]) {
        let sentinel = Sentinel::start();
        self.threads.keys().chain(others).for_each(|tid| sentinel.add(*tid));
        self.sentinel = Some(sentinel);
    }

    fn try_to_stop_all(&mut self, but: &[Tid]) -> Result<bool, Error> {
        let mut patience = Patience::new(STOP_TIMEOUT);
        loop {
            let mut is_all = true;
            // While nothing stands still, those that come meanwhile cost the program nothing.
            for _ in 0..SEIZE_PASSES {
                if !self.seize_new(but)? {
                    break;
                }
                is_all = false;
            }
            self.ask_to_stop();
            if is_all {
                return Ok(true);
            }
            loop {
                let running: Vec<Tid> = self.running().collect();
                running.iter().try_for_each(|tid| self.poll(*tid))?;
                if self.running().next().is_none() {
                    break;
                }
                if patience.is_over() {
                    return Ok(false);
                }
                std::thread::sleep(POLL_PAUSE);
            }
        }
    }

    /// Seizes the threads that are not held yet; tells whether there are any.
    fn seize_new(&mut self, but: &[Tid]) -> Result<bool, Error> {
        let mut is_any = false;
        for tid in proc::tasks(self.pid).map_err(|error| Error::looking(self.pid, error))? {
            if but.contains(&tid) || self.threads.contains_key(&tid) {
                continue;
            }
            if self.sentinel.is_none() && !but.is_empty() {
                self.watch(but);
            }
            is_any |= self.seize(tid)?;
        }
        Ok(is_any)
    }

    /// Asks all threads to stop that have not been asked.
    fn ask_to_stop(&mut self) {
        for (tid, thread) in self.threads.iter_mut().filter(|(_, thread)| !thread.is_asked) {
            let looks = sleep::would_notice_stop(*tid);
            thread.sleep =
                looks.then(|| sleep::measure(self.pid, *tid)).flatten().map(|it| (it, Instant::now()));
        }
        if self.since.is_none() && self.threads.len() > 1 {
            std::thread::sleep(FRESH_TURN);
        }
        self.since.get_or_insert_with(Instant::now);
        for (tid, thread) in self.threads.iter_mut().filter(|(_, thread)| !thread.is_asked) {
            // Fails where it has ended, which the next poll shows.
            let _ = ptrace::interrupt(*tid);
            thread.is_asked = true;
            if let Some((sleep, looked_at)) = &mut thread.sleep {
                sleep.elapsed += looked_at.elapsed();
            }
        }
    }

    /// Leaves the threads to the end of the calling thread, which comes next. Tells for how long the first has been stopped.
    fn leave(mut self) -> Duration {
        self.threads.clear();
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn running(&self) -> impl Iterator<Item = Tid> {
        self.threads.iter().filter(|(_, thread)| thread.stopped.is_none()).map(|(tid, _)| *tid)
    }

    /// Seizes a thread, which runs on. Tells whether it is there: one on its way out executes nothing of the program any more, and may
    /// need long for the rest where processors are busy.
    fn seize(&mut self, tid: Tid) -> Result<bool, Error> {
        if self.sentinel.is_none() && !self.threads.is_empty() {
            self.watch(&[]);
        }
        let _stuck_is_freed = self.sentinel.as_ref().map(Sentinel::watch);
        let mut tries_left = SEIZE_TRIES;
        while let Err(error) = ptrace::seize(tid, Options::default()) {
            let Ok(status) = proc::status((self.pid, tid)) else { return Ok(false) };
            if proc::stat((self.pid, tid)).map_or(true, |stat| stat.is_ending()) {
                return Ok(false);
            }
            // It did not stop before, and so could not be let go.
            if status.tracer.0 == nix::unistd::gettid().as_raw() {
                break;
            }
            if status.tracer != Pid(0) {
                return Err(Error::Traced { pid: self.pid, tracer: status.tracer });
            }
            if tries_left == 0 {
                return Err(Error::NotAllowed(self.pid, error));
            }
            tries_left -= 1;
            std::thread::sleep(SEIZE_PAUSE);
        }
        self.threads.insert(tid, Thread { stopped: None, is_asked: false, sleep: None });
        if let Some(sentinel) = &self.sentinel {
            sentinel.add(tid);
        }
        Ok(true)
    }

    fn poll(&mut self, tid: Tid) -> Result<(), Error> {
        match self.waiter.poll(tid) {
            Ok(None) => {}
            Ok(Some(Stop::Interrupt | Stop::Group(_))) => self.note_stop(tid)?,
            Ok(Some(Stop::Ended(_))) | Err(_) => drop(self.threads.remove(&tid)),
            Ok(Some(Stop::Signal(signal))) => drop(ptrace::resume(tid, signal)),
            Ok(Some(_)) => drop(ptrace::resume(tid, 0)),
        }
        Ok(())
    }

    /// Reads the state of a thread that has stopped; a call that our stop has ended is put back at once.
    fn note_stop(&mut self, tid: Tid) -> Result<(), Error> {
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let (Ok(registers), Ok(mask)) = (ptrace::registers(tid), ptrace::signal_mask(tid)) else {
            return Ok(());
        };
        let sleep = thread.sleep.map(|(sleep, _)| sleep.at_stop(tid));
        let again = sleep::call_again(tid, &registers, sleep);
        if let Some(again) = &again {
            ptrace::set_registers(tid, again)
                .map_err(|error| Error::thread(tid, "putting its call back", error))?;
        }
        thread.stopped = Some(HandThread { tid, registers: again.unwrap_or(registers), mask });
        Ok(())
    }

    /// The stopped threads.
    pub(crate) fn threads(&self) -> impl Iterator<Item = HandThread> {
        self.threads.values().filter_map(|thread| thread.stopped)
    }

    /// One that was stopped was let run, and does not stand where it stood.
    pub(crate) fn is_running_again(&mut self, tid: Tid) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            *thread = Thread { stopped: None, is_asked: false, sleep: None };
        }
    }

    /// Lets a stopped thread go on somewhere else.
    pub(crate) fn move_to(&mut self, tid: Tid, rip: u64) -> Result<(), Error> {
        let Some(stopped) = self.threads.get_mut(&tid).and_then(|thread| thread.stopped.as_mut()) else {
            return Ok(());
        };
        stopped.registers.rip = rip;
        ptrace::set_registers(tid, &stopped.registers).map_err(|error| Error::thread(tid, "moving it", error))
    }

    /// Lets all of them go.
    pub(crate) fn release(&mut self) {
        // Who was seized only cannot be let go before it stops.
        self.ask_to_stop();
        let mut patience = Patience::new(STOP_TIMEOUT);
        loop {
            self.threads.retain(|tid, thread| thread.stopped.is_none() || ptrace::detach(*tid, 0).is_err());
            let left: Vec<Tid> = self.threads.keys().copied().collect();
            if left.is_empty() || patience.is_over() {
                break;
            }
            for tid in left {
                match self.threads.get(&tid).is_some_and(|thread| thread.stopped.is_some()) {
                    // It could not be let go: it has ended.
                    true => drop(self.threads.remove(&tid)),
                    false => drop(self.poll(tid)),
                }
            }
            std::thread::sleep(POLL_PAUSE);
        }
        self.threads.clear();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Whether a stopped thread is in a restartable sequence, which a foreign instruction would break.
pub(crate) fn is_in_sequence(memory: &Memory, thread: &HandThread) -> bool {
    let area = ptrace::rseq_configuration(thread.tid).unwrap_or_default().area;
    if area == 0 {
        return false;
    }
    let Ok(bytes) = memory.read_value::<[u8; 32]>(Addr(area)) else { return true };
    let section = |at| memory.read_value::<[u8; 32]>(Addr(at)).ok();
    ptrace::in_rseq_section(&bytes, section, thread.registers.rip).is_some()
}
