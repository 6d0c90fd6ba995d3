//! One thread of the program, borrowed to load a library and to talk to the runtime.
//!
//! **The gate**: the thread must not hold a lock that dlopen needs, or it would wait for itself, or corrupt what the lock
//! protects. So it must be outside of the loader and the allocator, with no return address into them on its stack. All
//! other threads run meanwhile, so that they let go of what they hold.
//!
//! Nor must it hold what another thread waits for that has such a lock: they would wait for each other. The C library's locks
//! are in an order that a call from within it would break (found: the list of open files, held by the thread; a fork that
//! waits for it with the list of fork's handlers; dlclose, which needs that). Whose lock a thread has cannot be seen from
//! outside, so one is preferred that is not at work in the C library at all, and one that waits is as good.
//!
//! State of the target: while a session is open the thread is away; it comes back by itself if brant is killed
//! (`kernel::remote::Errand`). A library that was loaded stays loaded then.

use std::time::{Duration, Instant};

use brant_base::{Addr, PAGE_SIZE, Pid, Tid};
use brant_hook::exchange::{MESSAGE_BYTES_MAX, RUNTIME_NAME, Reply, Request};
use brant_kernel::proc::{self, MapEntry, MapKind};
use brant_kernel::ptrace::{self, Waiter};
use brant_kernel::remote::{Errand, Hand, HandThread, Memory, RemoteError};

use crate::Wrapper;
use crate::allocator::{Allocator, is_at_rest, is_waiting};
use crate::by_hand::{self, Library, is_by_hand};
use crate::carried::{self, Carried};
use crate::error::Error;
use crate::progress::Progress;
use crate::runtime::{self, Runtime};
use crate::stack::Stacks;
use crate::stop::{Held, is_in_sequence};
use crate::target::{self, Target};

/// How long a library may take to load: its constructors are the user's.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The gate is tried at each thread in turn, with pauses that grow to the last. A try counts where a thread has moved since the last.
const GATE_TRIES: u32 = 60;
/// Before these, one that is at work in the C library will not do; it may be all that a program does.
const GATE_TRIES_STRICT: u32 = 60;
const GATE_PAUSE_STRICT: Duration = Duration::from_millis(4);
const GATE_PAUSE: Duration = Duration::from_micros(500);
const GATE_PAUSE_MAX: Duration = Duration::from_millis(50);
/// How long no thread may come to a stop. One that waits for a processor only will get one.
const STUCK_TIMEOUT: Duration = Duration::from_secs(20);
const STARVED_TIMEOUT: Duration = Duration::from_secs(200);

/// Half for what goes in, half for what comes out.
const ROOM_BYTES: u64 = 2 * MESSAGE_BYTES_MAX as u64;

/// An open session.
pub(crate) struct Session<'w> {
    target: &'w Target,
    errand: Errand<'w>,
    /// Keeps the thread until the session ends.
    held: Held<'w>,
    /// The thread as it is when it is not away.
    pub(crate) thread: HandThread,
    /// The other threads, where somebody else of us holds them all.
    pub(crate) others: Vec<HandThread>,
    /// The runtime's file, while it is being loaded.
    file: Option<Carried>,
    /// Those of implementations that travel with brant, likewise.
    carried: Vec<Carried>,
    pub(crate) runtime: Option<Runtime>,
    /// Libraries that were mapped by hand, by their names.
    mapped: Vec<(Vec<u8>, u64)>,
    /// What shows the modules of the program in the place of its loader.
    iterate: Option<Addr>,
}

