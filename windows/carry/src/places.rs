//! Addresses that are the same in every carried program, on every Windows. Nothing else lies there: the loader puts libraries above
//! 0x7ff0'0000'0000 or where they ask to be, below 16 GiB, and VirtualAlloc begins at the bottom.

/// Values of HMODULE for libraries of the system, 64 KiB each. Reserved, never committed.
pub(crate) const SYSTEM_MODULES: usize = 0x05C0_0000_0000;
pub(crate) const SYSTEM_MODULES_MAX: usize = 64;
/// Copies of C libraries that the program has for itself.
pub(crate) const PRIVATE_MODULES: usize = 0x05D0_0000_0000;
pub(crate) const PRIVATE_MODULE_BYTES: usize = 0x0100_0000;
pub(crate) const PRIVATE_MODULES_MAX: usize = 8;
/// Code that the program calls instead of functions of the system.
pub(crate) const THUNKS: usize = 0x05E0_0000_0000;
pub(crate) const THUNK_BYTES: usize = 16;
pub(crate) const FUNCTIONS_MAX: usize = 4096;
/// Where the thunks lead: one address each.
pub(crate) const TARGETS: usize = THUNKS + 0x4_0000;
pub(crate) const THUNKS_BYTES: usize = 0x5_0000;
/// What we know of the program ([`crate::state::State`]).
pub(crate) const STATE: usize = 0x05F0_0000_0000;
/// Heaps, regions and stacks.
pub(crate) const SPACE: usize = 0x0600_0000_0000;
pub(crate) const SPACE_BYTES: usize = 32 << 30;
