//! Plans inline hooks: what to write where, so that calls of a function go elsewhere first and the function can still be
//! called.
//!
//! Pure: bytes in, bytes out. It runs in brant and, without the standard library, in the programs that brant wraps.
//!
//! - [`relocate`](mod@relocate) makes a *trampoline* of a function's first instructions, and says where in it a thread goes on whose
//!   instruction pointer lies among them.
//! - [`padding_near`] finds room for it elsewhere, where the first bytes have none; a short jump leads there.
//! - [`branches_into`] looks for branches into the bytes that are to be overwritten.
//! - [`find_sites`] finds the system calls in code, and [`Site::patch`] plans a jump before one.
//! - [`symbols`] reads a module's dynamic symbols.
//! - [`frames`] tells where functions are that have no symbol.
//! - [`exchange`] is what brant and its runtime in a program say to each other.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod branches;
mod padding;
mod refusal;
mod relocate;
mod sites;

pub mod exchange;
pub mod frames;
pub mod symbols;

pub use branches::branches_into;
pub use padding::padding_near;
pub use refusal::{Refusal, refused_by_name};
pub use relocate::{
    ENDBR, Function, JUMP_BYTES, PROLOGUE_BYTES_MAX, Relocated, SHORT_JUMP_BYTES, TRAMPOLINE_BYTES_MAX, jump,
    relocate, relocate_short, short_jump,
};
pub use sites::{Patch, Places, STUB_BYTES_MAX, Site, Sites, call_check, find_sites};
