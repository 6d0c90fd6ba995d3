//! Plans: what is to be written so that a wrapper is on, or off.
//!
//! A plan holds for the modules and the wrappers that there are when it is made; it says itself how brant sees that they are
//! still the same when it is carried out (`Table::checks`).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use brant_hook::exchange::{
    Event, Function, INNER_PREFIX, Listed, Mediation, Missing, Outcome, Reply, SiteCounts, Write,
};
use brant_hook::symbols::is_library;
use brant_hook::{Refusal, refused_by_name};

use crate::calls::{Scanned, Sites};
use crate::event::Known;
use crate::guard;
use crate::modules::{self, Identity, Module};
use crate::slot::{Layer, Look, Slot};
use crate::table::{Found, Table, Target, Turn, Wrapper, find, hold_changes, let_changes_go};

/// The program's loader as brant found it.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) iterate: u64,
    pub(crate) debug: u64,
}

/// Plans a wrapper.
pub(crate) fn wrap(known: Known, places: Places, is_unguarded: bool, mediations: Vec<Mediation>) -> Reply {
    let handle = known.handle;
    // SAFETY: what dlopen gave.
    let mediator = |mediation: &Mediation| unsafe { modules::exported(handle, &mediation.mediator) };
    let mediators: Vec<Option<u64>> = mediations.iter().map(mediator).collect();
    let outcome = |mediator: &Option<u64>| match mediator {
        Some(_) => Outcome::Planned(0),
        None => Outcome::NoMediator,
    };
    let outcomes: Vec<Outcome> = mediators.iter().map(outcome).collect();
    let is_whole = mediators.iter().all(Option::is_some);
    // SAFETY: what dlopen gave.
    let inner = |mediation: &Mediation| unsafe { inner_of(handle, mediation) };
    let inners = mediations.iter().map(inner).collect();
    let is_unaccounted = is_unguarded || mediations.iter().any(|mediation| mediation.is_native);
    let wrapper = {
        let Some(mut turn) = Turn::take() else { return Reply::NoMemory };
        let table = turn.table();
        let id = table.next_wrapper;
        table.next_wrapper += 1;
        table.wrappers.push(Wrapper {
            id,
            known: Box::new(known),
            // SAFETY: what dlopen gave begins with the base.
            base: unsafe { (handle as *const u64).read() },
            is_unguarded,
            iterate: places.iterate,
            mediations,
            mediators: mediators.into_iter().map(Option::unwrap_or_default).collect(),
            inners,
            layers: Vec::new(),
            is_on: Box::new(AtomicU64::new(0)),
            failed: Vec::new(),
        });
        id
    };
    if is_unaccounted {
        // No account is kept of its calls.
        guard::lose(wrapper);
    }
    if !is_whole {
        let sites = SiteCounts::default();
        return Reply::Plan { wrapper, writes: Vec::new(), moves: Vec::new(), outcomes, sites };
    }
    replan(wrapper, Some(places.debug))
}

/// Where a native mediator has its inner function; 0 where there is no such variable, or the mediator is not native.
///
/// # Safety
///
/// `handle` is what dlopen gave.
unsafe fn inner_of(handle: u64, mediation: &Mediation) -> u64 {
    if !mediation.is_native {
        return 0;
    }
    let name = [INNER_PREFIX, &mediation.mediator].concat();
    // SAFETY: promised by the caller.
    unsafe { modules::exported(handle, &name) }.filter(|address| address % 8 == 0).unwrap_or(0)
}

