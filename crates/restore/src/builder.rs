//! The builder: the phases of a restore in order.
//!
//! Whoever is killed at whatever instant: until the commit all tasks of the tree are traced with EXITKILL and
//! the keeper ends at the end of its `go` pipe, so nothing is left; after the commit all is there and runs on.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use brant_base::{Pid, fault};
use brant_identity::AddressPair;
use brant_image::Image;
use brant_image::model::{Checkpoint, Process, ProcessBody, ProcessState, TerminalId, Thread};
use brant_kernel::namespace as kernel_namespace;
use brant_kernel::proc;
use brant_kernel::ptrace::Waiter;
use brant_kernel::remote::Puppet;

use crate::build::credentials::Rights;
use crate::build::files::FdStore;
use crate::build::script::Script;
use crate::build::shape::TreeShape;
use crate::build::threads::{self, Setting};
use crate::build::trampolines;
use crate::build::tree::Tasks;
use crate::build::vdso::{self, Gap, OwnVdso};
use crate::build::{carried, fill, limits, memory, signals, timers};
use crate::hosting::{Hosted, host};
use crate::identities::{self, Identities, Standing, Unmediated};
use crate::numbers::Numbers;
use crate::resume::{self, Ready};
use crate::{Error, FilesPolicy, Plan, Way, namespace};

/// What a user may choose.
#[derive(Debug)]
pub struct Options {
    /// Nobody is in the foreground: the job runs on by itself.
    pub detached: bool,
    pub files: FilesPolicy,
    /// Paths of the image that begin with the first are looked for at the second.
    pub map_paths: Vec<(Vec<u8>, Vec<u8>)>,
    /// Internet addresses that sockets are bound to, and what they are to be bound to.
    pub map_addresses: Vec<AddressPair>,
    /// Where copies of executables and libraries lie that an image carried. Made where it is needed, with mode 0700.
    pub copies_folder: PathBuf,
    /// What descriptors 0-2 whose other end was outside the tree are connected to.
    pub stdio: [OwnedFd; 3],
    /// Without namespaces of the restore's own, with whatever process numbers the kernel gives.
    pub any_pid: bool,
    /// This program, by a path at which programs can execute it: it hands the table of numbers on to those that they execute.
    pub brant: Option<PathBuf>,
    /// Redirect the vdso even where it is the same: for tests of that path.
    pub redirect_vdso: bool,
}

/// What the keeper gets: pid 1 of the tree's pid namespace or, without one, a subreaper among the user's processes.
#[derive(Debug)]
pub struct Handoff {
    /// The keeper is its parent and reaps it. Else a placeholder is, and its wait status comes through `status`.
    pub root_is_child: bool,
    /// Tasks that hold a number and sleep for ever, by their numbers inside. The keeper ends them when only they
    /// are left. Empty without a pid namespace: [`Restored`] has them.
    pub sleepers: Vec<Pid>,
    /// [`go_message`] comes when the tree runs; the end of the pipe before that means that it never will: the
    /// keeper ends all that is below it, and itself.
    pub go: OwnedFd,
    /// Four bytes, little-endian: the root's wait status, where a placeholder is its parent.
    pub status: OwnedFd,
    /// Masters of terminals that are to be relayed.
    pub terminals: Vec<(TerminalId, OwnedFd)>,
}

/// What [`Handoff::go`] gets, four bytes: the root of the tree, by the number that the keeper knows it by.
pub fn go_message(root: Pid) -> [u8; 4] {
    root.0.to_le_bytes()
}

/// A tree that runs.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The root's number on this host, and by which it knows itself.
    pub root_host: Pid,
    pub root_inside: Pid,
    pub keeper_host: Pid,
    /// Tasks that only hold a number, where the keeper could not know them before: without a pid namespace.
    pub sleepers: Vec<Pid>,
    /// Settings that this user may not restore, for people.
    pub warnings: Vec<String>,
}

