//! The words every other crate uses: addresses, page ranges, process and thread ids, refusals.
//!
//! No I/O happens here (but for [`fault`], in test builds) and nothing depends on an operating system.
#![forbid(unsafe_code)]

mod address;
pub mod fault;
mod id;
mod redacted;
mod refusal;

pub use address::{Addr, PAGE_SIZE, PageRange, RangeError};
pub use id::{Pid, Tid};
pub use redacted::Redacted;
pub use refusal::{Refusal, Refusals};
