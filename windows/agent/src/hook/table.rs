//! What is mediated: functions with their slots, wrappers with their layers.

use std::sync::{Mutex, MutexGuard};

use brant_windows::{Missing, Spec, SpecFunction};

use super::call::{IS_FOURTH_VECTOR, IS_SRET, Layer, Link, Slot, inner_code, layer_entry, slot_entry};
use super::code::{Plan, Write};
use super::implementation::Implementation;
use super::modules::Module;
use super::room::Room;

/// The one table.
static TABLE: Mutex<Table> = Mutex::new(Table::new());

/// Everything that is mediated.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) room: Room,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) wrappers: Vec<Wrapper>,
    /// The libraries; kept by the loader's notices from the first wrapper on.
    pub(crate) modules: Vec<Module>,
    pub(crate) is_listening: bool,
    next_number: u64,
}

/// A function that is or was mediated.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) address: u64,
    pub(crate) slot: &'static Slot,
    pub(crate) writes: Vec<Write>,
    /// Where a thread goes on that stands inside of the jump.
    pub(crate) moves: Vec<(u64, u64)>,
    /// Whether the jump is there.
    pub(crate) is_written: bool,
}

/// A wrapper that is on, or dormant.
#[derive(Debug)]
pub(crate) struct Wrapper {
    pub(crate) number: u64,
    pub(crate) spec: Spec,
    pub(crate) implementation: Implementation,
    pub(crate) layers: Vec<Placed>,
    pub(crate) missing: Vec<Missing>,
    pub(crate) is_on: bool,
}

/// One layer of a wrapper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) layer: &'static Layer,
    pub(crate) address: u64,
    /// Which `wrap` of the definition.
    pub(crate) index: usize,
}

/// The table, for the calling thread alone.
pub(crate) fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(|broken| broken.into_inner())
}

impl Table {
    const fn new() -> Table {
        Table {
            room: Room::new(),
            hooks: Vec::new(),
            wrappers: Vec::new(),
            modules: Vec::new(),
            is_listening: false,
            next_number: 1,
        }
    }

    /// A number for a new wrapper.
    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(crate) fn hook_at(&self, address: u64) -> Option<&Hook> {
        self.hooks.iter().find(|hook| hook.address == address)
    }

    /// All places that are or may be written.
    pub(crate) fn taken(&self) -> Vec<Write> {
        self.hooks.iter().flat_map(|hook| hook.writes.iter().cloned()).collect()
    }

    /// The wrapper of this name that is on, or else one that is dormant.
    pub(crate) fn wrapper(&self, name: &str) -> Option<usize> {
        let is_named = |wrapper: &&Wrapper| wrapper.spec.name == name;
        let on = self.wrappers.iter().position(|wrapper| wrapper.is_on && is_named(&wrapper));
        on.or_else(|| self.wrappers.iter().position(|wrapper| is_named(&wrapper)))
    }

    /// Makes the code of a planned hook, to which nothing leads yet.
    pub(crate) fn add_hook(&mut self, plan: Plan) {
        let Plan { address, entry, relocated, writes } = plan;
        let trampoline = entry + super::call::ENTRY_BYTES_MAX as u64;
        let slot: &'static Slot = Box::leak(Box::new(Slot::new(trampoline as *const _)));
        put_code(entry, &slot_entry(slot));
        put_code(trampoline, &relocated.trampoline);
        self.hooks.push(Hook { address, slot, writes, moves: relocated.moves, is_written: false });
    }

    /// A new layer before a hooked function, which nothing leads to yet. Nothing where there is no room for its code.
    pub(crate) fn new_layer(&mut self, hook: &'static Slot, wrap: &Wrap<'_>) -> Option<&'static Layer> {
        let entry = self.room.take(hook.bare.entry as u64, super::call::ENTRY_BYTES_MAX as u64)?;
        let function = wrap.function;
        let flags = if function.is_sret { IS_SRET } else { 0 }
            | if function.is_fourth_vector { IS_FOURTH_VECTOR } else { 0 };
        let layer: &'static Layer = Box::leak(Box::new(Layer {
            link: Link { code: entry as *const _, entry: entry as *const _ },
            next: std::ptr::from_ref(&hook.bare).cast_mut().into(),
            mediator: wrap.mediator as *const _,
            inner: inner_code(),
            index: wrap.index,
            slots: u64::from(function.slots),
            flags,
            slot: hook,
            wrapper: wrap.wrapper,
            callers: wrap.callers,
            is_removed: false.into(),
        }));
        put_code(entry, &layer_entry(layer));
        Some(layer)
    }
}

/// One `wrap` that a layer is made for.
#[derive(Debug)]
pub(crate) struct Wrap<'a> {
    pub(crate) function: &'a SpecFunction,
    pub(crate) mediator: usize,
    pub(crate) index: usize,
    pub(crate) wrapper: u64,
    pub(crate) callers: brant_windows::Callers,
}

/// Writes code into room that was just taken.
fn put_code(at: u64, code: &[u8]) {
    // SAFETY: room of at least so many bytes, which may be written, and which nobody else knows yet.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at as *mut u8, code.len()) };
}
