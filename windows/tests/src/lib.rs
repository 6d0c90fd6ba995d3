//! Drives programs and `brant.exe` under Wine, from Linux.
//!
//! `cargo xtask windows` says by variables where the programs were built and where the prefixes are. Every call has a limit, and
//! what it leaves running is ended by its number.
#![forbid(unsafe_code)]

mod fixture;
mod folder;
pub mod packages;
mod program;
mod registry;
mod user;

pub use fixture::{Built, compile};
pub use folder::{Folder, windows_path};
pub use program::{Running, Said, Wine};
pub use registry::{Package, shipped};
