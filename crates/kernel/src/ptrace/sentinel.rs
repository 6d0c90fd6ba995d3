//! The way out of a deadlock between seizing and exec.
//!
//! A thread that executes a program waits, with a lock that PTRACE_SEIZE needs, until all other threads of its process are
//! gone; those that we hold already are gone only when we have reaped them, which we cannot while the seizing waits for that
//! lock (ptrace(2) does not say so; the kernel sleeps in `ptrace_attach`). A thread of its own reaps them then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brant_base::{Pid, Tid};

use super::reap_zombie;
use crate::proc;

/// How long one thread may take to be seized before the others are looked at.
const SEIZE_WAIT: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Shared {
    held: Vec<Tid>,
    seizing_since: Option<Instant>,
    done: bool,
}

/// Watches the seizing of threads. Ends when it is dropped.
pub struct Sentinel {
    shared: Arc<Mutex<Shared>>,
}

/// While this lives, something may hang.
pub struct Watch {
    shared: Arc<Mutex<Shared>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sentinel {
    /// Nothing is seized yet.
    pub fn start() -> Sentinel {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let watched = Arc::clone(&shared);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(SEIZE_WAIT);
                let shared = lock(&watched);
                if shared.done {
                    return;
                }
                if shared.seizing_since.is_some_and(|since| since.elapsed() > SEIZE_WAIT) {
                    let zombie = |tid: &&Tid| has_ended(**tid);
                    shared.held.iter().filter(zombie).for_each(|tid| reap_zombie(*tid));
                }
            }
        });
        Sentinel { shared }
    }

    /// From now on we hold `tid`.
    pub fn add(&self, tid: Tid) {
        lock(&self.shared).held.push(tid);
    }

    /// A seizing begins; it ends with the result's life.
    pub fn watch(&self) -> Watch {
        lock(&self.shared).seizing_since = Some(Instant::now());
        Watch { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.shared).seizing_since = None;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        lock(&self.shared).done = true;
    }
}

fn has_ended(tid: Tid) -> bool {
    proc::stat((Pid(tid.0), tid)).map_or(true, |stat| matches!(stat.state, b'Z' | b'X'))
}