impl<'w> Session<'w> {
    /// Borrows a thread. Where `with_runtime`, the runtime is loaded if it is not there.
    pub(crate) fn open(
        waiter: &'w Waiter,
        target: &'w Target,
        with_runtime: bool,
        wrappers: &[Wrapper],
    ) -> Result<Session<'w>, Error> {
        let runtime = Runtime::find(target.pid)?;
        let must_load = with_runtime && runtime.is_none();
        let (held, thread) = pass_gate(waiter, target)?;
        Session::borrow(waiter, target, runtime, must_load, wrappers, held, thread)
    }

    /// Borrows a thread that is stopped already, where nothing else of the program has run. The runtime is loaded.
    pub(crate) fn open_with(
        waiter: &'w Waiter,
        target: &'w Target,
        thread: HandThread,
        wrappers: &[Wrapper],
    ) -> Result<Session<'w>, Error> {
        Session::borrow(waiter, target, None, true, wrappers, Held::none(waiter, target.pid), thread)
    }

    /// Borrows the first of `threads`, which are all that the process has, and are stopped and stay so. Nothing of the program's
    /// loader or allocator is called, as any of them may hold what these need: what brant carries is mapped by hand.
    pub(crate) fn open_standing(
        waiter: &'w Waiter,
        target: &'w Target,
        threads: &[HandThread],
        wrappers: &[Wrapper],
    ) -> Result<Session<'w>, Error> {
        let pid = target.pid;
        let Some((thread, others)) = threads.split_first() else { return Err(Error::Gone(pid)) };
        let resolve = |name: &[u8]| {
            let known = target.exports.iter().find(|(known, _)| known == name);
            known.map(|(_, address)| *address)
        };
        let executable = target.executable();
        let known = Runtime::find(pid)?;
        let (errand, (iterate, mapped)) =
            Errand::open(waiter, pid, *thread, &executable, ROOM_BYTES, |hand| {
                let mut map = |name: &[u8], bytes: &'static [u8]| {
                    let library = Library::read(bytes).ok_or_else(|| unreadable(thread.tid))?;
                    let file = Carried::make(hand, thread.tid, name, bytes)?;
                    let handle = library.map(hand, (thread.tid, file.descriptor()), name, &resolve)?;
                    file.give_back(hand)?;
                    Ok::<u64, RemoteError>(handle)
                };
                if known.is_none() {
                    map(runtime::file_name().as_bytes(), runtime::LIBRARY)?;
                }
                let carried = wrappers.iter().filter_map(Wrapper::carried_as);
                let mapped = carried.map(|(name, library)| Ok((name.to_vec(), map(name, library)?)));
                let mapped = mapped.collect::<Result<Vec<_>, RemoteError>>()?;
                Ok((map_iteration(hand, thread.tid, &target.listed)?, mapped))
            })?;
        let runtime = match known {
            Some(known) => Some(known),
            None => Some(Runtime::find(pid)?.ok_or(Error::Runtime(pid))?),
        };
        let (held, others) = (Held::none(waiter, pid), others.to_vec());
        let (thread, iterate) = (*thread, Some(iterate));
        let (file, carried) = (None, Vec::new());
        Ok(Session { target, errand, held, thread, others, file, carried, runtime, mapped, iterate })
    }

    /// dl_iterate_phdr, or what stands for it.
    pub(crate) fn iterate(&self) -> Addr {
        self.iterate.unwrap_or(self.target.loader.iterate)
    }

    /// Borrows a thread that stands outside of the loader and the allocator, and finds the runtime or loads it by
    /// that thread.
    fn borrow(
        waiter: &'w Waiter,
        target: &'w Target,
        runtime: Option<Runtime>,
        must_load: bool,
        wrappers: &[Wrapper],
        held: Held<'w>,
        thread: HandThread,
    ) -> Result<Session<'w>, Error> {
        let libraries = wrappers.iter().filter_map(Wrapper::carried_as).collect::<Vec<_>>();
        let own = must_load.then(|| (runtime::file_name(), runtime::LIBRARY));
        let sizes =
            libraries.iter().map(|(_, library)| library.len()).chain(own.iter().map(|(_, own)| own.len()));
        carried::check_limit(target.pid, sizes.max().unwrap_or(0))?;
        let (errand, (file, carried)) =
            Errand::open(waiter, target.pid, thread, &target.executable(), ROOM_BYTES, |hand| {
                let mut make = |name: &[u8], library| Carried::make(hand, thread.tid, name, library);
                let own = own.as_ref().map(|(name, library)| make(name.as_bytes(), library)).transpose()?;
                let mut carried = Vec::new();
                for (name, library) in &libraries {
                    let first = make(name, library)?;
                    let spares = if must_load { 0 } else { first.spares() };
                    carried.push(first);
                    for _ in 0..spares {
                        carried.push(make(name, library)?);
                    }
                }
                Ok((own, carried))
            })
            .map_err(|error| match error {
                RemoteError::Ptrace { operation: carried::MAKING, error, .. } => {
                    Error::NoFile(target.pid, error)
                }
                error => error.into(),
            })?;
        let others = Vec::new();
        let (mapped, iterate) = (Vec::new(), None);
        let mut session =
            Session { target, errand, held, thread, others, file, carried, runtime, mapped, iterate };
        if must_load {
            session.load_runtime()?;
        }
        Ok(session)
    }

    fn load_runtime(&mut self) -> Result<(), Error> {
        let path = self.file.as_ref().map(Carried::path).ok_or(Error::Runtime(self.target.pid))?;
        self.load(&path)?;
        self.runtime = Runtime::find(self.target.pid)?;
        if self.runtime.is_none() {
            return Err(Error::Runtime(self.target.pid));
        }
        Ok(())
    }

    /// Loads the implementation that travels with brant, as a library of its own beside those with the handles `known`.
    ///
    /// Loaders tell files apart by device and inode, as they were when they were loaded. In a program that was restored these
    /// are of another time or machine, and a new file may have the numbers of an old one: then dlopen gives the old
    /// library, and another file is tried.
    pub(crate) fn load_carried(&mut self, wrapper: &Wrapper, known: &[u64]) -> Result<u64, Error> {
        let wanted = wrapper.carried_as().map(|(name, _)| name);
        if let Some((_, handle)) = self.mapped.iter().find(|(name, _)| Some(name.as_slice()) == wanted) {
            return Ok(*handle);
        }
        let runtime = runtime_mapping(self.target.pid)?.map(|(base, _)| base.0);
        let is_free = |made: &&mut Carried| Some(made.name.as_slice()) == wanted && !made.is_loaded;
        while let Some(made) = self.carried.iter_mut().find(is_free) {
            made.is_loaded = true;
            let path = made.path();
            let handle = self.load(&path)?;
            // What dlopen gives begins with the base.
            let base: u64 = self
                .memory()
                .read_value(Addr(handle))
                .map_err(|error| Error::thread(self.thread.tid, "reading where a library is", error))?;
            if !known.contains(&handle) && Some(base) != runtime {
                return Ok(handle);
            }
            self.unload(handle)?;
        }
        let what = "its loader takes the implementation for a library that it has";
        Err(Error::Changed { pid: self.target.pid, what })
    }

    /// Loads a library by the program's own dlopen and gives its handle.
    pub(crate) fn load(&mut self, path: &[u8]) -> Result<u64, Error> {
        let loader = self.target.loader;
        let at = self.errand.room();
        self.write(at, &[path, b"\0"].concat())?;
        let handle = self.call(loader.open, [at.0, loader.flags, 0, 0, 0, 0], LOAD_TIMEOUT)?;
        if handle != 0 {
            return Ok(handle);
        }
        let why = match loader.error {
            None => "its loader does not say why".to_owned(),
            Some(error) => {
                let text = self.call(error, [0; 6], ANSWER_TIMEOUT)?;
                let text = target::string(self.errand.memory(), text).unwrap_or_default();
                String::from_utf8_lossy(&text).into_owned()
            }
        };
        Err(Error::Load { path: String::from_utf8_lossy(path).into_owned(), why })
    }

    /// Unloads a library; one that was mapped by hand stays.
    pub(crate) fn unload(&mut self, handle: u64) -> Result<(), Error> {
        if is_by_hand(self.memory(), handle) {
            return Ok(());
        }
        self.call(self.target.loader.close, [handle, 0, 0, 0, 0, 0], LOAD_TIMEOUT).map(drop)
    }

    /// Asks the runtime.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, Error> {
        let pid = self.target.pid;
        let serve = self.runtime.as_ref().ok_or(Error::Runtime(pid))?.serve;
        let bytes = request.encode();
        let (at, room) = (self.errand.room(), self.errand.room_bytes() / 2);
        if bytes.len() as u64 > room {
            return Err(Error::Runtime(pid));
        }
        self.write(at, &bytes)?;
        let reply = Addr(at.0 + room);
        let length = self.call(serve, [at.0, bytes.len() as u64, reply.0, room, 0, 0], ANSWER_TIMEOUT)?;
        if length == 0 || length > room {
            return Err(Error::Runtime(pid));
        }
        let mut answer = vec![0; length as usize];
        self.memory()
            .read(reply, &mut answer)
            .map_err(|e| Error::thread(self.thread.tid, "reading an answer", e))?;
        Reply::decode(&answer).ok_or(Error::Runtime(pid))
    }

    /// Calls a function without arguments that may or may not be there.
    pub(crate) fn call(
        &mut self,
        function: Addr,
        arguments: [u64; 6],
        timeout: Duration,
    ) -> Result<u64, Error> {
        if self.errand.is_lost() {
            return Err(Error::Slow(self.target.pid));
        }
        match self.errand.call(function, arguments, timeout) {
            Err(RemoteError::Ended { .. }) => Err(Error::Gone(self.target.pid)),
            Err(RemoteError::Wait(_)) => Err(Error::Slow(self.target.pid)),
            other => Ok(other?),
        }
    }

    /// Lets the thread come back somewhere else. If brant is killed from now on, it does that by itself.
    pub(crate) fn move_to(&mut self, rip: u64) -> Result<(), Error> {
        self.errand.move_to(rip)?;
        self.thread.registers.rip = rip;
        Ok(())
    }

    pub(crate) fn memory(&self) -> &Memory {
        self.errand.memory()
    }

    fn write(&self, at: Addr, bytes: &[u8]) -> Result<(), Error> {
        self.memory().write(at, bytes).map_err(|e| Error::thread(self.thread.tid, "writing arguments", e))
    }

    /// Lets one of the others go on somewhere else.
    pub(crate) fn move_other(&mut self, tid: Tid, rip: u64) -> Result<(), Error> {
        let Some(other) = self.others.iter_mut().find(|other| other.tid == tid) else { return Ok(()) };
        other.registers.rip = rip;
        ptrace::set_registers(tid, &other.registers).map_err(|error| Error::thread(tid, "moving it", error))
    }

    /// The same after what was done with it. Where that failed, a thread that does not come back is no news.
    pub(crate) fn close_after<T>(self, done: Result<T, Error>) -> Result<T, Error> {
        let closed = self.close();
        let done = done?;
        closed.map(|()| done)
    }

    /// Gives the thread back and lets it go. One that is in the middle of a call goes on with that.
    pub(crate) fn close(self) -> Result<(), Error> {
        let Session { errand, mut held, file, carried, thread, .. } = self;
        if errand.is_lost() {
            held.is_running_again(thread.tid);
        }
        let closed =
            errand.close(|hand| file.into_iter().chain(carried).try_for_each(|made| made.give_back(hand)));
        held.release();
        Ok(closed?)
    }
}

