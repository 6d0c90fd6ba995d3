//! Open descriptors of a target: what they are, and their state, read through a duplicate of ours.
//!
//! A duplicate shares the open file description with the target (pidfd_getfd(2)). So nothing here moves a
//! position, takes a byte or changes a flag; the exceptions say so ([`peek_socket`], [`copy_terminal_queues`]).

mod flags;
mod identity;
mod kind;
mod pipe;
mod socket;
mod terminal;
mod terminal_queue;

pub use flags::{Owner, OwnerKind, owner, owner_signal, queued_bytes, seals, status_flags};
pub use identity::{Kcmp, PidFd, Shared, kcmp, resource_order, same_resource};
pub use kind::{Described, DescriptorKind, FileStatus, describe, file_status};
pub use pipe::{peek_pipe, pipe_capacity_bytes};
pub use socket::{
    SocketMessage, is_in_group, peek_socket, socket_domain, socket_kind, socket_name, socket_option,
    socket_peer, socket_protocol,
};
pub use terminal::{
    TERMINAL_SETTINGS_BYTES, TerminalState, terminal_index, terminal_settings, terminal_state,
};
pub use terminal_queue::{TerminalQueues, copy_terminal_queues, fill_terminal_queues};

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The result of a call that answers -1 and sets errno.
fn checked(result: libc::c_int) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl that fills in one value.
fn ioctl_read<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
) -> io::Result<T> {
    let mut value = T::new_zeroed();
    // SAFETY: callers in this module name requests that write one value of type `T`.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}
