//! Signals.

use brant_base::{Addr, Redacted};
use prost::Message;

use crate::model;

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignalAction {
    #[prost(uint64, tag = "1")]
    handler: u64,
    #[prost(uint64, tag = "2")]
    flags: u64,
    #[prost(uint64, tag = "3")]
    restorer: u64,
    #[prost(fixed64, tag = "4")]
    mask: u64,
}

impl From<&model::SignalAction> for SignalAction {
    fn from(from: &model::SignalAction) -> SignalAction {
        SignalAction {
            handler: from.handler.0,
            flags: from.flags,
            restorer: from.restorer.0,
            mask: from.mask,
        }
    }
}

impl From<SignalAction> for model::SignalAction {
    fn from(from: SignalAction) -> model::SignalAction {
        model::SignalAction {
            handler: Addr(from.handler),
            flags: from.flags,
            restorer: Addr(from.restorer),
            mask: from.mask,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueuedSignal {
    #[prost(int32, tag = "1")]
    signal: i32,
    #[prost(bytes = "vec", tag = "2")]
    info: Vec<u8>,
}

impl From<&model::QueuedSignal> for QueuedSignal {
    fn from(from: &model::QueuedSignal) -> QueuedSignal {
        QueuedSignal { signal: from.signal, info: from.info.0.clone() }
    }
}

impl From<QueuedSignal> for model::QueuedSignal {
    fn from(from: QueuedSignal) -> model::QueuedSignal {
        model::QueuedSignal { signal: from.signal, info: Redacted(from.info) }
    }
}
