//! The hook engine: mediators before functions of libraries, put on and taken off while the program runs.
//!
//! [`wrap`] loads the implementation, plans every jump, and writes them all while no other thread runs ([`stop`]); [`unwrap`] takes
//! the layers out in the same way, waits until no call is under way in them, and unloads the implementation. Libraries that are
//! loaded later get their jumps while the loader tells of them ([`later`]), before any of their code has run.
//!
//! The engine's table has a lock; the loader's lock is taken before it wherever the loader is needed ([`loader`]).

mod call;
mod code;
mod commit;
mod event;
mod implementation;
mod later;
mod list;
mod loader;
mod modules;
mod room;
mod stop;
mod table;
mod unwrap;
mod wrap;

pub(crate) use call::Layer;
pub(crate) use list::wrappers;
pub(crate) use stop::living;
pub(crate) use unwrap::unwrap;
pub(crate) use wrap::wrap;
