//! End-to-end tests of the `brant` binary, as a plain user drives it.
//!
//! Nothing here is linked into brant. A test names a fixture program (`fixtures/programs/NAME.c`, or a real program
//! from a package), a list of [`Action`]s, and what must be true afterwards; [`check`](fn@check) does the rest in a
//! [`Sandbox`]: a folder of its own, a plain user, limits on every wait, and at the end a look for what was left
//! behind. A test that cannot run here calls [`skip`] with the missing ability; CI compares those with what it expects.
#![forbid(unsafe_code)]

mod ability;
mod check;
mod compiler;
mod denied;
mod document;
mod other_root;
mod program;
mod random;
mod sandbox;
mod session;
mod small_disk;

pub use ability::{Who, have_command, is_full, is_root, skip};
pub use check::{Action, Mode, Verdict, check, refused};
pub use document::faults_of_blocks;
pub use other_root::OtherRoot;
pub use program::{
    Program, brant_binary, faulty_brant_binary, fixture_binary, repository, static_brant_binary,
};
pub use random::Random;
pub use sandbox::{Outcome, Sandbox, Started, wait_until};
pub use session::{Prompt, Session, Step};
pub use small_disk::SmallDisk;
