//! One brant at a time changes the wrappers of a process.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use brant_base::Pid;
use brant_kernel::patience::Patience;

use crate::error::Error;

/// How long another brant may change the wrappers of the same program before that is refused.
const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The right to change the wrappers of a process: a name that the kernel takes back whatever happens to us.
pub(crate) struct Turn {
    _name: UnixListener,
}

impl Turn {
    /// Another brant is done soon; and somebody who reads the descriptors of all processes may hold that of a brant which has ended,
    /// for a moment longer.
    pub(crate) fn take(pid: Pid) -> Result<Turn, Error> {
        Turn::wait(pid, TIMEOUT)
    }

    fn try_to_take(pid: Pid) -> Result<Turn, Error> {
        let address = SocketAddr::from_abstract_name(format!("brant-connect-{pid}"));
        match address.and_then(|address| UnixListener::bind_addr(&address)) {
            Ok(name) => Ok(Turn { _name: name }),
            Err(_) => Err(Error::Busy(pid)),
        }
    }

    /// Waits for whoever has it.
    pub(crate) fn wait(pid: Pid, timeout: Duration) -> Result<Turn, Error> {
        let (mut patience, mut pause) = (Patience::new(timeout), PAUSE);
        loop {
            match Turn::try_to_take(pid) {
                Err(Error::Busy(_)) if !patience.is_over() => std::thread::sleep(pause),
                other => return other,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
