//! Jobs: programs that brant keeps. One folder each under the user's runtime folder:
//!
//! `jobs/NAME/meta.json` who keeps it and what runs; `socket` where its keeper listens; `log`, `log.old` what
//! it wrote; `ended.json` how it ended; `placeholders.json` which processes only hold a number. Whether a keeper lives is asked of the kernel (pid and start time),
//! never believed from a file that is lying about.

mod meta;
mod reservation;
mod runtime;
mod tree;

pub(crate) use meta::{
    Ended, Job, Meta, Moved, Process, State, boot_id, ends_before, unix_ms, write_placeholders,
};
pub(crate) use reservation::Reservation;
pub(crate) use runtime::{Runtime, connect};
pub(crate) use tree::{children, descendants, stat};
