//! What an image holds of a call that a thread sleeps in: how much of its time-out is left (see `brant_kernel::sleep`), and
//! how the call goes on.

use brant_base::Addr;
use brant_image::model::InterruptedCall;
use brant_kernel::ptrace::{Interrupted, UserRegisters};
use brant_kernel::remote::{Memory, TimeoutForm, timeout_form};
use brant_kernel::sleep;

use crate::freeze::FrozenThread;

/// What an image holds of a thread's call: the registers that it goes on with, and what is left of a time-out.
pub(crate) fn for_image(thread: &FrozenThread, memory: &Memory) -> (UserRegisters, Option<InterruptedCall>) {
    let registers = thread.at_stop;
    let again = match registers.interrupted() {
        Interrupted::Restart { .. } => return (registers.as_resumed_by_kernel(), None),
        Interrupted::RestartBlock { number } if number != libc::SYS_restart_syscall as u64 => {
            registers.with_call_again(number)
        }
        Interrupted::No | Interrupted::RestartBlock { .. } => match again_after_restart(thread, memory) {
            None => return (registers.as_resumed_by_kernel(), None),
            Some(again) => again,
        },
        Interrupted::Eintr { .. } => match sleep::ended_by_stop(thread.host, &registers) {
            None => return (registers, None),
            Some(number) => registers.with_call_again(number),
        },
    };
    let number = again.rax;
    let form = timeout_form(number as i64, again.arguments());
    let elapsed = thread.sleep.map(|sleep| sleep.elapsed).unwrap_or_default();
    let remaining_ns = form.and_then(|form| match told_remainder(number, &again) {
        Some(at) => timespec_ns(at, memory),
        None => Some(timeout_ns(form, &again, memory)?.saturating_sub(elapsed.as_nanos() as u64)),
    });
    (again, remaining_ns.map(|remaining_ns| InterruptedCall { number, remaining_ns }))
}

/// Where the kernel has told the program what is left of its sleep: it does so whenever one is interrupted, by our stop too. A
/// program that sleeps on gives the same place for both, so that what it asked for is no longer there.
fn told_remainder(number: u64, registers: &UserRegisters) -> Option<u64> {
    let at = match number as i64 {
        libc::SYS_nanosleep => registers.rsi,
        libc::SYS_clock_nanosleep => registers.r10,
        _ => 0,
    };
    (at != 0).then_some(at)
}

/// The registers of a thread whose call the kernel goes on with under another number, or which is about to.
fn again_after_restart(thread: &FrozenThread, memory: &Memory) -> Option<UserRegisters> {
    let registers = &thread.at_stop;
    let is_restart = |number: &u64| *number == libc::SYS_restart_syscall as u64;
    match (registers.interrupted(), thread.sleep) {
        (Interrupted::RestartBlock { .. }, Some(sleep)) if !is_restart(&sleep.number) => {
            Some(registers.with_call_again(sleep.number))
        }
        _ => sleep::with_sleep_again(memory, registers),
    }
}

fn timeout_ns(form: TimeoutForm, registers: &UserRegisters, memory: &Memory) -> Option<u64> {
    let value = |argument: usize| registers.arguments()[argument];
    match form {
        TimeoutForm::Milliseconds { argument } => Some(value(argument) as u32 as u64 * 1_000_000),
        TimeoutForm::Timespec { argument } => timespec_ns(value(argument), memory),
    }
}

fn timespec_ns(at: u64, memory: &Memory) -> Option<u64> {
    let [seconds, nanoseconds] = memory.read_value::<[i64; 2]>(Addr(at)).ok()?;
    let seconds_ns = u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?;
    seconds_ns.checked_add(u64::try_from(nanoseconds).ok()?)
}
