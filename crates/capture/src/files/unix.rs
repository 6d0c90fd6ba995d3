//! Unix sockets: who is connected to whom (sock_diag).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use brant_base::Refusals;
use brant_image::model::*;
use brant_kernel::descriptor::{self, DescriptorKind, FileStatus};
use brant_kernel::sockdiag::{self, STATE_ESTABLISHED, STATE_LISTEN, UnixEntry};

use super::outside::Outsiders;
use super::{Description, Survey, What, inet, on_its_way};
use crate::refusals::text;

/// A unix socket of the tree whose peer, if it has one, is in the tree too.
pub(crate) struct UnixFound {
    pub(crate) id: UnixSocketId,
    pub(crate) inode: u64,
    pub(crate) description: OpenFileId,
    pub(crate) kind: i32,
    pub(crate) state: UnixSocketState,
    pub(crate) shutdown: u32,
    /// The bound name no longer leads to it.
    pub(crate) address_deleted: bool,
}

/// `sun_path` of an address with its family: without the NULs that end a path, with the one that begins an abstract
/// name.
pub(crate) fn sun_path(address: &[u8]) -> Vec<u8> {
    let path = address.get(2..).unwrap_or_default();
    match path.first() {
        None => Vec::new(),
        Some(0) => path.to_vec(),
        Some(_) => path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
    }
}

pub(super) fn look(survey: &mut Survey, refusals: &mut Refusals) {
    let is_socket = |description: &Description| {
        matches!(description.described.kind, DescriptorKind::Socket(_)) && !description.is_path_only()
    };
    let sockets = survey.descriptions.ids(is_socket);
    let Some(first) = sockets.first() else { return };
    let all = match sockdiag::unix_sockets() {
        Ok(entries) => entries,
        Err(error) => {
            let what = "a socket".to_owned();
            let why = format!("this kernel does not list unix sockets: {error}");
            let first = survey.descriptions.get(*first);
            refusals.push(first.refuse("B-0348", what, why, "use a kernel that has CONFIG_UNIX_DIAG"));
            return;
        }
    };
    let all: HashMap<u64, UnixEntry> = all.into_iter().map(|entry| (entry.inode, entry)).collect();
    let mut own: Vec<(OpenFileId, &UnixEntry)> = Vec::new();
    for id in sockets {
        let description = survey.descriptions.get(id);
        let DescriptorKind::Socket(inode) = description.described.kind else { continue };
        match all.get(&inode) {
            Some(entry) => own.push((id, entry)),
            None => inet::note(survey, id),
        }
    }
    let inside: HashMap<u64, UnixSocketId> =
        own.iter().zip(1..).map(|((_, entry), number)| (entry.inode, UnixSocketId(number))).collect();
    let connected = own.iter().filter(|(_, entry)| entry.state != STATE_LISTEN);
    let wanted: HashSet<Vec<u8>> =
        connected.flat_map(|(_, entry)| [Some(entry.inode), entry.peer]).flatten().map(link).collect();
    let outsiders = Outsiders::find(survey, &wanted);
    for (id, entry) in own {
        let description = survey.descriptions.get(id);
        match state(description, entry, &inside) {
            Ok(state) => carry(survey, id, entry, inside[&entry.inode], state, &outsiders, refusals),
            Err(NoState::OnItsWay(why)) => refusals.push(on_its_way(description, "a unix socket", why)),
            Err(NoState::Outside) => connected_outside(survey, id, entry, &all, &outsiders, refusals),
        }
    }
}

fn link(inode: u64) -> Vec<u8> {
    format!("socket:[{inode}]").into_bytes()
}

fn carry(
    survey: &mut Survey,
    description_id: OpenFileId,
    entry: &UnixEntry,
    id: UnixSocketId,
    state: UnixSocketState,
    outsiders: &Outsiders,
    refusals: &mut Refusals,
) {
    let description = survey.descriptions.get(description_id);
    if let Some(name) = lost_relative_name(description, entry, state) {
        let why = "it is bound to a relative name that is not in its process's working directory";
        let hint = "let the program stay where it binds, or bind absolute names";
        refusals.push(description.refuse("B-0341", format!("the unix socket {name}"), why, hint));
    }
    if let Some(other) = outsiders.of(&link(entry.inode)).first() {
        let why = format!("{} holds it too", other.name());
        let hint = "checkpoint a tree that has all who hold it";
        refusals.push(description.refuse("B-0346", "a unix socket".to_owned(), why, hint));
    }
    inet::refuse_filter(description, refusals);
    let found = UnixFound {
        id,
        inode: entry.inode,
        description: description_id,
        kind: entry.kind,
        state,
        shutdown: u32::from(entry.shutdown),
        address_deleted: !is_bound_there(description, entry),
    };
    survey.descriptions.get_mut(description_id).what = What::Unix(id);
    survey.unix.push(found);
}

