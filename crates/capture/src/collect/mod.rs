//! From a frozen tree to the model: one file for each kind, named as in `image::model`.

mod files;
pub(crate) mod host;
pub(crate) mod memory;
mod pipes;
pub(crate) mod process;
mod signals;
mod sockets;
mod terminals;
mod thread;
mod timers;