/// Puts mediators on one process, which look at [`Standing::table`].
pub type Mediate<'m> = dyn FnMut(&Standing) -> Result<(), Unmediated> + 'm;

/// Builds the tree of `image` and lets it go. The caller is a process of its own with one thread, made for
/// this; it is in other namespaces afterwards, and should end.
///
/// `keeper` runs in pid 1 of the new pid namespace and never returns. `mediate` puts the mediators of process numbers on a process
/// that stands, where the plan has that. `announce` is told where the tree is just before it
/// runs: what it writes down is there however soon afterwards we are killed. Its failure undoes everything.
pub fn restore(
    image: &Image,
    plan: Plan,
    options: Options,
    keeper: impl FnOnce(Handoff) -> Infallible,
    mediate: &mut Mediate<'_>,
    announce: impl FnOnce(&Restored) -> io::Result<()>,
) -> Result<Restored, Error> {
    let checkpoint = image.checkpoint();
    let shape = TreeShape::of(checkpoint).map_err(Error::Refused)?;
    let own_vdso = OwnVdso::find()?;
    let gap = Gap::find(checkpoint, &own_vdso)?;
    let made = carried::provide(image, &plan)?;
    let (rights, numbers) = enter(checkpoint, &plan)?;
    let mut store = FdStore::open(image, &plan, &options, numbers)?;
    let hosted = host(checkpoint, &shape, &mut store, keeper)?;
    let mut warnings = store.take_warnings();
    warnings.extend(shape.outside.filter(|_| plan.way == Way::Namespaces).map(|number| {
        format!("sessions and process groups that showed as 0 are {number} now: their leader stayed behind")
    }));
    warnings.extend(plan.differences.iter().cloned());
    let builder = Builder {
        image,
        checkpoint,
        plan: &plan,
        shape: &shape,
        store: &store,
        own_vdso: &own_vdso,
        gap: &gap,
        options: &options,
        rights,
        hard_limits: limits::own_hard_limits(rights == Rights::Root),
        identities: None,
        warnings,
    };
    let restored = builder.build(hosted, mediate, announce)?;
    made.keep();
    Ok(restored)
}

/// Moves us to where the tree is to be.
fn enter(checkpoint: &Checkpoint, plan: &Plan) -> Result<(Rights, Numbers), Error> {
    if plan.way == Way::AnyPid {
        let rights = if plan.is_privileged { Rights::Root } else { Rights::Plain };
        return Ok((rights, Numbers::given()));
    }
    let entered = namespace::enter(checkpoint)?;
    fault::reach("restore.entered");
    if !checkpoint.terminals.is_empty() {
        kernel_namespace::mount_terminals()?;
    }
    Ok((if entered.user { Rights::OwnNamespace } else { Rights::Root }, Numbers::same()))
}

/// What the builder knows from the plan on.
struct Builder<'a> {
    image: &'a Image,
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    shape: &'a TreeShape,
    store: &'a FdStore,
    own_vdso: &'a OwnVdso,
    gap: &'a Gap,
    options: &'a Options,
    rights: Rights,
    hard_limits: Vec<u64>,
    /// Where numbers change.
    identities: Option<Identities>,
    warnings: Vec<String>,
}

/// Where each process has a `syscall` instruction that stays.
type CallSites = BTreeMap<Pid, Option<brant_base::Addr>>;

