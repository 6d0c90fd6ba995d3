//! Building the tree, one file for each kind, named as in `image::model`.

pub(crate) mod carried;
pub(crate) mod credentials;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod fill;
mod late;
pub(crate) mod limits;
pub(crate) mod memory;
mod peers;
mod pipes;
pub(crate) mod script;
pub(crate) mod shape;
pub(crate) mod signals;
mod sockets;
mod terminals;
pub(crate) mod threads;
pub(crate) mod timers;
pub(crate) mod trampolines;
pub(crate) mod tree;
mod unix;
pub(crate) mod vdso;
