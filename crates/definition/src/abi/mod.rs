//! Where a function's arguments and its result are: the System V ABI for x86-64, section 3.2.3.
//!
//! A hook that calls the original again must give it the same registers and the same bytes of stack. [`Call::of`] tells
//! them from a signature; [`Replay::of`] from whatever a definition file says. What is here is arithmetic; a test
//! compares it with what the C compiler does.

mod check;
mod classify;
mod layout;

pub(crate) use check::check_wrap;
pub use classify::{Class, Passing, passing};
pub use layout::Layout;

use std::fmt;

use crate::model::Wrap;
use crate::signature::{Signature, Type};

/// General registers that carry arguments.
pub const INTEGER_REGISTERS_MAX: u32 = 6;
/// Vector registers that carry arguments.
pub const SSE_REGISTERS_MAX: u32 = 8;

const INTEGER_ARGUMENTS: [Register; INTEGER_REGISTERS_MAX as usize] =
    [Register::Rdi, Register::Rsi, Register::Rdx, Register::Rcx, Register::R8, Register::R9];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Register {
    Rax,
    Rdi,
    Rsi,
    Rdx,
    Rcx,
    R8,
    R9,
    /// `xmm0` to `xmm7`.
    Xmm(u8),
    /// `st0` and `st1`.
    St(u8),
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Register::Rax => f.write_str("rax"),
            Register::Rdi => f.write_str("rdi"),
            Register::Rsi => f.write_str("rsi"),
            Register::Rdx => f.write_str("rdx"),
            Register::Rcx => f.write_str("rcx"),
            Register::R8 => f.write_str("r8"),
            Register::R9 => f.write_str("r9"),
            Register::Xmm(number) => write!(f, "xmm{number}"),
            Register::St(number) => write!(f, "st{number}"),
        }
    }
}

/// Where one argument is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One register for each eight bytes, in the order of the bytes.
    Registers(Vec<Register>),
    /// So many bytes above the return address, counted from the byte behind it.
    Stack { offset: u32, bytes: u32 },
}

/// Where everything of one call is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// One for each parameter.
    pub arguments: Vec<Place>,
    /// How many general registers the arguments take; the pointer of `is_sret` is not counted.
    pub integer_registers: u32,
    /// How many vector registers the arguments take.
    pub sse_registers: u32,
    /// How many bytes of stack above the return address the arguments take: a multiple of 8.
    pub stack_bytes: u32,
    /// Whether the caller passes the address of room for the result in `rdi`. It comes back in `rax`.
    pub is_sret: bool,
    /// The registers of the result: none for `void`, `rax` where `is_sret`.
    pub result: Vec<Register>,
    /// Whether more arguments may follow, in the registers that are left and on the stack; `al` bounds their number
    /// of vector registers.
    pub is_variadic: bool,
}

impl Call {
    pub fn of(signature: &Signature) -> Call {
        let (is_sret, result) = match &signature.result {
            None => (false, Vec::new()),
            Some(result) => place_result(result),
        };
        let mut taken = Taken { integer: u32::from(is_sret), sse: 0, stack_bytes: 0 };
        let arguments = signature.parameters.iter().map(|parameter| taken.place(&parameter.kind)).collect();
        Call {
            arguments,
            integer_registers: taken.integer - u32::from(is_sret),
            sse_registers: taken.sse,
            stack_bytes: taken.stack_bytes.next_multiple_of(8),
            is_sret,
            result,
            is_variadic: signature.is_variadic,
        }
    }

    /// What `size` would say: 8 for each general register of the arguments.
    pub fn size_bytes(&self) -> u32 {
        8 * self.integer_registers
    }
}

/// What a call of the original must repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// General registers to repeat, the pointer of a result included: all six where nothing is known, or where more
    /// arguments may follow.
    pub integer_registers: u32,
    /// Vector registers to repeat: all eight where no signature is known, or where more arguments may follow.
    pub sse_registers: u32,
    /// Bytes to copy from above the return address. Behind a variadic signature this is what `stack` says, or what
    /// the parameters before the dots take.
    pub stack_bytes: u32,
    /// Whether `rdi` is the address of room for the result.
    pub is_sret: bool,
}

impl Replay {
    /// What a `wrap` says, whichever way it says it.
    pub fn of(wrap: &Wrap) -> Replay {
        let call = wrap.signature.as_ref().map(Call::of);
        let is_sret = wrap.sret || call.as_ref().is_some_and(|call| call.is_sret);
        let fixed = call.as_ref().filter(|call| !call.is_variadic);
        let said = match (fixed, &call, wrap.size) {
            (Some(call), _, _) => Some(call.integer_registers),
            (None, None, Some(size)) => Some(size.div_ceil(8)),
            _ => None,
        };
        let most = INTEGER_REGISTERS_MAX;
        Replay {
            integer_registers: said.map_or(most, |said| said.saturating_add(u32::from(is_sret)).min(most)),
            sse_registers: fixed.map_or(SSE_REGISTERS_MAX, |call| call.sse_registers),
            stack_bytes: wrap.stack.or(call.map(|call| call.stack_bytes)).unwrap_or(0),
            is_sret,
        }
    }
}

/// What the arguments before have taken.
struct Taken {
    integer: u32,
    sse: u32,
    stack_bytes: u32,
}

impl Taken {
    fn place(&mut self, kind: &Type) -> Place {
        let in_registers = match passing(kind) {
            Passing::Registers(classes) => self.registers(&classes),
            Passing::X87 | Passing::ComplexX87 | Passing::Memory => None,
        };
        in_registers.map_or_else(|| self.stack(Layout::of(kind)), Place::Registers)
    }

    /// An argument goes into registers as a whole or not at all; a later one may take what it left.
    fn registers(&mut self, classes: &[Class]) -> Option<Vec<Register>> {
        let integer = classes.iter().filter(|class| **class == Class::Integer).count() as u32;
        let sse = classes.len() as u32 - integer;
        if self.integer + integer > INTEGER_REGISTERS_MAX || self.sse + sse > SSE_REGISTERS_MAX {
            return None;
        }
        let mut next = |class: &Class| match class {
            Class::Integer => {
                self.integer += 1;
                INTEGER_ARGUMENTS[self.integer as usize - 1]
            }
            Class::Sse => {
                self.sse += 1;
                Register::Xmm(self.sse as u8 - 1)
            }
        };
        Some(classes.iter().map(&mut next).collect())
    }

    /// No overflow: a signature has at most 127 parameters of at most 64 KiB.
    fn stack(&mut self, Layout { bytes, alignment }: Layout) -> Place {
        let offset = self.stack_bytes.next_multiple_of(alignment.max(8));
        self.stack_bytes = offset + bytes.next_multiple_of(8);
        Place::Stack { offset, bytes }
    }
}

/// Whether the result is written to room of the caller's, and its registers.
fn place_result(kind: &Type) -> (bool, Vec<Register>) {
    let classes = match passing(kind) {
        Passing::Memory => return (true, vec![Register::Rax]),
        Passing::X87 => return (false, vec![Register::St(0)]),
        Passing::ComplexX87 => return (false, vec![Register::St(0), Register::St(1)]),
        Passing::Registers(classes) => classes,
    };
    let (mut integers, mut vectors) = ([Register::Rax, Register::Rdx].into_iter(), 0..);
    let next = |class: &Class| match class {
        Class::Integer => integers.next().expect("at most two eightbytes"),
        Class::Sse => Register::Xmm(vectors.next().expect("without end")),
    };
    (false, classes.iter().map(next).collect())
}
