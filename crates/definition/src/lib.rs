//! Wrapper definition files (`*.wrap`): which mediator of which implementation stands before which function.
//!
//! ```text
//! wrapper trace implementation "libtrace.so"
//! wrap pthread_create in libc with my_pthread_create size 32
//! ```
//!
//! This crate takes bytes and gives a [`Definition`], or every error of the file at once ([`Errors`]) with its place.
//! It does no I/O and knows no operating system. [`abi`] tells where the System V ABI passes the arguments and the
//! result of a [`Signature`]. `docs/definitions.md` describes the language.
#![forbid(unsafe_code)]

mod span;

mod lexer;
mod model;
mod parser;
mod print;
mod signature;

pub mod abi;

mod explain;
mod problem;
mod report;
mod suggest;

#[cfg(test)]
mod properties;

pub use explain::EXPLANATIONS;
pub use model::{Definition, Library, Name, NameError, PathText, Wrap, Wrapper};
pub use parser::parse;
pub use problem::Problem;
pub use report::{Diagnostic, Errors};
pub use signature::{
    Field, Identifier, Kind, Parameter, Pointee, Pointer, Scalar, Signature, Struct, StructError, Tag, Type,
};
pub use span::{Position, Span};

/// The calling convention that `size`, `stack`, `sret` and `sig` are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// The grammar alone: what a file says about arguments is not judged.
    Any,
    /// System V, x86-64: Linux.
    SysV,
}

/// A file is at most this long, so it has at most 55,188 `wrap` statements.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// A name or a path is at most this long.
pub const NAME_BYTES_MAX: usize = 4096;
/// `size` and `stack` are at most this, and so are the stack arguments of a signature.
pub const ARGUMENT_BYTES_MAX: u32 = 65_536;
/// A signature has at most this many parameters.
pub const PARAMETERS_MAX: usize = 127;
/// A struct that is passed by value has at most this many fields.
pub const FIELDS_MAX: usize = 1024;
/// Structs, pointers and pointers to functions nest at most this deep.
pub const DEPTH_MAX: u8 = 8;
/// At most this many errors of a file are told; the last one then says that there may be more.
pub const ERRORS_MAX: usize = 200;