impl<'a> Builder<'a> {
    /// The phases in order. Until the commit at the end every task dies with the builder; an error leaves nothing.
    fn build(
        mut self,
        hosted: Hosted,
        mediate: &mut Mediate<'_>,
        announce: impl FnOnce(&Restored) -> io::Result<()>,
    ) -> Result<Restored, Error> {
        fault::reach("restore.hosted");
        let mut tasks = self.grow(hosted.first)?;
        fault::reach("restore.grown");
        tasks.settle(self.checkpoint, self.shape, self.store)?;
        tasks.place_stand_ins(self.checkpoint.root, self.shape, hosted.status_fd)?;
        let call_sites = self.restore_memory(&mut tasks)?;
        fault::reach("restore.memory-filled");
        self.restore_files(&mut tasks)?;
        fault::reach("restore.files-placed");
        let mut ready = self.restore_threads(&mut tasks, &call_sites)?;
        fault::reach("restore.threads-made");
        for process in &mut ready {
            let layout = &self.checkpoint.host.xstate_layout[..];
            process.finish(self.gap, (layout, &self.store.numbers), &mut self.warnings)?;
        }
        let root_inside = self.identify(&ready, mediate)?;
        fault::reach("restore.mediated");
        let root = ready.iter().find(|process| process.pid == self.checkpoint.root);
        let root_host = root.map_or(Pid(0), |process| Pid(process.threads[0].0.tid().0));
        let root_host = self.host_number(root_host);
        let restored = Restored {
            root_host,
            root_inside,
            keeper_host: hosted.keeper,
            sleepers: self.sleepers()?,
            warnings: self.warnings,
        };
        fault::reach("restore.ready");
        announce(&restored).map_err(Error::builder("writing down where the job is"))?;
        fault::reach("restore.announced");
        self.plan.rewind_files()?;
        let root = self.store.numbers.of(self.checkpoint.root)?;
        resume::commit(ready, tasks.puppets, root, File::from(OwnedFd::from(hosted.go)))?;
        Ok(restored)
    }

    /// Lets the processes keep what they call each other, by mediators, where the plan has that. Gives the root's number as
    /// it knows it.
    fn identify(&self, ready: &[Ready<'_>], mediate: &mut Mediate<'_>) -> Result<Pid, Error> {
        let root = self.checkpoint.root;
        let Some(identities) = &self.identities else { return Ok(root) };
        identities.write(self.store, self.plan)?;
        for process in ready.iter().filter(|process| !self.plan.unmediated.contains(&process.pid)) {
            let threads = process.threads.iter().map(|(puppet, ..)| puppet.tid()).collect();
            let pid = self.store.numbers.of(process.pid)?;
            let standing = Standing {
                pid,
                threads,
                table: identities.path(),
                is_mediated: identities.are_known_to(process.body),
                numbers: Identities::numbers(self.store),
            };
            mediate(&standing).map_err(|error| Error::Mediators { pid: process.pid, error })?;
        }
        if self.plan.unmediated.contains(&root) {
            return self.store.numbers.of(root);
        }
        let ready = ready.iter().find(|process| process.pid == root);
        Ok(ready.map_or(root, |process| Pid(identities.apparent(process.body, root.0))))
    }

    fn sleepers(&self) -> Result<Vec<Pid>, Error> {
        let numbers = &self.store.numbers;
        match numbers.are_given() {
            true => self.shape.sleepers.iter().map(|pid| numbers.of(*pid)).collect(),
            false => Ok(Vec::new()),
        }
    }

    /// The number of a thread's process.
    fn host_number(&self, thread: Pid) -> Pid {
        proc::status(thread).map_or(thread, |status| status.tgid)
    }

    fn grow(&mut self, first: Pid) -> Result<Tasks, Error> {
        let waiter = Rc::new(Waiter::new().map_err(Error::builder("starting the tick of our waits"))?);
        let mut puppet = Puppet::from_fork(waiter, first.into(), self.gap.stub, &self.own_vdso.ranges())
            .map_err(Error::remote(self.shape.first, "taking hold of the first task"))?;
        self.gap.take_vdso(&mut puppet, self.shape.first, self.own_vdso)?;
        Tasks::grow(puppet, self.shape, self.store)
    }

    fn bodies(&self) -> impl Iterator<Item = (&'a Process, &'a ProcessBody)> + use<'a> {
        self.checkpoint.processes.iter().filter_map(|process| Some((process, process.body.as_ref()?)))
    }

