//! The wrapper `record`: what the program has to do with the world, kept while it runs.
//!
//! One mediator, [`record_call`], stands before all functions of its definition; [`acts`] says what each of them changes. Text is read
//! only once the function has succeeded with it, and by a call that fails where there is no memory. Nobody waits for the record long: a thread
//! that Windows ends may hold it for ever, so that an event for which there is no time is counted instead.

mod acts;
mod heaps;
mod show;
mod state;

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use brant_mediator::Frame;
use brant_windows::Spec;

use crate::thread;
use acts::{Act, Known};
use state::Record;

pub(crate) use show::show;

/// The name behind `brant:` in its definition.
pub(crate) const NAME: &str = "record";

/// What the function of one `wrap` does, and how often it was called.
struct Function {
    name: &'static str,
    act: Option<&'static Act>,
    calls: AtomicU64,
}

/// One for each `wrap`. Never freed, as calls may be under way.
static FUNCTIONS: AtomicPtr<Vec<Function>> = AtomicPtr::new(std::ptr::null_mut());

/// The wrapper is about to be put on, with this definition. A record begins.
pub(crate) fn begin(spec: &Spec) {
    let of = |name: &str| {
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        Function { name, act: acts::find(name), calls: AtomicU64::new(0) }
    };
    let functions: Vec<Function> = spec.functions.iter().map(|function| of(&function.function)).collect();
    heaps::begin();
    state::begin();
    FUNCTIONS.store(Box::into_raw(Box::new(functions)), Ordering::Release);
}

fn functions() -> &'static [Function] {
    // SAFETY: never freed.
    unsafe { FUNCTIONS.load(Ordering::Acquire).as_ref() }.map_or(&[], Vec::as_slice)
}

/// The mediator before every function that is recorded.
///
/// # Safety
///
/// The engine calls it, with a call of a function of the definition.
#[unsafe(no_mangle)]
#[allow(unreachable_pub)]
pub unsafe extern "C" fn record_call(icall: *mut c_void) -> u64 {
    // SAFETY: promised by the caller. The function takes and gives integers and pointers.
    let call = unsafe { brant_mediator::Call::<extern "C" fn(), u64>::new(icall) };
    let Some(function) = functions().get(call.index()) else { return call.inner() };
    function.calls.fetch_add(1, Ordering::Relaxed);
    let Some(act) = function.act else { return call.inner() };
    // SAFETY: as above.
    let frame = unsafe { Frame::of(icall) };
    let mut known =
        Known { name: function.name, arguments: frame.arguments(), result: 0, thread: thread::thread_id() };
    let taken = before(act, &known);
    known.result = call.inner();
    let error = thread::last_error();
    after(act, &known, taken);
    thread::set_last_error(error);
    known.result
}

/// What is noted before the function is called. What it takes out is put back where the call fails.
fn before(act: &Act, known: &Known<'_>) -> Option<state::Taken> {
    let _busy = thread::busy()?;
    match act {
        Act::Closes(group, argument) => state::with(|record| record.take(*group, known.argument(*argument)))?,
        Act::Waits(argument) => {
            state::with(|record| record.wait(known, *argument));
            None
        }
        Act::Ends(note) => {
            state::with(|record| note(record, known));
            None
        }
        Act::Heap(act) => heaps::before(*act, known),
        Act::Notes(_) => None,
    }
}

/// What is noted when the function has returned.
fn after(act: &Act, known: &Known<'_>, taken: Option<state::Taken>) {
    let Some(_busy) = thread::busy() else { return };
    match act {
        Act::Notes(note) => {
            state::with(|record| note(record, known));
        }
        Act::Closes(_, _) => {
            state::with(|record| record.taken(taken, known.is_done()));
        }
        Act::Waits(_) => {
            state::with(|record| record.waited(known.thread));
        }
        Act::Heap(act) => heaps::after(*act, known, taken),
        Act::Ends(_) => {}
    }
}

/// How often each function was called, where it was.
fn calls() -> Vec<(String, u64)> {
    let told =
        functions().iter().map(|function| (function.name.to_owned(), function.calls.load(Ordering::Relaxed)));
    told.filter(|(_, count)| *count > 0).collect()
}

impl Record {
    fn now_ms(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64
    }
}