fn unreadable(tid: Tid) -> RemoteError {
    let error = std::io::ErrorKind::InvalidData.into();
    RemoteError::Ptrace { tid, operation: "reading a library that brant carries", error }
}

/// Code that shows these modules; it stays.
fn map_iteration(hand: &mut Hand<'_>, tid: Tid, modules: &[[u64; 8]]) -> Result<Addr, RemoteError> {
    let code = by_hand::iteration(modules);
    let bytes = (code.len() as u64).next_multiple_of(PAGE_SIZE);
    let at = hand.map_pages(bytes, libc::PROT_READ | libc::PROT_EXEC)?.start();
    hand.memory().write_by_force(at, &code).map_err(|error| RemoteError::Ptrace {
        tid,
        operation: "writing code",
        error,
    })?;
    Ok(at)
}

/// Finds a thread that may be borrowed and leaves it stopped.
pub(crate) fn pass_gate<'w>(waiter: &'w Waiter, target: &Target) -> Result<(Held<'w>, HandThread), Error> {
    let memory = Memory::open(target.pid).map_err(|error| Error::NotAllowed(target.pid, error))?;
    let mut why = "it has no thread that could be stopped";
    let mut progress = Progress::new(GATE_PAUSE);
    let (mut tries, mut begun) = (0, Instant::now());
    for round in 0.. {
        let tasks = proc::tasks(target.pid).map_err(|error| Error::looking(target.pid, error))?;
        let count = tasks.len();
        let is_strict = tries < GATE_TRIES_STRICT;
        let mut seen = Vec::new();
        // Another thread first each time.
        for tid in tasks.into_iter().cycle().skip(round % count.max(1)).take(count.min(8)) {
            let mut held = Held::none(waiter, target.pid);
            let thread = match held.stop_one(tid) {
                Ok(Some(thread)) => thread,
                // It has ended: another one will do.
                Ok(None) => continue,
                // It hangs in the kernel. Each one takes long to be found so.
                Err(Error::DoesNotStop(_)) => {
                    let is_starved = proc::stat((target.pid, tid)).is_ok_and(|stat| stat.state == b'R');
                    if begun.elapsed() > if is_starved { STARVED_TIMEOUT } else { STUCK_TIMEOUT } {
                        return Err(Error::Gate { pid: target.pid, why });
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            begun = Instant::now();
            let maps = proc::maps(target.pid).map_err(|error| Error::looking(target.pid, error))?;
            match look(&memory, &maps, target, &thread) {
                None if is_strict && is_at_work(&memory, &maps, target, &thread) => {}
                None => return Ok((held, thread)),
                Some(reason) => why = reason,
            }
            seen.push(thread);
        }
        let is_made = progress.is_made(&memory, &seen);
        tries += u32::from(is_made);
        let pause_max = if is_strict { GATE_PAUSE_STRICT } else { GATE_PAUSE_MAX };
        if tries == GATE_TRIES_STRICT + GATE_TRIES || !progress.wait(is_made, pause_max) {
            break;
        }
    }
    Err(Error::Gate { pid: target.pid, why })
}

/// Why a stopped thread cannot be borrowed now.
fn look(memory: &Memory, maps: &[MapEntry], target: &Target, thread: &HandThread) -> Option<&'static str> {
    if !thread.registers.is_64_bit() {
        return Some("every thread that was looked at was in 32-bit code");
    }
    if ptrace::has_syscall_user_dispatch(thread.tid) {
        return Some("its threads have their system calls dispatched");
    }
    if thread.registers.fs_base == 0 {
        return Some("a thread was looked at that no C library has made");
    }
    let stacks = Stacks { memory, maps, descriptions: &target.descriptions };
    let is_guarded = |address: u64| target.guarded.iter().any(|range| range.contains(&address));
    if is_in_sequence(memory, thread) || stacks.is_inside(thread, is_guarded) {
        return Some(
            "every thread that was looked at was loading a library, allocating memory, or using lists of the C library that loading changes",
        );
    }
    match &target.allocator {
        Allocator::Libc => None,
        // Who waits for something from outside holds no lock, although a library that supervises every call is on the stack.
        _ if is_waiting(memory, thread) => None,
        Allocator::Library(code) => stacks
            .is_inside(thread, |address| code.iter().any(|range| range.contains(&address)))
            .then_some("every thread that was looked at was in the library that allocates its memory"),
        Allocator::Program => Some(
            "its allocator is part of the program itself, and no thread was looked at that waited for something",
        ),
    }
}

/// Whether a thread was stopped in the middle of a function of the C library, by us or, before, by a signal whose handler it is
/// in.
fn is_at_work(memory: &Memory, maps: &[MapEntry], target: &Target, thread: &HandThread) -> bool {
    /// mov $15, %rax (or %eax in musl); syscall: where every handler returns to.
    const RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    const RETURN_MUSL: [u8; 7] = [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05];
    let is_library = |address: u64| target.library.iter().any(|range| range.contains(&address));
    let is_return = |address: u64| {
        let code = memory.read_value::<[u8; 9]>(Addr(address)).unwrap_or_default();
        is_library(address) && (code == RETURN || code.starts_with(&RETURN_MUSL))
    };
    if is_library(thread.registers.rip) && !is_at_rest(memory, thread) {
        return true;
    }
    Stacks { memory, maps, descriptions: &target.descriptions }.returns_inside(thread, is_return)
}

/// The start of the runtime's mappings in a process, with the name of its file: one in memory, or one that had a name for as
/// long as it was being loaded.
pub(crate) fn runtime_mapping(pid: Pid) -> Result<Option<(Addr, Vec<u8>)>, Error> {
    let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
    let named = maps.iter().filter_map(|entry| {
        let name = match &entry.kind {
            MapKind::Memfd(name) => name.as_slice(),
            MapKind::File => carried::name_of(&entry.path)?,
            _ => return None,
        };
        name.starts_with(RUNTIME_NAME.as_bytes()).then(|| (entry.range.start(), name.to_vec()))
    });
    Ok(named.min_by_key(|(start, _)| *start))
}
