//! Signatures: the arguments and the result of a function, in the words of C.
//!
//! Only what decides where arguments are passed is kept, and the names that make a trace readable.

mod letters;
mod parse;
mod print;
mod scalar;

pub use scalar::{Kind, Scalar};

pub(crate) use parse::parse;

use std::fmt;
use std::num::NonZeroU8;
use std::sync::Arc;

use crate::abi::Layout;
use crate::{ARGUMENT_BYTES_MAX, DEPTH_MAX, FIELDS_MAX, NAME_BYTES_MAX};

/// `int(const char* path, int flags, ...)`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// Nothing for `void`.
    pub result: Option<Type>,
    /// At most [`crate::PARAMETERS_MAX`].
    pub parameters: Vec<Parameter>,
    /// Whether it ends with `...`.
    pub is_variadic: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    pub kind: Type,
    pub name: Option<Identifier>,
}

/// A type that is passed by value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Scalar(Scalar),
    Pointer(Pointer),
    Struct(Struct),
}

/// A pointer, or a pointer to pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pointer {
    pub to: Pointee,
    /// Whether what it points to in the end is `const`.
    pub is_const: bool,
    /// 1 for `char*`, 2 for `char**`; at most [`DEPTH_MAX`].
    pub depth: NonZeroU8,
}

/// What a pointer points to in the end. Nothing of it decides where the pointer is passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pointee {
    Void,
    Scalar(Scalar),
    /// A type that some header names: `FILE`.
    Named(Identifier),
    /// `struct stat`.
    Tagged(Tag, Identifier),
    /// A function, whatever its signature.
    Function,
}

/// The word before the tag of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Struct,
    Union,
    Enum,
}

/// A struct that is passed by value. Its alignment is natural: none is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struct {
    tag: Option<Identifier>,
    /// Shared by the fields of one list, so that a short text stays small: `struct { ... } a, b, c`.
    fields: Arc<[Field]>,
    layout: Layout,
    depth: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub kind: Type,
    pub name: Option<Identifier>,
    /// How many there are, where it is an array; one of several dimensions is told as one of all its elements.
    pub count: Option<u32>,
}

impl Field {
    /// How many fields this is, with those of an inner struct.
    pub(crate) fn total(&self) -> usize {
        match &self.kind {
            Type::Struct(inner) => 1 + inner.fields.iter().map(Field::total).sum::<usize>(),
            _ => 1,
        }
    }
}

impl Struct {
    /// A struct of one to [`FIELDS_MAX`] fields, those of inner structs counted in, nested at most [`DEPTH_MAX`] deep, of at most
    /// [`ARGUMENT_BYTES_MAX`] bytes.
    pub fn new(tag: Option<Identifier>, fields: Vec<Field>) -> Result<Struct, StructError> {
        if fields.is_empty() {
            return Err(StructError::Empty);
        }
        if fields.iter().map(Field::total).fold(0, usize::saturating_add) > FIELDS_MAX {
            return Err(StructError::Fields);
        }
        let depth_of = |field: &Field| if let Type::Struct(inner) = &field.kind { inner.depth } else { 0 };
        let depth = fields.iter().map(depth_of).max().unwrap_or(0) + 1;
        if depth > DEPTH_MAX {
            return Err(StructError::Depth);
        }
        if fields.iter().any(|field| field.count == Some(0)) {
            return Err(StructError::EmptyArray);
        }
        let layout = Layout::of_fields(&fields).filter(|layout| layout.bytes <= ARGUMENT_BYTES_MAX);
        Ok(Struct { tag, fields: fields.into(), layout: layout.ok_or(StructError::Size)?, depth })
    }

    pub fn tag(&self) -> Option<&Identifier> {
        self.tag.as_ref()
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Size and alignment for x86-64 Linux.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

/// Why fields are no struct that can be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StructError {
    Empty,
    EmptyArray,
    Fields,
    Depth,
    Size,
}

impl StructError {
    pub(crate) fn why(self) -> &'static str {
        match self {
            StructError::Empty => "a struct has no fields",
            StructError::EmptyArray => "an array has no elements",
            StructError::Fields => "a struct has more than 1024 fields",
            StructError::Depth => "structs nest more than 8 deep",
            StructError::Size => "a struct is larger than 65536 bytes",
        }
    }
}

impl fmt::Display for StructError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

impl std::error::Error for StructError {}

/// A name as C has it, which names no type that is known here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identifier(String);

impl Identifier {
    /// Nothing where the text is no such name, or longer than a name may be.
    pub fn new(text: &str) -> Option<Identifier> {
        let is_start = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        let is_name = text.bytes().next().is_some_and(is_start)
            && text.bytes().all(|byte| is_start(byte) || byte.is_ascii_digit())
            && text.len() <= NAME_BYTES_MAX;
        (is_name && !scalar::is_reserved(text) && Scalar::named(text).is_none())
            .then(|| Identifier(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}
