//! Building the tree, one file for each kind, named as in `image::model`.

pub(crate) mod credentials;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod script;
pub(crate) mod shape;
pub(crate) mod signals;
pub(crate) mod threads;
pub(crate) mod timers;
pub(crate) mod tree;
pub(crate) mod vdso;
