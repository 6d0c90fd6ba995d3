//! `faults`: the n-th call of a function fails.

use core::sync::atomic::{AtomicU64, Ordering};

use brant_mediator::Function;

use super::system::{self, Once};
use crate::options;

const FUNCTIONS_MAX: usize = 256;

struct Plan {
    first: u64,
    is_lasting: bool,
    errno: u32,
    /// -1, or NULL.
    result: isize,
}

struct Entry {
    calls: AtomicU64,
    plan: Once<Plan>,
}

static ENTRIES: [Entry; FUNCTIONS_MAX] =
    [const { Entry { calls: AtomicU64::new(0), plan: Once::new() } }; FUNCTIONS_MAX];

pub(super) fn prepare(options: &str, functions: &[Function]) -> Result<(), &'static str> {
    for (key, value) in options::each(options).filter(|(key, _)| *key != "as") {
        let fault = options::fault(key, value).ok_or("an option is no fault")?;
        let index = functions.iter().position(|function| function.name() == fault.function.as_bytes());
        let index = index.ok_or("a function of an option is not in the definition")?;
        let entry = ENTRIES.get(index).ok_or("its definition has too many functions")?;
        let result = match functions[index].kinds().first() {
            Some(b'i' | b'l') => -1,
            Some(b's' | b'S' | b'p') => 0,
            _ => return Err("a function that is to fail gives neither a signed integer nor a pointer"),
        };
        entry.plan.set(Plan { first: fault.first, is_lasting: fault.is_lasting, errno: fault.errno, result });
    }
    Ok(())
}

/// Counts a call. What it gives where it is to fail.
fn due(index: usize) -> Option<&'static Plan> {
    let entry = ENTRIES.get(index)?;
    let plan = entry.plan.get()?;
    let number = entry.calls.fetch_add(1, Ordering::Relaxed) + 1;
    (number == plan.first || plan.is_lasting && number > plan.first).then_some(plan)
}

brant_mediator::mediator! {
    /// Before any function that gives an integer or a pointer.
    fn faults_call(call) -> isize {
        match due(call.index()) {
            Some(plan) => {
                system::set_errno(plan.errno);
                plan.result
            }
            None => call.inner(),
        }
    }
}
