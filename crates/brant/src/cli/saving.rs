//! What a checkpoint and a migration do about wrappers of the program before they stop it.

use std::time::{Duration, Instant};

use brant_base::Pid;
use brant_connect::Error;
use brant_connect::follow::is_under_way;

use crate::job::{descendants, stat};
use crate::report::Report;

/// How long others may be at the wrappers of the processes: brants that put them on programs that are executed.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(10);
const OTHERS_PAUSE: Duration = Duration::from_millis(10);

/// Tells the wrappers in all processes of these trees to write what waits in their buffers. Where one cannot be told, the
/// program is checkpointed all the same: what waits there travels in the image, and is written by whoever runs on.
pub(super) fn tell_wrappers(report: &Report, roots: &[Pid]) {
    let deadline = Instant::now() + OTHERS_TIMEOUT;
    let pids = roots.iter().flat_map(|&root| std::iter::once(root).chain(descendants(root)));
    for pid in pids {
        match tell(pid, deadline) {
            Ok(0) | Err(Error::Gone(_)) => {}
            Ok(1) => report.detail(&format!("process {pid}: its wrapper was told")),
            Ok(told) => report.detail(&format!("process {pid}: its {told} wrappers were told")),
            Err(error) => report.note(&format!(
                "warning: the wrappers of process {pid} were not told of the checkpoint: {error}"
            )),
        }
    }
}

fn tell(pid: Pid, deadline: Instant) -> Result<usize, Error> {
    loop {
        let was_followed = is_under_way(&[pid]);
        let told = match was_followed {
            true => Err(Error::Busy(pid)),
            false => brant_connect::tell_of_checkpoint(pid),
        };
        match told {
            Err(_) if !stat(pid).is_some_and(|stat| stat.is_alive()) => return Err(Error::Gone(pid)),
            // It may be one that has been begun meanwhile.
            Err(Error::Busy(_) | Error::Traced { .. } | Error::NotAllowed(..))
                if Instant::now() < deadline =>
            {
                std::thread::sleep(OTHERS_PAUSE);
            }
            other => return other,
        }
    }
}
