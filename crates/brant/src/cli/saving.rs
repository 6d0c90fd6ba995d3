//! What a checkpoint and a migration do about wrappers of the program before they stop it.

use brant_base::Pid;

use crate::job::descendants;
use crate::report::Report;

/// Tells the wrappers in all processes of these trees to write what waits in their buffers. Where one cannot be told, the
/// program is checkpointed all the same: what waits there travels in the image, and is written by whoever runs on.
pub(super) fn tell_wrappers(report: &Report, roots: &[Pid]) {
    let pids = roots.iter().flat_map(|&root| std::iter::once(root).chain(descendants(root)));
    for pid in pids {
        match brant_connect::tell_of_checkpoint(pid) {
            Ok(0) | Err(brant_connect::Error::Gone(_)) => {}
            Ok(1) => report.detail(&format!("process {pid}: its wrapper was told")),
            Ok(told) => report.detail(&format!("process {pid}: its {told} wrappers were told")),
            Err(error) => report.note(&format!(
                "warning: the wrappers of process {pid} were not told of the checkpoint: {error}"
            )),
        }
    }
}
