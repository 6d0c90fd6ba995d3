//! The two-host driver: hands a program over from a source to a destination.
//!
//! - [`wire`]: what goes over the connection, byte by byte. Pure.
//! - [`Link`]: one end of a connection; every wait on it has a limit.
//! - [`hand_over`] and [`take_over`]: the phases, in order, on either side. They know neither how a program is captured
//!   nor how it is restored: [`Source`] and [`Destination`] do, which the binary supplies.
//!
//! What must hold whatever fails, on either side, at any instant: the program runs in one place, or it can be resumed in
//! one place without a flag that says so. The order of the phases alone ensures it; `docs/protocol.md` has the table.
#![forbid(unsafe_code)]

mod destination;
mod error;
mod link;
mod source;
pub mod wire;

pub use destination::{Destination, Taken, take_over};
pub use error::Error;
pub use link::{AliveGuard, ImageStream, Interruption, Limits, Link, Waited};
pub use source::{GaveUp, Outcome, Phase, Source, Standing, compare, greet, hand_over};
