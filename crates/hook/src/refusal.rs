//! Why a function cannot be hooked.

use core::fmt;

/// Why a function cannot be hooked inline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Refusal {
    /// It ends, and what follows it begins, before the jump would.
    TooShort = 1,
    /// Code of its module branches behind its first byte, into the bytes of the jump.
    BranchInto = 2,
    /// An instruction among its first that is not known or cannot be moved.
    Instruction = 3,
    /// A call that returns into the bytes of the jump, or by a pointer: it cannot be moved.
    Call = 4,
    /// No free memory within 2 GiB.
    TooFar = 5,
    /// Its first bytes in memory are a breakpoint: a debugger is at work.
    Breakpoint = 6,
    /// It returns twice, on a stack that a mediator has left (vfork, the setjmp family).
    ReturnsTwice = 7,
    /// It does not follow the calling convention.
    Convention = 8,
    /// It looks at who calls it (dlopen, dlsym).
    CallerSensitive = 9,
    /// The address that its resolver gave is in no module.
    Resolver = 10,
    /// What it is depends on a resolver, which cannot be asked before its library is relocated, and that library has no
    /// initialiser before which it could be.
    Unrelocated = 11,
    /// Its library was loaded later, and its code could not be made writable.
    Unwritable = 12,
    /// Its library was loaded later, and does not begin with its headers.
    Headers = 13,
    /// A native mediator has one inner function.
    Several = 14,
    /// Its bytes are those of a hook of another kind: of a function before a system call, or the other way round.
    Hooked = 15,
    /// It may be an instruction, or data.
    Doubtful = 16,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 16] = [
        Refusal::TooShort,
        Refusal::BranchInto,
        Refusal::Instruction,
        Refusal::Call,
        Refusal::TooFar,
        Refusal::Breakpoint,
        Refusal::ReturnsTwice,
        Refusal::Convention,
        Refusal::CallerSensitive,
        Refusal::Resolver,
        Refusal::Unrelocated,
        Refusal::Unwritable,
        Refusal::Headers,
        Refusal::Several,
        Refusal::Hooked,
        Refusal::Doubtful,
    ];

    /// The reason of this number.
    pub fn from_number(number: u8) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == number)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::TooShort => "it is too short for a jump",
            Refusal::BranchInto => "code branches into its first bytes",
            Refusal::Instruction => "one of its first instructions cannot be moved",
            Refusal::Call => "a call among its first instructions cannot be moved",
            Refusal::TooFar => "there is no free memory within 2 GiB of it",
            Refusal::Breakpoint => "a breakpoint is set in its first bytes",
            Refusal::ReturnsTwice => "it returns twice",
            Refusal::Convention => "it does not follow the calling convention",
            Refusal::CallerSensitive => "what it does depends on who calls it",
            Refusal::Resolver => "its resolver gives an address outside of every module",
            Refusal::Unrelocated => "its resolver cannot be asked while its library is being loaded",
            Refusal::Unwritable => "the code of its library cannot be made writable",
            Refusal::Several => {
                "a native mediator is for one function only: name a version, or give each function a mediator of its own"
            }
            Refusal::Headers => "its library does not begin with its headers",
            Refusal::Hooked => "a function and a system call share these bytes, and the other one is wrapped",
            Refusal::Doubtful => "it cannot be told whether it is an instruction",
        })
    }
}

/// Functions that are never hooked, by the names of glibc and musl.
pub fn refused_by_name(name: &[u8]) -> Option<Refusal> {
    match name {
        b"vfork" | b"__vfork" | b"__libc_vfork" => Some(Refusal::ReturnsTwice),
        b"setjmp" | b"_setjmp" | b"sigsetjmp" | b"__sigsetjmp" | b"__setjmp" | b"getcontext"
        | b"swapcontext" => Some(Refusal::ReturnsTwice),
        b"__tls_get_addr" | b"__fentry__" | b"mcount" | b"_mcount" | b"_start" | b"_init" | b"_fini" => {
            Some(Refusal::Convention)
        }
        b"dlopen" | b"dlmopen" | b"dlsym" | b"dlvsym" | b"__libc_dlopen_mode" | b"__libc_dlsym" => {
            Some(Refusal::CallerSensitive)
        }
        _ if name.starts_with(b"_dl_runtime_") || name.starts_with(b"_dl_tlsdesc_") => {
            Some(Refusal::Convention)
        }
        _ => None,
    }
}
