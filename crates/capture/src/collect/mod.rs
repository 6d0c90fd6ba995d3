//! From a frozen tree to the model: one file for each kind, named as in `image::model`.

pub(crate) mod host;
pub(crate) mod memory;
pub(crate) mod process;
mod signals;
mod thread;
mod timers;
