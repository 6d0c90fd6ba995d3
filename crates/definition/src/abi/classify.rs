//! The classes of eightbytes.
//!
//! Without packed structs, unions and vectors the ABI's rules come down to these: what is larger than 16 bytes is in
//! memory; an eightbyte is INTEGER where any part of it is, else SSE; a `long double` fills what it is in.

use super::layout::{Layout, offsets};
use crate::signature::{Kind, Type};

/// The class of eight bytes that travel in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Integer,
    Sse,
}

/// How a value travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passing {
    /// In registers of these classes, one for each eight bytes: one or two.
    Registers(Vec<Class>),
    /// `long double`: on the stack as an argument, in `st0` as a result.
    X87,
    /// `long double _Complex`: on the stack as an argument, in `st0` and `st1` as a result.
    ComplexX87,
    /// On the stack as an argument, through a hidden pointer as a result.
    Memory,
}

pub fn passing(kind: &Type) -> Passing {
    let bytes = Layout::of(kind).bytes;
    if bytes > 16 {
        // Only a complex that stands alone: in a struct it is memory.
        return if matches!(kind, Type::Scalar(_)) { Passing::ComplexX87 } else { Passing::Memory };
    }
    let mut found = Found::default();
    found.add(kind, 0);
    if found.has_x87 {
        return Passing::X87;
    }
    let count = bytes.div_ceil(8) as usize;
    let class = |is_integer: &bool| if *is_integer { Class::Integer } else { Class::Sse };
    Passing::Registers(found.is_integer[..count].iter().map(class).collect())
}

/// What lies in the first 16 bytes.
#[derive(Default)]
struct Found {
    /// Of each eightbyte, whether any part of it is INTEGER.
    is_integer: [bool; 2],
    has_x87: bool,
}

impl Found {
    /// Recursion is bounded by the depth of structs, and arrays by the 16 bytes that all of it has.
    fn add(&mut self, kind: &Type, offset: u32) {
        match kind {
            Type::Scalar(scalar) => match scalar.kind() {
                Kind::Signed | Kind::Unsigned => self.is_integer[offset as usize / 8] = true,
                Kind::Float => self.has_x87 |= scalar.bytes() == 16,
                Kind::Complex => {}
            },
            Type::Pointer(_) => self.is_integer[offset as usize / 8] = true,
            Type::Struct(inner) => {
                for (at, field) in offsets(inner.fields()) {
                    let each = Layout::of(&field.kind).bytes;
                    for index in 0..field.count.unwrap_or(1) {
                        self.add(&field.kind, offset + at.unwrap_or(0) + index * each);
                    }
                }
            }
        }
    }
}
