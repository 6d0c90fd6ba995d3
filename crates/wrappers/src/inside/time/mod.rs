//! `time`: the program's time goes faster, slower, or is another one.
//!
//! Clocks that the program reads are given by a straight line from the real ones; times that it gives to functions are led back
//! by the same line. Clocks of processor time are left alone.

mod arguments;
mod calls;
mod clocks;
mod condition;
mod reads;
mod sleeps;
mod timers;

pub(super) fn prepare(options: &str) -> Result<(), &'static str> {
    clocks::prepare(options)?;
    condition::prepare();
    Ok(())
}