/// Plans a wrapper that is not on yet: for the first time with where the loader's list is, then once more.
pub(crate) fn replan(wrapper: u32, debug: Option<u64>) -> Reply {
    let (iterate, mediations) = {
        let Some(mut turn) = Turn::take() else { return Reply::NoMemory };
        let Some(known) = turn.table().wrapper(wrapper) else { return Reply::NoWrapper };
        (known.iterate, known.mediations.clone())
    };
    let plan = |modules: Vec<Module>| {
        let look = |module| find(module, &mediations, Module::is_relocated(module) != Some(false));
        let mut found: Vec<Found<'_>> = modules.iter().map(look).collect();
        if found.iter().any(|found| found.must_wait) {
            return Reply::Loading { wrapper };
        }
        // Without the turn, as it takes a while.
        let Some(unknown) = unknown_to_calls(wrapper, &modules) else { return Reply::NoMemory };
        let scanned: Vec<Scanned> = unknown.into_iter().map(Scanned::new).collect();
        let Some(mut turn) = Turn::take() else { return Reply::NoMemory };
        let table = turn.table();
        table.note_modules(&modules);
        if !table.deferred.is_empty() {
            return Reply::Loading { wrapper };
        }
        if let Some(debug) = debug.filter(|_| table.loader.is_none()) {
            table.loader = table.find_loader(debug, &modules);
        }
        let is_variable = |at: u64| modules.iter().any(|module| module.is_variable(at));
        table.drop_inners(wrapper, is_variable);
        scanned.into_iter().for_each(|scanned| table.calls.learn(scanned));
        found.retain(|found| table.is_seen(Identity::of(found.module)));
        let mut reply = table.plan(wrapper, &found).unwrap_or(Reply::NoMemory);
        if let (Reply::Plan { writes, .. }, None) = (&mut reply, debug) {
            writes.insert(0, hold_changes());
        }
        reply
    };
    // SAFETY: brant gives its address, and calls this on a thread that may call it.
    unsafe { modules::with_all(iterate, plan) }.unwrap_or(Reply::NoMemory)
}

/// The modules whose system calls a wrapper may mediate, and whose sites are not known yet. `None`: it is not brant's turn.
fn unknown_to_calls(wrapper: u32, modules: &[Module]) -> Option<Vec<&Module>> {
    let mut turn = Turn::take()?;
    let table = turn.table();
    let has_calls = |wrapper: &Wrapper| wrapper.mediations.iter().any(|mediation| mediation.call.is_some());
    if !table.wrapper(wrapper).is_some_and(|wrapper| has_calls(wrapper)) {
        return Some(Vec::new());
    }
    Some(modules.iter().filter(|module| !table.is_ours(module) && !table.calls.knows(module)).collect())
}

