//! What a checkpoint is: the model, its wire format, the container that holds it, and its validation.
//!
//! This crate reads and writes bytes; it knows no running process. `docs/format.md` describes every byte.
#![forbid(unsafe_code)]

pub mod container;
mod error;
pub mod inspect;
pub mod model;
mod validate;
mod wire;

pub use container::{
    Codec, Head, Identity, Image, ImageId, Note, Pack, PackRun, PageContent, PageSource, Run, SourceRun,
    Summary, Writer, is_zero_page, section_memory_bytes,
};
pub use error::ImageError;
pub use validate::validate;
