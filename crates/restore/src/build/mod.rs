//! Building the tree, one file for each kind, named as in `image::model`.

pub(crate) mod files;
pub(crate) mod memory;
pub(crate) mod shape;
pub(crate) mod tree;
pub(crate) mod vdso;