impl Table {
    /// Finds the slots of a wrapper's system calls, and plans the jumps in all modules that lead to them.
    fn plan_calls(&mut self, index: usize, found: &[Found<'_>]) -> Option<(Vec<Target>, Sites)> {
        let mut targets = Vec::new();
        for (mediation, wanted) in self.wrappers[index].mediations.iter().enumerate() {
            let Some(number) = wanted.call else { continue };
            let slot = self.calls.slot(number, &wanted.function)?;
            targets.push(Target { mediation, address: slot.address });
        }
        let mut sites = Sites::default();
        let mut numbers = self.calls.numbers(|_| true);
        numbers.extend(self.wrappers[index].mediations.iter().filter_map(|mediation| mediation.call));
        if !targets.is_empty() {
            sites.writes.extend(self.calls.flags(&numbers));
        }
        for module in found.iter().map(|found| found.module) {
            if self.is_ours(module) {
                // It was loaded, as any other library, before it was known whose it is.
                self.calls.disarm(module, &[], &mut sites.writes);
            } else if !targets.is_empty() {
                let functions = self.overwritten(module);
                self.calls.arm(module, &numbers, &functions, &mut sites);
            }
        }
        Some((targets, sites))
    }

    /// What cannot be written is no variable for an inner function.
    fn drop_inners(&mut self, id: u32, is_variable: impl Fn(u64) -> bool) {
        let Some(wrapper) = self.wrapper(id) else { return };
        wrapper.inners.iter_mut().filter(|at| !is_variable(**at)).for_each(|at| *at = 0);
    }

    /// The plan to put a wrapper on. `None` without memory.
    fn plan(&mut self, id: u32, found: &[Found<'_>]) -> Option<Reply> {
        let covers_later = self.covers_later();
        let index = self.wrappers.iter().position(|wrapper| wrapper.id == id)?;
        let wrapper = &mut self.wrappers[index];
        for layer in core::mem::take(&mut wrapper.layers) {
            // SAFETY: of a plan that was not carried out.
            unsafe { self.layers.give_back(layer) };
        }
        let inners = wrapper.inners.iter();
        let lacks_inner: Vec<bool> = inners
            .zip(&wrapper.mediations)
            .map(|(inner, mediation)| mediation.is_native && *inner == 0)
            .collect();
        let absent = |mediation: &Mediation| match refused_by_name(&mediation.function) {
            _ if mediation.call.is_some() => Outcome::Planned(0),
            Some(refusal) => Outcome::Refused(refusal),
            None if covers_later => Outcome::Waits,
            None => Outcome::NoLibrary,
        };
        let mut outcomes: Vec<Outcome> = wrapper.mediations.iter().map(absent).collect();
        let (mut targets, sites) = self.plan_calls(index, found)?;
        for found in found {
            found.failed.iter().for_each(|(mediation, outcome)| outcomes[*mediation] = *outcome);
            let made = self.make_slots(found)?;
            let refused = made.refused.into_iter();
            refused.for_each(|(mediation, refusal)| outcomes[mediation] = Outcome::Refused(refusal));
            targets.extend(made.targets);
        }
        let mut plan = Writes::default();
        let mut moves = Vec::new();
        // The first mediation of a function is the outermost; so the last one is put on first.
        for target in targets.iter().rev() {
            let Some(slot) = self.slot_at(target.address).or_else(|| self.calls.slot_at(target.address))
            else {
                continue;
            };
            let is_native = self.wrappers[index].mediations[target.mediation].is_native;
            let mediator = |mediation: usize| self.wrappers[index].mediators[mediation];
            let is_other = |other: &Target| {
                other.address != target.address && mediator(other.mediation) == mediator(target.mediation)
            };
            if is_native && targets.iter().any(is_other) {
                outcomes[target.mediation] = Outcome::Refused(Refusal::Several);
                continue;
            }
            let layer = self.wrappers[index].new_layer(&mut self.layers, target.mediation)?;
            plan.pointers.extend(self.wrappers[index].inner(target.mediation, layer));
            plan.put_on(slot, layer);
            outcomes[target.mediation] = match outcomes[target.mediation] {
                Outcome::Planned(count) => Outcome::Planned(count + 1),
                refused @ Outcome::Refused(_) => refused,
                _ => Outcome::Planned(1),
            };
            moves.extend(&slot.moves);
        }
        for (outcome, _) in outcomes.iter_mut().zip(&lacks_inner).filter(|(_, lacks)| **lacks) {
            *outcome = Outcome::NoInner;
        }
        if let Some(loader) = self.loader.as_ref().filter(|loader| !loader.is_on()) {
            match loader.is_in_place() {
                // brant was killed before the jump.
                // SAFETY: the loader is never unloaded.
                true => plan.code.extend(unsafe { loader.slot.arm() }),
                false => plan.put_on(loader.slot, loader.layer),
            }
            moves.extend(&loader.slot.moves);
        }
        let mut writes = self.checks();
        writes.push(switch(&self.wrappers[index].is_on, 1));
        writes.extend(plan.pointers);
        writes.extend(sites.writes);
        writes.extend(plan.code);
        moves.extend(sites.moves);
        Some(Reply::Plan { wrapper: id, writes, moves, outcomes, sites: sites.counts })
    }

    /// The plan to take a wrapper off.
    fn plan_off(&self, index: usize, modules: &[Module]) -> Vec<Write> {
        let wrapper = &self.wrappers[index];
        let mut writes = self.checks();
        writes.push(switch(&wrapper.is_on, 0));
        // Mediators of others that are still under way though their wrappers are off must not come back to this one.
        let others = self.wrappers.iter().filter(|other| other.id != wrapper.id);
        let dormant: Vec<Write> = others
            .flat_map(|other| &other.layers)
            // SAFETY: layers are never freed.
            .filter_map(|layer| unsafe { &**layer }.step_over(&wrapper.layers))
            .collect();
        let is_last = self.on().iter().all(|on| *on == index);
        let loader = self.loader.as_ref().filter(|_| is_last);
        let own = self.all_slots().map(|slot| (slot, wrapper.id));
        // The loader's last: no library may come and go unseen while a function is hooked.
        for (slot, id) in own.chain(loader.map(|loader| (loader.slot, 0))) {
            let out = slot.take_out(id);
            if out.is_empty() {
                continue;
            }
            writes.extend(out);
            // SAFETY: the modules of all slots are there.
            if slot.layers().all(|layer| layer.wrapper() == id) && unsafe { slot.look() } == Look::Hooked {
                writes.extend(slot.disarm());
            }
        }
        if wrapper.mediations.iter().any(|mediation| mediation.call.is_some()) {
            let numbers = self.calls.numbers(|other| other != wrapper.id);
            modules.iter().for_each(|module| self.calls.disarm(module, &numbers, &mut writes));
            writes.extend(self.calls.flags(&numbers));
        }
        let is_new = |write: &Write| !writes.iter().any(|known| known.address == write.address);
        let dormant: Vec<Write> = dormant.into_iter().filter(is_new).collect();
        writes.extend(dormant);
        writes
    }
}

/// The writes of a plan: slots that are new are jumped to last.
#[derive(Default)]
struct Writes {
    pointers: Vec<Write>,
    code: Vec<Write>,
}

impl Writes {
    /// Adds a layer for a slot: before those of an earlier write of this plan, where there is one.
    fn put_on(&mut self, slot: &Slot, layer: &'static Layer) {
        let write = slot.put_first(layer);
        match self.pointers.iter_mut().find(|earlier| earlier.address == write.address) {
            Some(earlier) => {
                layer.go_before(&earlier.new);
                earlier.new = write.new;
            }
            None => self.pointers.push(write),
        }
        // SAFETY: its module is there.
        if unsafe { slot.look() } == Look::Bare {
            // SAFETY: as above.
            let missing = unsafe { slot.arm() };
            let missing: Vec<Write> =
                missing.into_iter().filter(|write| !self.code.contains(write)).collect();
            self.code.extend(missing);
        }
    }
}

/// Says that a wrapper is on, or off.
fn switch(is_on: &AtomicU64, new: u64) -> Write {
    let old = is_on.load(Ordering::Relaxed).to_le_bytes().to_vec();
    Write { address: is_on.as_ptr() as u64, is_code: false, old, new: new.to_le_bytes().to_vec() }
}

/// Plans to take a wrapper off.
pub(crate) fn unwrap(wrapper: u32, holds: bool) -> Reply {
    let iterate = {
        let Some(mut turn) = Turn::take() else { return Reply::NoMemory };
        let Some(known) = turn.table().wrapper(wrapper) else { return Reply::NoWrapper };
        known.iterate
    };
    let plan = |modules: Vec<Module>| {
        let mut turn = Turn::take()?;
        let table = turn.table();
        table.note_modules(&modules);
        let index = table.wrappers.iter().position(|known| known.id == wrapper)?;
        let mut writes = table.plan_off(index, &modules);
        if holds {
            writes.insert(0, hold_changes());
        }
        let sites = SiteCounts::default();
        Some(Reply::Plan { wrapper, writes, moves: Vec::new(), outcomes: Vec::new(), sites })
    };
    // SAFETY: brant gave its address, and calls this on a thread that may call it.
    unsafe { modules::with_all(iterate, plan) }.flatten().unwrap_or(Reply::NoMemory)
}

/// Tells an implementation what happens to it.
pub(crate) fn tell(wrapper: u32, event: Event) -> Reply {
    let known: *const Known = {
        let Some(mut turn) = Turn::take() else { return Reply::NoMemory };
        let Some(wrapper) = turn.table().wrapper(wrapper) else { return Reply::NoWrapper };
        &raw const *wrapper.known
    };
    // SAFETY: brant forgets it with another request only, and unloads the implementation after the last event only. It is
    // told without the turn: it may load a library.
    Reply::Told(unsafe { (*known).tell(event, None) })
}

/// Forgets a wrapper whose implementation was unloaded. One that stays keeps its layers for ever.
pub(crate) fn settle(wrapper: u32, is_unloaded: bool) -> Reply {
    let_changes_go();
    let Some(mut turn) = Turn::take() else { return Reply::NoMemory };
    let table = turn.table();
    let Some(index) = table.wrappers.iter().position(|known| known.id == wrapper) else {
        return Reply::NoWrapper;
    };
    let is_in_use = table.all_slots().any(|slot| slot.layers().any(|layer| layer.wrapper() == wrapper));
    if is_unloaded && !is_in_use && guard::lost(wrapper) == 0 && !table.wrappers[index].is_on() {
        for layer in table.wrappers.swap_remove(index).layers {
            // SAFETY: it is in no chain, and brant has seen that no thread is inside of it.
            unsafe { table.layers.give_back(layer) };
        }
    }
    Reply::Settled
}

/// Every wrapper.
pub(crate) fn list() -> Reply {
    let Some(mut turn) = Turn::take() else { return Reply::NoMemory };
    let table = turn.table();
    let covers_later = table.is_followed();
    let listed = table.wrappers.iter().map(|wrapper| {
        let functions: Vec<Function> =
            table.all_slots().flat_map(|slot| functions_of(slot, wrapper)).collect();
        Listed {
            id: wrapper.id,
            name: wrapper.known.name().to_vec(),
            path: wrapper.known.path.clone(),
            handle: wrapper.known.handle,
            options: wrapper.known.options().to_vec(),
            is_on: wrapper.is_on() || !functions.is_empty(),
            covers_later,
            functions,
            missing: table.missing(wrapper),
        }
    });
    Reply::List(listed.collect())
}

impl Table {
    /// What a wrapper that is on does not mediate so far: functions of libraries that are not loaded, and system calls that were missed.
    fn missing(&self, wrapper: &Wrapper) -> Vec<Missing> {
        if !wrapper.is_on() {
            return Vec::new();
        }
        let is_there = |mediation: &Mediation| {
            let is_it = |path: &[u8], soname: &[u8]| is_library(&mediation.library, Some(soname), path);
            self.seen.iter().any(|seen| is_it(&seen.path, &seen.soname))
        };
        let libraries = wrapper.mediations.iter().filter(|mediation| mediation.call.is_none());
        let numbers: Vec<u32> = wrapper.mediations.iter().filter_map(|mediation| mediation.call).collect();
        let calls = if numbers.is_empty() { Vec::new() } else { self.calls.missed_later(&numbers) };
        let waiting = libraries.filter(|mediation| !is_there(mediation)).map(|mediation| Missing {
            library: mediation.library.clone(),
            function: mediation.function.clone(),
            outcome: Outcome::Waits,
        });
        let failed = wrapper.failed.iter().map(|failed| Missing {
            library: failed.library.clone(),
            function: wrapper.mediations[failed.mediation].function.clone(),
            outcome: failed.outcome,
        });
        waiting.chain(failed).chain(calls).collect()
    }
}

fn functions_of(slot: &'static Slot, wrapper: &Wrapper) -> impl Iterator<Item = Function> {
    let of_wrapper = slot.layers().enumerate().filter(|(_, layer)| layer.wrapper() == wrapper.id);
    of_wrapper.map(|(depth, layer)| {
        let (version, mediator) = wrapper.known.mediator(layer.index());
        Function {
            library: slot.library.clone(),
            name: slot.name.clone(),
            address: slot.address,
            depth: depth as u32,
            version,
            mediator,
        }
    })
}