    /// Address spaces and their contents, and in each the code by which interrupted calls go on.
    fn restore_memory(&mut self, tasks: &mut Tasks) -> Result<CallSites, Error> {
        let mut sites = CallSites::new();
        let has_executed = self.rights == Rights::Plain;
        if has_executed {
            self.execute_programs(tasks)?;
        }
        for (process, body) in self.bodies() {
            let puppet = tasks.get(process.pid);
            let site = vdso::restore(
                puppet,
                process.pid,
                (self.checkpoint, &body.memory, &body.threads),
                (self.own_vdso, self.gap),
                self.options.redirect_vdso,
            )?;
            sites.insert(process.pid, site);
        }
        for (process, body) in self.bodies() {
            memory::set_marks(tasks.get(process.pid), process.pid, body, self.store, has_executed)?;
        }
        memory::fill_shared(self.image, self.store)?;
        match self.plan.way {
            Way::AnyPid => self.identities = Some(Identities::open(self.store)?),
            Way::Namespaces => identities::renew_brant(self.store, self.plan.brant.as_deref())?,
        }
        memory::seal(self.checkpoint, self.store, false)?;
        for (process, body) in self.bodies() {
            let puppet = tasks.get(process.pid);
            memory::map(puppet, process.pid, &body.memory, self.store, &mut self.warnings)?;
        }
        fill::fill(self.image, &mut tasks.puppets)?;
        memory::seal(self.checkpoint, self.store, true)?;
        for (process, body) in self.bodies() {
            memory::compare(tasks.get(process.pid), process.pid, &body.memory, self.gap.range())?;
        }
        Ok(sites)
    }

    /// Each process takes its program as its own, which only execve(2) gives to a plain user.
    fn execute_programs(&self, tasks: &mut Tasks) -> Result<(), Error> {
        for (process, body) in self.bodies() {
            let puppet = tasks.get(process.pid);
            let failed = || Error::remote(process.pid, "executing its program");
            self.store.keep_open(puppet).map_err(failed())?;
            let program = self.store.disk_file(body.executable, false).unwrap_or(-1);
            let kernels = puppet.execute(program, self.gap.stub).map_err(failed())?;
            self.gap.take_vdso(puppet, process.pid, &self.own_vdso.moved_to(&kernels))?;
        }
        Ok(())
    }

    /// Surroundings and descriptors.
    fn restore_files(&mut self, tasks: &mut Tasks) -> Result<(), Error> {
        for (process, body) in self.bodies() {
            let puppet = tasks.get(process.pid);
            let mut script = Script::new(puppet);
            limits::set_surroundings(&mut script, body, self.plan);
            script.run(puppet, process.pid, &mut self.warnings)?;
            self.set_oom_score(process.pid, puppet, body);
        }
        self.store.connect(self.plan, tasks)?;
        self.warnings.extend(self.store.take_warnings());
        for (process, _) in self.bodies() {
            self.store.place(tasks.get(process.pid), process)?;
        }
        for (process, _) in self.bodies() {
            self.store.finish(tasks.get(process.pid), process)?;
        }
        Ok(())
    }

    fn set_oom_score(&mut self, pid: Pid, puppet: &Puppet, body: &ProcessBody) {
        let host = Pid(puppet.tid().0);
        if proc::oom_score_adj(host).is_ok_and(|now| now == body.oom_score_adj) {
            return;
        }
        let path = format!("/proc/{host}/oom_score_adj");
        if let Err(error) = std::fs::write(path, body.oom_score_adj.to_string()) {
            self.warnings.push(format!("process {pid}: setting its oom_score_adj failed: {error}"));
        }
    }

