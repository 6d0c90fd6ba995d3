//! The only producer of images: discovers a process tree, finds what stands in the way, freezes it, writes it down and
//! lets it go on.
#![forbid(unsafe_code)]

mod tree;

pub use tree::Member;
