//! Sockets.

use brant_base::Redacted;
use prost::{Message, Oneof};

use super::{Malformed, list, malformed, parse};
use crate::model::{self, InetSocketId, OpenFileId, SocketOptions, UnixSocketId, UnixSocketState};

#[derive(Clone, PartialEq, Message)]
pub(super) struct UnixSocket {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(bytes = "vec", tag = "3")]
    address: Vec<u8>,
    #[prost(bool, tag = "4")]
    address_deleted: bool,
    #[prost(oneof = "State", tags = "5, 6, 7, 8")]
    state: Option<State>,
    #[prost(message, repeated, tag = "9")]
    queue: Vec<UnixMessage>,
    #[prost(uint32, tag = "10")]
    shutdown: u32,
    #[prost(message, repeated, tag = "11")]
    options: Vec<SocketOption>,
}

#[derive(Clone, Copy, PartialEq, Oneof)]
enum State {
    #[prost(bool, tag = "5")]
    Unconnected(bool),
    /// The backlog.
    #[prost(uint32, tag = "6")]
    Listening(u32),
    /// The peer.
    #[prost(uint32, tag = "7")]
    Connected(u32),
    #[prost(bool, tag = "8")]
    PeerClosed(bool),
}

impl From<&model::UnixSocket> for UnixSocket {
    fn from(from: &model::UnixSocket) -> UnixSocket {
        let state = match from.state {
            UnixSocketState::Unconnected => State::Unconnected(true),
            UnixSocketState::Listening { backlog } => State::Listening(backlog),
            UnixSocketState::Connected { peer } => State::Connected(peer.0),
            UnixSocketState::PeerClosed => State::PeerClosed(true),
        };
        UnixSocket {
            id: from.id.0,
            kind: from.kind,
            address: from.address.clone(),
            address_deleted: from.address_deleted,
            state: Some(state),
            queue: list(&from.queue),
            shutdown: from.shutdown,
            options: list(&from.options.0),
        }
    }
}

impl TryFrom<UnixSocket> for model::UnixSocket {
    type Error = Malformed;

    fn try_from(from: UnixSocket) -> Result<model::UnixSocket, Malformed> {
        let state = match from.state {
            Some(State::Unconnected(true)) => UnixSocketState::Unconnected,
            Some(State::Listening(backlog)) => UnixSocketState::Listening { backlog },
            Some(State::Connected(peer)) => UnixSocketState::Connected { peer: UnixSocketId(peer) },
            Some(State::PeerClosed(true)) => UnixSocketState::PeerClosed,
            _ => return malformed("unix_socket.state", "is missing or not known"),
        };
        Ok(model::UnixSocket {
            id: UnixSocketId(from.id),
            kind: from.kind,
            address: from.address,
            address_deleted: from.address_deleted,
            state,
            queue: parse(from.queue)?,
            shutdown: from.shutdown,
            options: SocketOptions(parse(from.options)?),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct UnixMessage {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
    #[prost(uint32, repeated, tag = "2")]
    files: Vec<u32>,
    #[prost(bytes = "vec", tag = "3")]
    sender: Vec<u8>,
}

impl From<&model::UnixMessage> for UnixMessage {
    fn from(from: &model::UnixMessage) -> UnixMessage {
        UnixMessage {
            bytes: from.bytes.0.clone(),
            files: from.files.iter().map(|id| id.0).collect(),
            sender: from.sender.clone(),
        }
    }
}

impl From<UnixMessage> for model::UnixMessage {
    fn from(from: UnixMessage) -> model::UnixMessage {
        model::UnixMessage {
            bytes: Redacted(from.bytes),
            files: from.files.into_iter().map(OpenFileId).collect(),
            sender: from.sender,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InetSocket {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(int32, tag = "2")]
    family: i32,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(int32, tag = "4")]
    protocol: i32,
    #[prost(bytes = "vec", tag = "5")]
    local: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    peer: Vec<u8>,
    #[prost(uint32, optional, tag = "7")]
    listening: Option<u32>,
    #[prost(message, repeated, tag = "8")]
    options: Vec<SocketOption>,
}

impl From<&model::InetSocket> for InetSocket {
    fn from(from: &model::InetSocket) -> InetSocket {
        InetSocket {
            id: from.id.0,
            family: from.family,
            kind: from.kind,
            protocol: from.protocol,
            local: from.local.clone(),
            peer: from.peer.clone(),
            listening: from.listening,
            options: list(&from.options.0),
        }
    }
}

impl TryFrom<InetSocket> for model::InetSocket {
    type Error = Malformed;

    fn try_from(from: InetSocket) -> Result<model::InetSocket, Malformed> {
        Ok(model::InetSocket {
            id: InetSocketId(from.id),
            family: from.family,
            kind: from.kind,
            protocol: from.protocol,
            local: from.local,
            peer: from.peer,
            listening: from.listening,
            options: SocketOptions(parse(from.options)?),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct SocketOption {
    #[prost(int32, tag = "1")]
    level: i32,
    #[prost(int32, tag = "2")]
    name: i32,
    #[prost(bytes = "vec", tag = "3")]
    value: Vec<u8>,
}

impl From<&model::SocketOption> for SocketOption {
    fn from(from: &model::SocketOption) -> SocketOption {
        SocketOption { level: from.level, name: from.name, value: from.value.clone() }
    }
}

impl From<SocketOption> for model::SocketOption {
    fn from(from: SocketOption) -> model::SocketOption {
        model::SocketOption { level: from.level, name: from.name, value: from.value }
    }
}