    /// Makes the threads, stops what was stopped, and gives every thread what the kernel keeps of it.
    fn restore_threads(&mut self, tasks: &mut Tasks, sites: &CallSites) -> Result<Vec<Ready<'a>>, Error> {
        let mut all = Vec::new();
        for (process, body) in self.bodies() {
            let mut main = tasks.puppets.remove(&process.pid).expect("the plan makes every process");
            let others = threads::make(&mut main, process.pid, body, &self.store.numbers)?;
            all.push((process, body, main, others));
        }
        for (process, _, main, _) in &mut all {
            if let ProcessState::Stopped { signal, .. } = process.state {
                main.stop_process(signal).map_err(Error::remote(process.pid, "stopping it"))?;
            }
        }
        let mut ready = Vec::new();
        for (process, body, main, others) in all {
            ready.push(self.restore_process(process, body, main, others, sites)?);
        }
        Ok(ready)
    }

    /// Signals, timers, limits and what each thread has.
    fn restore_process(
        &mut self,
        process: &'a Process,
        body: &'a ProcessBody,
        mut main: Puppet,
        mut others: Vec<Puppet>,
        sites: &CallSites,
    ) -> Result<Ready<'a>, Error> {
        let pid = process.pid;
        self.consume_stops(&mut main, process)?;
        signals::drain(&mut main, pid)?;
        let mut script = Script::new(&main);
        signals::set_actions(&mut script, body);
        limits::set_limits(&mut script, pid, &body.limits, &self.hard_limits, &mut self.warnings);
        timers::set_interval_timers(&mut script, body);
        let own_registers = trampolines::of_program(&main, body);
        trampolines::drop_old(&mut script, &main, body, &own_registers);
        script.run(&mut main, pid, &mut self.warnings)?;
        let numbers = &self.store.numbers;
        timers::set_posix_timers(&mut main, pid, body, numbers)?;
        signals::queue(&mut main, (pid, None), numbers, &body.pending)?;
        let registers = trampolines::registers(&mut main, pid, body, &own_registers, self.gap)?;
        let setting =
            Setting { pid, credentials: &body.credentials, dumpable: body.dumpable, rights: self.rights };
        let is_others = |thread: &&Thread| thread.tid.0 != pid.0;
        for (puppet, thread) in others.iter_mut().zip(body.threads.iter().filter(is_others)) {
            signals::queue(puppet, (pid, Some(thread.tid.0)), numbers, &thread.pending)?;
            threads::set(puppet, thread, setting, &mut self.warnings)?;
        }
        let mut puppets: Vec<Option<Puppet>> = Vec::new();
        if body.leader_exited {
            main.end_thread().map_err(Error::remote(pid, "ending its main thread"))?;
            for puppet in &mut others {
                puppet.reopen_memory().map_err(Error::remote(pid, "reaching its memory"))?;
            }
            puppets.extend(body.threads.iter().filter(|thread| !is_others(thread)).map(|_| None));
        } else if let Some(thread) = body.threads.iter().find(|thread| thread.tid.0 == pid.0) {
            signals::queue(&mut main, (pid, Some(thread.tid.0)), numbers, &thread.pending)?;
            threads::set(&mut main, thread, setting, &mut self.warnings)?;
            puppets.push(Some(main));
        }
        puppets.extend(others.into_iter().map(Some));
        let threads = puppets
            .into_iter()
            .zip(&body.threads)
            .zip(registers)
            .filter_map(|((puppet, thread), registers)| Some((puppet?, thread, registers)))
            .collect();
        Ok(Ready { pid, body, threads, call_at: sites.get(&pid).copied().flatten() })
    }

    /// A parent has seen already that its children were stopped.
    fn consume_stops(&mut self, puppet: &mut Puppet, parent: &Process) -> Result<(), Error> {
        let mut script = Script::new(puppet);
        let children = self.checkpoint.processes.iter().filter(|child| child.ppid == parent.pid);
        for child in
            children.filter(|child| matches!(child.state, ProcessState::Stopped { announced: true, .. }))
        {
            let flags = (libc::WUNTRACED | libc::WNOHANG | libc::__WALL) as u64;
            let number = self.store.numbers.of(child.pid)?;
            script.any("seeing that a child is stopped", libc::SYS_wait4, &[number.0 as u64, 0, flags, 0]);
        }
        script.run(puppet, parent.pid, &mut self.warnings).map(drop)
    }
}
