//! The keeper of a restored job: forked by the builder, pid 1 of the job's own pid namespace; without such a namespace a
//! subreaper.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use brant_base::{Pid, fault};
use brant_kernel::task;
use brant_restore::Handoff;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use serde::{Deserialize, Serialize};

use super::serve::{KeeperConfig, serve};

/// What the restore's own processes prepare for the keeper before it exists.
pub(crate) struct Inheritance {
    pub(crate) folder: PathBuf,
    pub(crate) name: String,
    pub(crate) listener: UnixListener,
    /// The read end of what a detached job writes.
    pub(crate) output: Option<OwnedFd>,
    /// The client in the foreground.
    pub(crate) client: Option<UnixStream>,
}

/// What goes with the descriptors into the rest of the keeper's life.
#[derive(Serialize, Deserialize)]
struct Notes {
    folder: PathBuf,
    name: String,
    has_status: bool,
    has_output: bool,
    has_client: bool,
}

/// Keeps the restored job. Called in the keeper, with the /proc of its own pid namespace.
pub(crate) fn adopt(inheritance: Inheritance, handoff: Handoff) -> Infallible {
    fault::reach("keeper.adopting");
    let _ = crate::job::write_placeholders(&inheritance.folder, &handoff.sleepers);
    let notes = Notes {
        folder: inheritance.folder,
        name: inheritance.name,
        has_status: !handoff.root_is_child,
        has_output: inheritance.output.is_some(),
        has_client: inheritance.client.is_some(),
    };
    let status = (!handoff.root_is_child).then_some(handoff.status);
    let fixed = [OwnedFd::from(inheritance.listener), handoff.go];
    let optional = [status, inheritance.output, inheritance.client.map(OwnedFd::from)];
    let terminals = handoff.terminals.into_iter().map(|(_, master)| master);
    let keep = fixed.into_iter().chain(optional.into_iter().flatten()).chain(terminals).collect();
    let Ok(notes) = serde_json::to_vec(&notes) else { task::exit_now(1) };
    task::go_on_alone(keep, notes, keep_job);
    task::exit_now(1)
}

/// Descriptors come in the order of [`adopt`].
fn keep_job(descriptors: Vec<OwnedFd>, notes: Vec<u8>) -> ! {
    let Ok(notes) = serde_json::from_slice::<Notes>(&notes) else { task::exit_now(1) };
    let _ = std::env::set_current_dir("/");
    task::set_name(&format!("brant:{}", notes.name));
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let null = null.as_fd();
        let _ = dup2_stdin(null).and_then(|()| dup2_stdout(null)).and_then(|()| dup2_stderr(null));
    }
    let mut descriptors = descriptors.into_iter();
    let mut next = |wanted: bool| if wanted { descriptors.next() } else { None };
    let Some(listener) = next(true) else { task::exit_now(1) };
    let go = next(true);
    let status_pipe = next(notes.has_status);
    let outputs = next(notes.has_output).into_iter().collect();
    let clients = next(notes.has_client).into_iter().map(UnixStream::from).collect();
    serve(KeeperConfig {
        folder: notes.folder,
        listener: listener.into(),
        terminals: descriptors.collect(),
        outputs,
        clients,
        // Comes with the builder's word.
        root: Pid(0),
        status_pipe,
        go,
        end_with_root: true,
    })
}
