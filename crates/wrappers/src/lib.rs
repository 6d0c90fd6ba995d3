//! The wrappers that brant carries in itself. `docs/wrappers.md` describes them.
//!
//! This crate is built twice. In brant it has the definitions, checks options before anything is touched, and carries the
//! library with the mediators. That library is the same crate with the feature `loaded`: `inside`, without a standard
//! library, and with imports that every C library has.
#![cfg_attr(feature = "loaded", no_std)]
#![cfg_attr(not(feature = "loaded"), forbid(unsafe_code))]

mod errno;
pub mod follow;
mod options;

#[cfg(feature = "loaded")]
mod inside;

#[cfg(not(feature = "loaded"))]
mod shipped;

pub use options::{ARENA_TO_LIST, ARENAS_ANCHORED, FREE_MAGIC, FREE_WORDS, GROUPS_MAX, GROUPS_NOTED};
#[cfg(not(feature = "loaded"))]
pub use shipped::{FOLLOW, IMPLEMENTATION, LIBRARY, Shipped, all, begin_at_start, find, prepare};
