//! Telling the wrappers of a process that it is about to be checkpointed, so that they write what waits in their buffers.
//!
//! State of the target: as of any session (`session`); it runs on in every case. Nothing is put on or taken off.

use brant_base::Pid;
use brant_hook::exchange::{Event, Reply, Request};

use crate::error::Error;
use crate::runtime::Runtime;
use crate::session::Session;
use crate::stop::by_thread_that_ends;
use crate::target::Target;
use crate::{Turn, listed, waiter};

/// Tells every wrapper that is on. How many there are; none in a process that has no wrappers, which is not touched then.
pub fn tell_of_checkpoint(pid: Pid) -> Result<usize, Error> {
    if Runtime::find(pid)?.is_none() {
        return Ok(0);
    }
    by_thread_that_ends(|| tell_wrappers_of(pid))
}

fn tell_wrappers_of(pid: Pid) -> Result<usize, Error> {
    let _turn = Turn::take(pid)?;
    let waiter = waiter(pid)?;
    let target = Target::inspect(pid)?;
    let mut session = Session::open(&waiter, &target, false, &[])?;
    let told = tell(&mut session);
    session.close_after(told)
}

fn tell(session: &mut Session<'_>) -> Result<usize, Error> {
    let mut told = 0;
    for wrapper in listed(session)?.iter().filter(|wrapper| wrapper.is_on) {
        match session.ask(&Request::Tell { wrapper: wrapper.id, event: Event::Save })? {
            // There is nothing to decline: whatever it answers, it has been told.
            Reply::Told(_) => told += 1,
            _ => return Err(Error::Runtime(Pid(session.thread.tid.0))),
        }
    }
    Ok(told)
}
