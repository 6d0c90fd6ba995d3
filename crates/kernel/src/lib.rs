//! The unsafe quarantine: the remote hand (ptrace and remote system calls), /proc, and the host's abilities.
//!
//! Every other crate of the engine forbids unsafe code. What lies here is offered as safe functions whose
//! worst outcome on a vanished or hostile target is an error.

pub mod descriptor;
pub mod elf;
pub mod ending;
pub mod executable;
pub mod facts;
pub mod make;
pub mod namespace;
pub mod patience;
pub mod proc;
pub mod ptrace;
pub mod remote;
pub mod sleep;
pub mod sockdiag;
pub mod task;
pub mod thread;
