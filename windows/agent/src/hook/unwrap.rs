//! A wrapper is taken off: its layers are taken out while no other thread runs, and its implementation is unloaded once no call is
//! under way in it. Otherwise that stays loaded, dormant, and may be tried again. What the agent has in itself (`record`, `handles`) stays in
//! any case, so that no call is waited for there: a thread may be in one as long as it waits for something.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use brant_windows::{Code as Reason, Interception, Left, Refused};

use super::call::{Layer, Link};
use super::code::Write;
use super::event::Event;
use super::list::interceptions;
use super::table::{Placed, Table, Wrapper, table};
use super::wrap::attempt;
use super::{commit, loader, stop};
use crate::{handles, serve, thread};

/// How long calls that are under way are waited for.
const CALLS_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

/// Takes a wrapper off this process.
pub(crate) fn unwrap(name: &str) -> Result<(Vec<Interception>, Left), Refused> {
    let (interceptions, number) = take_out(name)?;
    let telling = table()
        .wrappers
        .iter()
        .find(|wrapper| wrapper.number == number)
        .map(|wrapper| wrapper.implementation.telling());
    // Without the table: what the implementation does then is its own business, and may need the loader.
    if let Some(telling) = telling {
        let _ = telling.tell(Event::Off);
    }
    // Dormant ones of this name have the same library, and go together with it.
    let is_left = |wrapper: &Wrapper| !wrapper.is_on && wrapper.spec.name == name;
    let (is_loaded, layers): (bool, Vec<&Layer>) = {
        let table = table();
        let left: Vec<&Wrapper> = table.wrappers.iter().filter(|wrapper| is_left(wrapper)).collect();
        let is_loaded = left.iter().any(|wrapper| wrapper.implementation.is_loaded());
        (is_loaded, left.iter().flat_map(|wrapper| &wrapper.layers).map(|placed| placed.layer).collect())
    };
    if is_loaded && !wait(&layers) {
        return Ok((interceptions, Left::Dormant));
    }
    let gone: Vec<Wrapper> = table().wrappers.extract_if(.., |wrapper| is_left(wrapper)).collect();
    for mut wrapper in gone {
        let _ = wrapper.implementation.tell(Event::Unload);
        wrapper.implementation.unload();
    }
    Ok((interceptions, Left::Nothing))
}

/// From then on no call begins in the wrapper. Where it was, and its number.
fn take_out(name: &str) -> Result<(Vec<Interception>, u64), Refused> {
    let guardian = stop::Guardian::new()?;
    serve::step()?;
    let _loader = loader::hold()?;
    let mut table = table();
    let at = table
        .wrapper(name)
        .ok_or_else(|| Refused::new(Reason::NotWrapped, format!("the process has no wrapper {name:?}")))?;
    let number = table.wrappers[at].number;
    if !table.wrappers[at].is_on {
        return Ok((Vec::new(), number));
    }
    if table.wrappers[at].spec.shipped() == Some(handles::NAME) {
        handles::may_end()?;
    }
    let listed = interceptions(&table, &table.wrappers[at]);
    let layers = table.wrappers[at].layers.clone();
    let ending: Vec<usize> =
        (0..table.hooks.len()).filter(|hook| is_left_bare(&table, *hook, &layers)).collect();
    let writes: Vec<Write> = ending.iter().flat_map(|hook| table.hooks[*hook].writes.clone()).collect();
    let opened = commit::open(writes.iter())?;
    let stopped = attempt(|| stop_to_write(&guardian))?;
    // From here on until all go on nothing may be allocated. A thread stands before a jump or behind it: that is one instruction.
    layers.iter().for_each(|placed| unlink(placed.layer));
    // What others have written over our jumps leads to them: then they stay, and lead to the bare function.
    let is_ours = writes.iter().all(|write| write.stands(true));
    if is_ours {
        // The function's own jump first, then the padding that it leads to.
        writes.iter().rev().for_each(|write| write.perform(false));
    }
    drop(stopped);
    drop(opened);
    ending.iter().for_each(|hook| table.hooks[*hook].is_written = !is_ours);
    table.wrappers[at].is_on = false;
    Ok((listed, number))
}

fn stop_to_write(guardian: &stop::Guardian) -> Result<stop::Stopped<'_>, Refused> {
    let stopped = stop::stop(guardian)?;
    let too_long = || Refused::new(Reason::Threads, "the program's threads stood still for too long");
    if stopped.begin() { Ok(stopped) } else { Err(too_long()) }
}

/// Whether no other layer is left before a hooked function.
fn is_left_bare(table: &Table, hook: usize, layers: &[Placed]) -> bool {
    let hook = &table.hooks[hook];
    let is_own = |layer: *const Layer| layers.iter().any(|placed| std::ptr::eq(placed.layer, layer));
    let own = layers.iter().any(|placed| placed.address == hook.address);
    own && hook.is_written && chain(hook.slot).all(is_own)
}

/// The layers before a function, the one that is called first at first.
pub(super) fn chain(slot: &'static super::call::Slot) -> impl Iterator<Item = *const Layer> {
    let mut at = slot.first.load(Ordering::Acquire).cast_const();
    std::iter::from_fn(move || {
        // SAFETY: layers are never freed.
        let layer = unsafe { at.as_ref() }?;
        let here = at;
        let next = layer.next.load(Ordering::Acquire).cast_const();
        at = if std::ptr::eq(next, &raw const slot.bare) { std::ptr::null() } else { next.cast() };
        Some(here)
    })
}

/// Takes a layer out of its function's chain. It still leads on to the next one, for whoever is in it.
pub(super) fn unlink(layer: &'static Layer) {
    layer.is_removed.store(true, Ordering::Release);
    // SAFETY: slots are never freed.
    let slot = unsafe { &*layer.slot };
    let next = layer.next.load(Ordering::Relaxed);
    let own: *const Link = &raw const layer.link;
    for before in chain(slot) {
        // SAFETY: layers are never freed.
        let before = unsafe { &*before };
        if std::ptr::eq(before.next.load(Ordering::Relaxed), own) {
            before.next.store(next, Ordering::Release);
        }
    }
    if std::ptr::eq(slot.first.load(Ordering::Relaxed), layer) {
        let is_bare = std::ptr::eq(next, &raw const slot.bare);
        slot.first.store(if is_bare { std::ptr::null_mut() } else { next.cast() }, Ordering::Release);
    }
}

/// Waits until no thread is in a call of these layers; whether that came about.
fn wait(layers: &[&Layer]) -> bool {
    let begin = Instant::now();
    while is_under_way(layers) {
        if begin.elapsed() > CALLS_LIMIT {
            return false;
        }
        // It is out: that is told to whoever still waits.
        let _ = serve::step();
        std::thread::sleep(POLL);
    }
    true
}

/// Whether a thread is in a call of these layers, or just about to choose one. One that was ended by force never leaves its calls.
fn is_under_way(layers: &[&Layer]) -> bool {
    let is_meant = |at: *mut Layer| at.is_null() || layers.iter().any(|layer| std::ptr::eq(*layer, at));
    let living = stop::living();
    thread::all().filter(|state| living.contains(&state.id())).any(|state| state.layers().any(is_meant))
}
