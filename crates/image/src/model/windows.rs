//! A Windows program: what the Windows part of brant writes instead of processes, descriptors and mappings.
//!
//! All text was UTF-16 there and is UTF-8 here; a program with text that is no Unicode is refused when it is captured. What the agent in the
//! program knows (handles, threads, where functions lead) travels as memory of the program, at [`Windows::state`]; the lists here are
//! what a restore needs before the program is there, and what people read.

use brant_base::{Addr, PageRange};

/// One Windows process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Windows {
    /// Its process number there.
    pub pid: u32,
    /// `10.0.19043`, as the program sees it.
    pub release: String,
    /// The executable, as `C:\programs\x.exe`.
    pub program: String,
    /// As one text, as CreateProcess takes it.
    pub command_line: String,
    /// The current directory.
    pub directory: String,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    /// The layout of the agent's own pages; another agent refuses it.
    pub state_version: u32,
    /// Where they begin.
    pub state: Addr,
    /// The executable first.
    pub modules: Vec<WindowsModule>,
    /// Sorted and disjoint: all memory that travels.
    pub regions: Vec<WindowsRegion>,
    /// Sorted and disjoint: what the system had reserved for the program's heaps, where these are the system's own (`--heaps raw`). A
    /// restore needs these addresses.
    pub heaps: Vec<PageRange>,
    /// At least one.
    pub threads: Vec<WindowsThread>,
    pub handles: Vec<WindowsHandle>,
}

/// A file that is loaded, and whose code the program's memory points into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowsModule {
    pub path: String,
    pub range: PageRange,
    /// blake3 of the file.
    pub digest: [u8; 32],
}

/// Committed pages with the same protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowsRegion {
    pub range: PageRange,
    /// One of PAGE_NOACCESS, PAGE_READONLY and so on, with its modifiers.
    pub protection: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowsThread {
    /// As the program knows it.
    pub number: u32,
    /// The function that it waits in, or empty.
    pub function: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowsHandle {
    /// As the program knows it.
    pub value: u64,
    /// `file C:\x at 17`, `event, manual, set`.
    pub what: String,
}
