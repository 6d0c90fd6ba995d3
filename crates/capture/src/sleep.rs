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
    let number = match registers.interrupted() {
        Interrupted::No => return (registers, None),
        Interrupted::Restart { .. } => return (registers.as_resumed_by_kernel(), None),
        Interrupted::RestartBlock { number } => thread
            .sleep
            .map(|sleep| sleep.number)
            .filter(|_| number == libc::SYS_restart_syscall as u64)
            .unwrap_or(number),
        Interrupted::Eintr { .. } => match sleep::ended_by_stop(thread.host, &registers) {
            None => return (registers, None),
            Some(number) => number,
        },
    };
    let again = registers.with_call_again(number);
    let form = timeout_form(number as i64, again.arguments());
    let elapsed = thread.sleep.map(|sleep| sleep.elapsed).unwrap_or_default();
    let call = form.and_then(|form| timeout_ns(form, &again, memory)).map(|timeout_ns| InterruptedCall {
        number,
        remaining_ns: timeout_ns.saturating_sub(elapsed.as_nanos() as u64),
    });
    (again, call)
}

fn timeout_ns(form: TimeoutForm, registers: &UserRegisters, memory: &Memory) -> Option<u64> {
    let value = |argument: usize| registers.arguments()[argument];
    match form {
        TimeoutForm::Milliseconds { argument } => Some(value(argument) as u32 as u64 * 1_000_000),
        TimeoutForm::Timespec { argument } => {
            let [seconds, nanoseconds] = memory.read_value::<[i64; 2]>(Addr(value(argument))).ok()?;
            let seconds_ns = u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?;
            seconds_ns.checked_add(u64::try_from(nanoseconds).ok()?)
        }
    }
}
