//! Plans: what is to be written so that a wrapper is on, or off.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ops::Range;

use brant_hook::exchange::{Event, Function, Listed, Mediation, Outcome, Reply, Write};
use brant_hook::symbols::is_library;
use brant_hook::{JUMP_BYTES, PROLOGUE_BYTES_MAX, Refusal, branches_into, refused_by_name};

use crate::event::Known;
use crate::guard;
use crate::modules::{self, Module};
use crate::slot::{Layer, Layers, Look, Slot, Wanted, make_slots};

/// All slots and wrappers of this process.
struct Table {
    /// Each for ever: a thread may be on its way through it.
    slots: Vec<&'static Slot>,
    wrappers: Vec<Wrapper>,
    layers: Layers,
    next_wrapper: u32,
}

struct Wrapper {
    id: u32,
    known: Known,
    /// Every layer that was made for it, whether or not it is in a chain.
    layers: Vec<*const Layer>,
}

struct Alone(UnsafeCell<Table>);

// SAFETY: used by `serve` only, which takes its turn first.
unsafe impl Sync for Alone {}

static TABLE: Alone = Alone(UnsafeCell::new(Table {
    slots: Vec::new(),
    wrappers: Vec::new(),
    layers: Layers::new(),
    next_wrapper: 1,
}));

/// The table. Called once for each request, by the functions below.
fn table() -> &'static mut Table {
    // SAFETY: one request at a time, and each calls this once.
    unsafe { &mut *TABLE.0.get() }
}

/// One function that one mediation is for.
struct Target {
    mediation: usize,
    address: u64,
}

/// Plans a wrapper.
pub(crate) fn wrap(known: Known, iterate: u64, is_unguarded: bool, mediations: &[Mediation]) -> Reply {
    let table = table();
    let mut outcomes = vec![Outcome::NoLibrary; mediations.len()];
    let mut targets: Vec<Target> = Vec::new();
    let mut is_out_of_memory = false;
    // SAFETY: brant gives its address, and calls this on a thread that may call it.
    unsafe {
        modules::each(iterate, |module| {
            let found = table.find_in(&module, mediations, &mut outcomes);
            is_out_of_memory |= found.is_none();
            targets.extend(found.unwrap_or_default());
        });
    }
    let id = table.next_wrapper;
    if is_unguarded {
        // No account is kept of its calls.
        guard::lose(id);
    }
    let handle = known.handle;
    let mut wrapper = Wrapper { id, known, layers: Vec::new() };
    let mut writes = Vec::new();
    let mut moves = Vec::new();
    // The first mediation of a function is the outermost; so the last one is put on first.
    for target in targets.iter().rev() {
        let mediation = &mediations[target.mediation];
        // SAFETY: what dlopen gave.
        let Some(mediator) = (unsafe { modules::exported(handle, &mediation.mediator) }) else {
            outcomes[target.mediation] = Outcome::NoMediator;
            continue;
        };
        let Some(layer) = table.layers.take(
            id,
            mediator,
            mediation.is_native,
            !is_unguarded,
            target.mediation,
            &mediation.shape,
        ) else {
            return Reply::NoMemory;
        };
        wrapper.layers.push(layer);
        let Some(slot) = table.slots.iter().rfind(|slot| slot.address == target.address) else { continue };
        put_on(slot, layer, &mut writes);
        outcomes[target.mediation] = match outcomes[target.mediation] {
            Outcome::Planned(count) => Outcome::Planned(count + 1),
            _ => Outcome::Planned(1),
        };
        moves.extend(&slot.moves);
    }
    table.next_wrapper += 1;
    table.wrappers.push(wrapper);
    if is_out_of_memory {
        return Reply::NoMemory;
    }
    // Slots that are new are jumped to last.
    let (code, pointers): (Vec<Write>, Vec<Write>) =
        writes.into_iter().partition(|write| write.new.len() == JUMP_BYTES);
    let mut writes = pointers;
    for write in code {
        if !writes.contains(&write) {
            writes.push(write);
        }
    }
    Reply::Plan { wrapper: id, writes, moves, outcomes }
}

