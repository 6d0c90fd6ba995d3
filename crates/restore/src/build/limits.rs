//! Resource limits and what else a process has as a whole: working directory, umask, personality and so on.

use brant_base::Pid;
use brant_image::model::{Limit, ProcessBody};

use super::script::Script;
use crate::Plan;

/// Directories, umask and personality. Runs before descriptors are placed.
pub(crate) fn set_surroundings(script: &mut Script, body: &ProcessBody, plan: &Plan) {
    let path = |script: &mut Script, path: &[u8]| script.put(&[path, &[0]].concat());
    if body.root != b"/" && !body.root.is_empty() {
        let at = path(script, &plan.path(&body.root));
        script.must("changing its root directory", libc::SYS_chroot, &[at]);
    }
    let at = path(script, &plan.path(&body.cwd));
    script.must("entering its working directory", libc::SYS_chdir, &[at]);
    script.must("setting its umask", libc::SYS_umask, &[u64::from(body.umask)]);
    script.must("setting its personality", libc::SYS_personality, &[body.personality]);
    if body.child_subreaper {
        script.must(
            "becoming a subreaper",
            libc::SYS_prctl,
            &[libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0, 0],
        );
    }
    if body.thp_disabled {
        script.must("disabling huge pages", libc::SYS_prctl, &[libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0]);
    }
    for bit in (0..64).filter(|bit| body.membarrier_registrations & (1 << bit) != 0) {
        script.may("registering for membarrier", libc::SYS_membarrier, &[1 << bit, 0, 0]);
    }
}

/// All limits. Runs when everything exists that a limit could forbid. `hard_now` are our own hard limits where we may
/// not raise them.
pub(crate) fn set_limits(
    script: &mut Script,
    pid: Pid,
    limits: &[Limit],
    hard_now: &[u64],
    warnings: &mut Vec<String>,
) {
    for (resource, limit) in limits.iter().enumerate() {
        let most = hard_now.get(resource).copied().unwrap_or(u64::MAX);
        if limit.hard > most {
            warnings.push(format!(
                "process {pid}: its hard limit number {resource} was {}, this user may have {most}",
                limit.hard
            ));
        }
        let words = [limit.soft.min(most), limit.hard.min(most)];
        let at = script.put(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
        script.must("setting a resource limit", libc::SYS_prlimit64, &[0, resource as u64, at, 0]);
    }
}

/// The hard limits that we have ourselves, in the order of their numbers; empty for root, who may raise any.
pub(crate) fn own_hard_limits(is_root: bool) -> Vec<u64> {
    if is_root {
        return Vec::new();
    }
    let own = Pid(std::process::id() as i32);
    brant_kernel::proc::limits(own)
        .map(|limits| limits.iter().map(|pair| pair.hard).collect())
        .unwrap_or_default()
}
