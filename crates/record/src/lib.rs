//! What the wrapper `record` keeps of a program: its external state as seen at its API.
//!
//! [`layout`] is how it lies in the program's memory; the library in the program has no more than that. With the feature `read`:
//! a [`Snapshot`] is what was read of it, from a process that runs on ([`read`]) or from an image ([`Snapshot::decode`]), and a
//! [`Record`] is what it says.
#![cfg_attr(not(feature = "read"), no_std)]
#![forbid(unsafe_code)]

pub mod layout;

#[cfg(feature = "read")]
mod live;
#[cfg(feature = "read")]
mod model;
#[cfg(feature = "read")]
mod outside;
#[cfg(feature = "read")]
mod snapshot;

#[cfg(feature = "read")]
pub use live::{ReadError, read};
#[cfg(feature = "read")]
pub use model::{
    Address, Begin, Child, Descriptor, Display, HeapTotals, Mapped, Record, Redirection, SleepTotals,
    Sleeping, SocketState, Task, Text, What,
};
#[cfg(feature = "read")]
pub use outside::{Compared, Outside};
#[cfg(feature = "read")]
pub use snapshot::{Malformed, Snapshot};
