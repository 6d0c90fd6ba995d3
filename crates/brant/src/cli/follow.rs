//! `brant follow-exec`, which wrapped programs start: see `brant_connect::follow`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;

use brant_base::{Pid, Tid};
use brant_connect::follow::{Caller, follow};
use brant_kernel::task;

use super::Done;

/// Puts wrappers on a program that is about to be executed. Nobody reads what it says, and nobody waits for it.
#[derive(Debug, clap::Args)]
pub(super) struct Follow {
    /// PID TID SOCKET FILE
    numbers: String,
    options: OsString,
}

impl Follow {
    pub(super) fn run(self) -> Done {
        if let Some(caller) = caller(&self.numbers) {
            follow(caller, &self.options.into_vec());
        }
        Ok(0)
    }
}

/// Out of the way of who has started us: what it has open is to close when it closes that, and a key of its terminal is no
/// business of ours.
fn caller(numbers: &str) -> Option<Caller> {
    let numbers: Vec<i32> = numbers.split(' ').map_while(|number| number.parse().ok()).collect();
    let [pid, tid, socket, file] = numbers.try_into().ok()?;
    let kept = || -> io::Result<_> { Ok((task::inherited(socket)?, task::inherited(file)?)) };
    let (socket, file) = kept().ok()?;
    task::close_inherited().ok()?;
    stand_aside().ok()?;
    Some(Caller { pid: Pid(pid), tid: Tid(tid), socket: UnixStream::from(socket), file })
}

fn stand_aside() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    nix::unistd::setsid()?;
    Ok(())
}
