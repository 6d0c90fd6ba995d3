//! Whether a restored job begins at all: the builder's word, and what is done where it does not come.

use std::os::fd::OwnedFd;
use std::time::Duration;

use brant_base::Pid;
use brant_kernel::task::{self, Waited};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::job::descendants;

/// The root of the tree that the builder has let go; `None` where the builder has ended before.
pub(super) fn await_go(go: &OwnedFd) -> Option<Pid> {
    let mut word = [0; 4];
    loop {
        // A pipe gives so few bytes at once, or none.
        match nix::unistd::read(go, &mut word) {
            Ok(4) => return Some(Pid(i32::from_le_bytes(word))),
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

/// Kills all that is left below the keeper. The end of its pid namespace would do that too, where it has one.
pub(super) fn end_descendants() {
    const ROUNDS_MAX: u32 = 1000;
    let own = Pid(nix::unistd::getpid().as_raw());
    for _ in 0..ROUNDS_MAX {
        let left = descendants(own);
        if left.is_empty() {
            return;
        }
        for pidfd in left.into_iter().filter_map(|pid| task::pidfd_open(pid).ok()) {
            let _ = task::pidfd_send_signal(&pidfd, Signal::SIGKILL as i32);
        }
        while let Ok(Waited::Ended { .. } | Waited::Stopped { .. } | Waited::Continued { .. }) =
            task::wait_any()
        {}
        std::thread::sleep(Duration::from_millis(1));
    }
}
