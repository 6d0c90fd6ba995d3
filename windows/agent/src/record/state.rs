//! What is kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use brant_windows::record::{Object, Process, Region, Socket};

use super::acts::Known;

/// How often a thread looks whether the record is free, and then how often again after a pause: on a busy machine who has it may not run for a while.
const LOOKS_MAX: u32 = 2_000;
const PAUSED_LOOKS_MAX: u32 = 300;
const PAUSE: Duration = Duration::from_millis(1);
/// How long it is waited for to tell it.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// What of each kind is kept at most.
const KEPT_MAX: usize = 65_536;

/// What a function that gives something back takes it out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Handles,
    Gui,
    Sockets,
    Regions,
}

/// What was taken out before a call that may fail.
#[derive(Debug)]
pub(crate) enum Taken {
    Handle(Object),
    Gui(Object),
    Socket(Socket),
    Region(Region),
    /// The bytes of a block that is released.
    Bytes(u64),
}

/// A thread that the program made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) start: u64,
    pub(crate) creator: u32,
}

/// A wait that is under way.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) function: &'static str,
    pub(crate) limit_ms: Option<u64>,
    pub(crate) since: Instant,
}

/// A process that the program made.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) told: Process,
    pub(crate) handle: u64,
}

/// The external state of the program.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) begin: Instant,
    pub(crate) handles: BTreeMap<u64, Object>,
    pub(crate) gui: BTreeMap<u64, Object>,
    pub(crate) sockets: BTreeMap<u64, Socket>,
    pub(crate) regions: BTreeMap<u64, Region>,
    pub(crate) threads: BTreeMap<u32, Made>,
    pub(crate) children: Vec<Child>,
    pub(crate) waits: BTreeMap<u32, Waiting>,
    /// How often each standard handle was set.
    pub(crate) sets: BTreeMap<u32, u64>,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
    pub(crate) waits_done: u64,
    pub(crate) waited_ms: u64,
}

static RECORD: Mutex<Option<Record>> = Mutex::new(None);
static LOST: AtomicU64 = AtomicU64::new(0);
static IS_ON: AtomicBool = AtomicBool::new(false);
/// Somebody has waited for it in vain: whoever has it may have been ended. Nobody pauses for it any more.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// A new record, empty.
pub(crate) fn begin() {
    let record = Record {
        begin: Instant::now(),
        handles: BTreeMap::new(),
        gui: BTreeMap::new(),
        sockets: BTreeMap::new(),
        regions: BTreeMap::new(),
        threads: BTreeMap::new(),
        children: Vec::new(),
        waits: BTreeMap::new(),
        sets: BTreeMap::new(),
        closed: 0,
        failed: 0,
        waits_done: 0,
        waited_ms: 0,
    };
    IS_STUCK.store(false, Ordering::Relaxed);
    LOST.store(0, Ordering::Relaxed);
    *RECORD.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(record);
    IS_ON.store(true, Ordering::Release);
}

/// Does something with the record; nothing where there is none, or no time for it.
pub(crate) fn with<T>(act: impl FnOnce(&mut Record) -> T) -> Option<T> {
    if !IS_ON.load(Ordering::Acquire) {
        return None;
    }
    let pauses = if IS_STUCK.load(Ordering::Relaxed) { 0 } else { PAUSED_LOOKS_MAX };
    for look in 0..LOOKS_MAX + pauses {
        match RECORD.try_lock() {
            Ok(mut record) => {
                IS_STUCK.store(false, Ordering::Relaxed);
                return record.as_mut().map(act);
            }
            Err(TryLockError::Poisoned(broken)) => return broken.into_inner().as_mut().map(act),
            Err(TryLockError::WouldBlock) if look >= LOOKS_MAX => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) if look % 16 == 15 => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    IS_STUCK.store(true, Ordering::Relaxed);
    LOST.fetch_add(1, Ordering::Relaxed);
    None
}

/// The same for whoever asks from outside, who has more time; nothing where it does not become free.
pub(crate) fn ask<T>(act: impl FnOnce(&mut Record) -> T) -> Option<T> {
    let begin = Instant::now();
    loop {
        match RECORD.try_lock() {
            Ok(mut record) => return record.as_mut().map(act),
            Err(TryLockError::Poisoned(broken)) => return broken.into_inner().as_mut().map(act),
            Err(TryLockError::WouldBlock) if begin.elapsed() > ASK_LIMIT => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
}

pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

impl Record {
    /// Takes out what a call may close.
    pub(crate) fn take(&mut self, group: Group, key: u64) -> Option<Taken> {
        match group {
            Group::Handles => self.handles.remove(&key).map(Taken::Handle),
            Group::Gui => self.gui.remove(&key).map(Taken::Gui),
            Group::Sockets => self.sockets.remove(&key).map(Taken::Socket),
            Group::Regions => self.regions.remove(&key).map(Taken::Region),
        }
    }

    /// The call has returned.
    pub(crate) fn taken(&mut self, taken: Option<Taken>, is_done: bool) {
        match taken {
            _ if is_done => self.closed += u64::from(matches!(taken, Some(Taken::Handle(_)))),
            Some(Taken::Handle(object)) => self.add(Group::Handles, object),
            Some(Taken::Gui(object)) => self.add(Group::Gui, object),
            Some(Taken::Socket(socket)) => {
                self.sockets.insert(socket.handle, socket);
            }
            Some(Taken::Region(region)) => {
                self.regions.insert(region.at, region);
            }
            Some(Taken::Bytes(_)) | None => {}
        }
    }

    /// Something that a call has given.
    pub(crate) fn add(&mut self, group: Group, object: Object) {
        let kept = if group == Group::Gui { &mut self.gui } else { &mut self.handles };
        if kept.len() < KEPT_MAX {
            kept.insert(object.handle, object);
        } else {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn add_region(&mut self, region: Region) {
        if self.regions.len() < KEPT_MAX {
            self.regions.insert(region.at, region);
        } else {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn wait(&mut self, known: &Known<'_>, argument: usize) {
        let limit = known.argument(argument) as u32;
        let limit_ms = (limit != u32::MAX).then_some(u64::from(limit));
        self.waits.insert(known.thread, Waiting { function: known.name, limit_ms, since: Instant::now() });
    }

    pub(crate) fn waited(&mut self, thread: u32) {
        if let Some(wait) = self.waits.remove(&thread) {
            self.waits_done += 1;
            self.waited_ms += wait.since.elapsed().as_millis() as u64;
        }
    }
}
