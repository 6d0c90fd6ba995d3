//! Building the tree, one file for each kind, named as in `image::model`.

pub(crate) mod files;
pub(crate) mod shape;
