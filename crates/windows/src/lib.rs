//! The Windows part's pure half: what `brant.exe` and its agent in a program say to each other ([`Request`], [`Reply`]), how a
//! definition is read there ([`Spec`]), its error codes ([`Refused`], [`EXPLANATIONS`]), and the exports of a loaded
//! library ([`exports`]).
//!
//! Bytes in, bytes out: no I/O, and no operating system. It is built for Windows as a part of the workspace `windows/`, and for
//! Linux, where its tests run and `brant explain` has its codes.
#![forbid(unsafe_code)]

mod explain;
mod message;
mod refused;
mod spec;

pub mod exports;
pub mod record;

pub use explain::EXPLANATIONS;
pub use message::{
    AGENT_ENTRY, AGENT_FILE, Block, Interception, Left, Listed, Missing, PROTOCOL, Reply, Request,
    VirtualHandle, Wrapped,
};
pub use refused::{Code, Refused};
pub use spec::{Callers, Spec, SpecFunction, choose};