/// Adds a layer to the writes for its slot: before those of an earlier write of this plan, where there is one.
fn put_on(slot: &Slot, layer: &'static Layer, writes: &mut Vec<Write>) {
    let write = slot.put_first(layer);
    match writes.iter_mut().find(|earlier| earlier.address == write.address) {
        Some(earlier) => {
            layer.go_before(&earlier.new);
            earlier.new = write.new;
        }
        None => writes.push(write),
    }
    // SAFETY: its module was there a moment ago; brant looks again before it writes.
    if unsafe { slot.look() } == Look::Bare {
        writes.push(slot.arm());
    }
}

impl Table {
    /// Finds the functions of one module that are to be mediated, and makes slots for those that have none.
    fn find_in(
        &mut self,
        module: &Module,
        mediations: &[Mediation],
        outcomes: &mut [Outcome],
    ) -> Option<Vec<Target>> {
        let mut targets = Vec::new();
        let mut wanted: Vec<(usize, Wanted<'_>)> = Vec::new();
        for (index, mediation) in mediations.iter().enumerate() {
            if !is_library(&mediation.library, module.soname, module.path) {
                continue;
            }
            if outcomes[index] == Outcome::NoLibrary {
                outcomes[index] = Outcome::NoFunction;
            }
            if let Some(refusal) = refused_by_name(&mediation.function) {
                outcomes[index] = Outcome::Refused(refusal);
                continue;
            }
            let version = Some(mediation.version.as_slice()).filter(|version| !version.is_empty());
            for symbol in module.tables.named(&mediation.function, version) {
                match locate(module, symbol.value, symbol.bytes, symbol.is_ifunc) {
                    Ok(function) => {
                        let library = module.soname.unwrap_or(module.path);
                        wanted.push((index, Wanted { library, name: &mediation.function, function }));
                    }
                    Err(refusal) => outcomes[index] = Outcome::Refused(refusal),
                }
            }
        }
        self.drop_unmapped(&wanted);
        let refusals = self.make_missing(module, &wanted)?;
        for (index, wanted) in wanted {
            let address = wanted.function.address;
            match refusals.iter().find(|(refused, _)| *refused == address) {
                Some((_, refusal)) => outcomes[index] = Outcome::Refused(*refusal),
                None if targets.iter().any(|t: &Target| t.mediation == index && t.address == address) => {}
                None => targets.push(Target { mediation: index, address }),
            }
        }
        Some(targets)
    }

    /// Forgets slots whose functions are no longer what they were: their module has gone and another one came.
    fn drop_unmapped(&mut self, wanted: &[(usize, Wanted<'_>)]) {
        let is_stale = |slot: &Slot| {
            let is_wanted = wanted.iter().any(|(_, wanted)| wanted.function.address == slot.address);
            // SAFETY: it is looked at only where the function of a module that is there has the same address.
            is_wanted && unsafe { slot.look() } == Look::Other
        };
        self.slots.retain(|slot| !is_stale(slot));
    }

    /// Makes the slots that are missing. Gives the addresses of functions that cannot have one.
    fn make_missing(
        &mut self,
        module: &Module,
        wanted: &[(usize, Wanted<'_>)],
    ) -> Option<Vec<(u64, Refusal)>> {
        let mut missing: Vec<Wanted<'_>> = Vec::new();
        for (_, wanted) in wanted {
            let is_there = self.slots.iter().any(|slot| slot.address == wanted.function.address)
                || missing.iter().any(|other| other.function.address == wanted.function.address);
            if !is_there {
                missing.push(Wanted { ..*wanted });
            }
        }
        if missing.is_empty() {
            return Some(Vec::new());
        }
        missing.sort_by_key(|wanted| wanted.function.address);
        let (start, end) = module.range();
        let made = make_slots(&missing, start, end)?;
        let ranges: Vec<Range<u64>> =
            made.iter().flatten().map(|slot| slot.at..slot.at + JUMP_BYTES as u64).collect();
        let mut is_branched_into = vec![false; ranges.len()];
        for (at, code) in module.code() {
            let hits = branches_into(code, at, &ranges);
            is_branched_into.iter_mut().zip(hits).for_each(|(is_hit, hit)| *is_hit |= hit);
        }
        let mut refusals = Vec::new();
        let mut hits = is_branched_into.into_iter();
        for (wanted, slot) in missing.iter().zip(made) {
            match slot {
                Ok(slot) if !hits.next().unwrap_or(false) => self.slots.push(Box::leak(slot)),
                Ok(_) => refusals.push((wanted.function.address, Refusal::BranchInto)),
                Err(refusal) => refusals.push((wanted.function.address, refusal)),
            }
        }
        Some(refusals)
    }
}

/// The function of a symbol, in the code of its module.
fn locate(
    module: &Module,
    value: u64,
    bytes: u64,
    is_ifunc: bool,
) -> Result<brant_hook::Function<'static>, Refusal> {
    let mut address = module.base.wrapping_add(value);
    let mut size = bytes;
    if is_ifunc {
        // SAFETY: a resolver takes no arguments on x86-64, and the loader has called it, or would at any moment.
        let resolve: extern "C" fn() -> u64 = unsafe { core::mem::transmute(address as usize) };
        address = resolve();
        size = 0;
    }
    for (at, code) in module.code() {
        if (at..at + code.len() as u64).contains(&address) {
            let rest = &code[(address - at) as usize..];
            let code = &rest[..rest.len().min(PROLOGUE_BYTES_MAX)];
            return Ok(brant_hook::Function { address, code, bytes: size });
        }
    }
    Err(Refusal::Resolver)
}

/// Plans to take a wrapper off.
pub(crate) fn unwrap(wrapper: u32) -> Reply {
    let table = table();
    if !table.wrappers.iter().any(|known| known.id == wrapper) {
        return Reply::NoWrapper;
    }
    let mut writes = Vec::new();
    for slot in &table.slots {
        let out = slot.take_out(wrapper);
        if out.is_empty() {
            continue;
        }
        writes.extend(out);
        if slot.layers().all(|layer| layer.wrapper() == wrapper) {
            writes.push(slot.disarm());
        }
    }
    Reply::Plan { wrapper, writes, moves: Vec::new(), outcomes: Vec::new() }
}

/// Tells an implementation what happens to it.
pub(crate) fn tell(wrapper: u32, event: Event) -> Reply {
    match table().wrappers.iter().find(|known| known.id == wrapper) {
        // SAFETY: it is loaded: brant unloads it after the last event only.
        Some(wrapper) => Reply::Told(unsafe { wrapper.known.tell(event) }),
        None => Reply::NoWrapper,
    }
}

/// Forgets a wrapper whose implementation was unloaded. One that stays keeps its layers for ever.
pub(crate) fn settle(wrapper: u32, is_unloaded: bool) -> Reply {
    let table = table();
    let Some(index) = table.wrappers.iter().position(|known| known.id == wrapper) else {
        return Reply::NoWrapper;
    };
    let is_in_use = table.slots.iter().any(|slot| slot.layers().any(|layer| layer.wrapper() == wrapper));
    if is_unloaded && !is_in_use && guard::lost(wrapper) == 0 {
        for layer in table.wrappers.swap_remove(index).layers {
            // SAFETY: it is in no chain, and brant has seen that no thread is inside of it.
            unsafe { table.layers.give_back(layer) };
        }
    }
    Reply::Settled
}

/// Every wrapper.
pub(crate) fn list() -> Vec<Listed> {
    let table = table();
    let listed = table.wrappers.iter().map(|wrapper| Listed {
        id: wrapper.id,
        name: wrapper.known.name().to_vec(),
        path: wrapper.known.path.clone(),
        handle: wrapper.known.handle,
        options: wrapper.known.options().to_vec(),
        functions: table.slots.iter().flat_map(|slot| functions_of(slot, wrapper)).collect(),
    });
    listed.collect()
}

fn functions_of(slot: &Slot, wrapper: &Wrapper) -> impl Iterator<Item = Function> {
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
