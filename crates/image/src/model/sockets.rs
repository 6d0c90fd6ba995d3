//! Sockets.

use brant_base::Redacted;

use super::OpenFileId;

/// Names a [`UnixSocket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSocketId(pub u32);

/// A unix-domain socket.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UnixSocket {
    pub id: UnixSocketId,
    /// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
    pub kind: i32,
    /// `sun_path` as bound, a leading NUL for an abstract name; empty where not bound.
    pub address: Vec<u8>,
    /// The bound name no longer exists in the file system.
    pub address_deleted: bool,
    pub state: UnixSocketState,
    /// Received and not yet read, in order.
    pub queue: Vec<UnixMessage>,
    /// SHUT_RD, SHUT_WR of this side: bit 0 receive, bit 1 send.
    pub shutdown: u32,
    pub options: SocketOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnixSocketState {
    #[default]
    Unconnected,
    Listening {
        backlog: u32,
    },
    /// The peer is in the tree. A datagram socket's peer may be one that is not connected back.
    Connected {
        peer: UnixSocketId,
    },
    /// The peer has gone; what it sent can still be read.
    PeerClosed,
}

/// One message (of a stream: one piece with the same ancillary data).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UnixMessage {
    pub bytes: Redacted<Vec<u8>>,
    /// Descriptors in flight (SCM_RIGHTS).
    pub files: Vec<OpenFileId>,
    /// The sender's name, for datagrams; empty where it had none.
    pub sender: Vec<u8>,
}

/// Names an [`InetSocket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InetSocketId(pub u32);

/// A TCP socket that is not connected (fresh, bound or listening) or a UDP socket.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InetSocket {
    pub id: InetSocketId,
    /// AF_INET or AF_INET6.
    pub family: i32,
    /// SOCK_STREAM or SOCK_DGRAM.
    pub kind: i32,
    /// IPPROTO_ number.
    pub protocol: i32,
    /// `struct sockaddr_in` or `_in6` as getsockname gives it; empty where not bound.
    pub local: Vec<u8>,
    /// The peer of a connected UDP socket; empty for none.
    pub peer: Vec<u8>,
    /// The backlog, for a listening socket.
    pub listening: Option<u32>,
    pub options: SocketOptions,
}

/// Options that were read with getsockopt(2): level, name, value's bytes, to be set in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketOptions(pub Vec<SocketOption>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketOption {
    pub level: i32,
    pub name: i32,
    pub value: Vec<u8>,
}