fn connected_outside(
    survey: &mut Survey,
    id: OpenFileId,
    entry: &UnixEntry,
    all: &HashMap<u64, UnixEntry>,
    outsiders: &Outsiders,
    refusals: &mut Refusals,
) {
    let peer = entry.peer.unwrap_or(0);
    let bound = all.get(&peer).and_then(|peer| peer.name.as_deref()).or(entry.name.as_deref());
    let at = bound.map_or_else(String::new, |name| format!(" at {}", shown(name)));
    let holder = outsiders.of(&link(peer)).first();
    let who = holder.map_or_else(|| "a process that is not visible here".to_owned(), |other| other.name());
    let what = format!("a unix socket connected to {who}{at}");
    let refusal = survey.descriptions.get(id).refuse(
        "B-0335",
        what.clone(),
        "its other end is outside of the tree",
        "let the program close it; it is no obstacle at descriptors 0 to 2",
    );
    if !survey.connect_outside(&[id], &what) {
        refusals.push(refusal);
    }
}

enum NoState {
    /// The peer is outside of the tree.
    Outside,
    /// Something has to arrive first.
    OnItsWay(&'static str),
}

fn state(
    description: &Description,
    entry: &UnixEntry,
    inside: &HashMap<u64, UnixSocketId>,
) -> Result<UnixSocketState, NoState> {
    const BOTH_WAYS: u8 = 3;
    if entry.state == STATE_LISTEN {
        return if entry.pending.is_empty() && entry.receive_queue == 0 {
            Ok(UnixSocketState::Listening { backlog: entry.send_queue })
        } else {
            Err(NoState::OnItsWay("a connection waits to be accepted"))
        };
    }
    let stream = entry.kind != libc::SOCK_DGRAM;
    match entry.peer {
        Some(0) if stream && entry.shutdown != BOTH_WAYS => {
            // A socket without an inode is one that was not accepted yet, unless it has gone.
            let ended = description.place.duplicate().is_ok_and(|fd| has_hung_up(&fd));
            if ended {
                Ok(UnixSocketState::PeerClosed)
            } else {
                Err(NoState::OnItsWay("it was not accepted yet"))
            }
        }
        Some(0) => Ok(UnixSocketState::PeerClosed),
        Some(peer) => match inside.get(&peer) {
            Some(peer) => Ok(UnixSocketState::Connected { peer: *peer }),
            None => Err(NoState::Outside),
        },
        None if stream && entry.state == STATE_ESTABLISHED => Ok(UnixSocketState::PeerClosed),
        None => Ok(UnixSocketState::Unconnected),
    }
}

fn has_hung_up(fd: &std::os::fd::OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Whether a bound path still leads to the socket; true where there is none to ask for.
fn is_bound_there(description: &Description, entry: &UnixEntry) -> bool {
    let Some((device, inode)) = entry.file else { return true };
    let name = entry.name.as_deref().unwrap_or_default();
    let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
    // A relative name counts from where the process was when it bound it: most likely where it still is.
    let base = std::path::PathBuf::from(format!("/proc/{}/cwd", description.place.holder));
    std::fs::symlink_metadata(base.join(OsStr::from_bytes(path))).is_ok_and(|metadata| {
        let found = FileStatus::from(&metadata);
        found.inode == inode && (found.device == device || found.device.major == 0)
    })
}

/// A relative name counts from where its process was when it bound it. Where it is not found where the process is now,
/// nothing tells whether others can still connect to it. The ends of a connection need no such place.
fn lost_relative_name(
    description: &Description,
    entry: &UnixEntry,
    state: UnixSocketState,
) -> Option<String> {
    let name = entry.name.as_deref().filter(|name| !matches!(name.first(), None | Some(0 | b'/')))?;
    let is_end = entry.kind != libc::SOCK_DGRAM
        && matches!(state, UnixSocketState::Connected { .. } | UnixSocketState::PeerClosed);
    (!is_end && !is_bound_there(description, entry)).then(|| shown(name))
}

/// A bound name for people: `@` begins an abstract one.
fn shown(name: &[u8]) -> String {
    match name.split_first() {
        Some((0, rest)) => format!("@{}", text(rest)),
        _ => text(name.split(|byte| *byte == 0).next().unwrap_or_default()),
    }
}

/// The address that a socket is bound to.
pub(crate) fn bound_address(fd: std::os::fd::BorrowedFd<'_>) -> std::io::Result<Vec<u8>> {
    descriptor::socket_name(fd).map(|address| sun_path(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_cut_to_their_paths() {
        assert_eq!(sun_path(b"\x01\0/tmp/x\0\0"), b"/tmp/x");
        assert_eq!(sun_path(b"\x01\0\0abstract\0"), b"\0abstract\0");
        assert_eq!(sun_path(b"\x01\0"), b"");
        assert_eq!(sun_path(b""), b"");
        assert_eq!((shown(b"\0name"), shown(b"/a\0")), ("@name".to_owned(), "/a".to_owned()));
    }
}
