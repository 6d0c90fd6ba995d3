//! SHIM by the lead until helper proc lands the real file: replace it wholly.
#[derive(Clone, Copy)]
pub enum Shared {
    Memory,
    Files,
    FileSystem,
}
pub fn same_resource(a: brant_base::Pid, b: brant_base::Pid, kind: Shared) -> bool {
    let k = match kind {
        Shared::Memory => 1,
        Shared::Files => 2,
        Shared::FileSystem => 3,
    };
    // SAFETY: numbers
    unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, k, 0, 0) == 0 }
}
