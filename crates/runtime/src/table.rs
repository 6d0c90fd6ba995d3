//! All slots and wrappers of this process, and which functions of a module a wrapper is for.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use brant_hook::exchange::{Mediation, Outcome, Write};
use brant_hook::symbols::is_library;
use brant_hook::{
    JUMP_BYTES, PROLOGUE_BYTES_MAX, Refusal, SHORT_JUMP_BYTES, branches_into, padding_near, refused_by_name,
    relocate_short, short_jump,
};

use crate::areas::Areas;
use crate::calls::Calls;
use crate::event::Known;
use crate::late::{Deferred, Loader};
use crate::modules::{Identity, Module, is_kernels};
use crate::slot::{Layer, Layers, Look, Slot, Use, Wanted, make_short_slot, make_slots};
use crate::system::{self, Hold, Taken};

/// How brant names the libraries that it carries when they are loaded.
const CARRIED_PREFIX: &[u8] = b"/proc/self/fd/";

/// Everything that there is.
pub(crate) struct Table {
    /// Each as long as its module is there: a thread may be on its way through it.
    pub(crate) slots: Vec<&'static Slot>,
    pub(crate) wrappers: Vec<Wrapper>,
    pub(crate) layers: Layers,
    pub(crate) areas: Areas,
    pub(crate) calls: Calls,
    pub(crate) next_wrapper: u32,
    /// How it is learnt that libraries come and go; nothing where that is not to be had.
    pub(crate) loader: Option<Loader>,
    /// The modules that were there when that was last looked at.
    pub(crate) seen: Vec<Seen>,
    /// Modules whose functions are mediated when they are initialised.
    pub(crate) deferred: Vec<Deferred>,
}

/// A module that was looked at.
pub(crate) struct Seen {
    pub(crate) identity: Identity,
    pub(crate) path: Vec<u8>,
    pub(crate) soname: Vec<u8>,
}

pub(crate) struct Wrapper {
    pub(crate) id: u32,
    /// Does not move: its implementation knows parts of it.
    pub(crate) known: Box<Known>,
    /// Where its implementation lies.
    pub(crate) base: u64,
    pub(crate) is_unguarded: bool,
    pub(crate) iterate: u64,
    pub(crate) mediations: Vec<Mediation>,
    /// The mediator of each mediation.
    pub(crate) mediators: Vec<u64>,
    /// Where each native one has its inner function, which it calls by that; 0 for others.
    pub(crate) inners: Vec<u64>,
    /// Every layer that was made for it, whether or not it is in a chain.
    pub(crate) layers: Vec<*const Layer>,
    /// 1 from when its plan is carried out until it is taken off: written by brant, as a part of both plans.
    pub(crate) is_on: Box<AtomicU64>,
    /// What was found in libraries that were loaded later and is not mediated.
    pub(crate) failed: Vec<Failed>,
}

/// A function of a library that was loaded later which is not mediated.
pub(crate) struct Failed {
    pub(crate) mediation: usize,
    pub(crate) module: Identity,
    pub(crate) library: Vec<u8>,
    pub(crate) outcome: Outcome,
}

struct Alone(UnsafeCell<Table>);

// SAFETY: used by whoever has the turn only.
unsafe impl Sync for Alone {}

static TABLE: Alone = Alone(UnsafeCell::new(Table {
    slots: Vec::new(),
    wrappers: Vec::new(),
    layers: Layers::new(),
    areas: Areas::new(),
    calls: Calls::new(),
    next_wrapper: 1,
    loader: None,
    seen: Vec::new(),
    deferred: Vec::new(),
}));

static HOLD: Hold = Hold::new();
/// This process is a fork that was made while a thread of its parent had the turn.
static IS_TORN: AtomicBool = AtomicBool::new(false);
/// Counts the changes that were not brant's. A plan is of no use any more once it is another one.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// A plan waits to be carried out, and changes that are not brant's wait for it: for a while, as brant may have been killed.
static PLANNED: AtomicU64 = AtomicU64::new(0);
/// Pauses that they wait: a seventh of a second or so.
const PLANNED_PAUSES_MAX: u32 = 1000;
/// Threads that are in the middle of noting a change of the loader's, or of telling implementations of it.
pub(crate) static LOADING: AtomicU32 = AtomicU32::new(0);

/// The right to change slots and wrappers.
///
/// Whoever holds a lock of the loader may wait for it: a library that is being loaded is looked at so. So nobody who has the
/// turn may need the loader.
pub(crate) struct Turn(());

impl Turn {
    /// `None` where somebody else keeps it for too long.
    pub(crate) fn take() -> Option<Turn> {
        if HOLD.take()? == Taken::Inherited {
            IS_TORN.store(true, Ordering::Relaxed);
        }
        Some(Turn(()))
    }

    /// The turn to make a change that is not brant's. `None`, too, in a process where changes are not followed.
    pub(crate) fn take_for_change() -> Option<Turn> {
        let mut pauses_left = PLANNED_PAUSES_MAX;
        loop {
            let Some(turn) = Turn::take() else {
                IS_TORN.store(true, Ordering::Relaxed);
                return None;
            };
            if is_torn() {
                return None;
            }
            if PLANNED.load(Ordering::Relaxed) == 0 || pauses_left == 0 {
                let_changes_go();
                return Some(turn);
            }
            drop(turn);
            pauses_left -= 1;
            system::pause();
        }
    }

    pub(crate) fn table(&mut self) -> &mut Table {
        // SAFETY: there is one turn at a time, and it is borrowed as long as the table is used.
        unsafe { &mut *TABLE.0.get() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HOLD.give_back();
    }
}

/// Whether changes of the loader's are still followed in this process.
pub(crate) fn is_torn() -> bool {
    IS_TORN.load(Ordering::Relaxed)
}

/// Lets changes wait for a plan. The write is a part of it.
pub(crate) fn hold_changes() -> Write {
    PLANNED.store(1, Ordering::Relaxed);
    let (old, new) = (1u64.to_le_bytes().to_vec(), 0u64.to_le_bytes().to_vec());
    Write { address: PLANNED.as_ptr() as u64, is_code: false, old, new }
}

pub(crate) fn let_changes_go() {
    PLANNED.store(0, Ordering::Relaxed);
}

/// A change is made that is not brant's.
pub(crate) fn note_change() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// One function that one mediation is for.
pub(crate) struct Target {
    pub(crate) mediation: usize,
    pub(crate) address: u64,
}

/// What there are slots for, and the mediations whose functions cannot have one.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) targets: Vec<Target>,
    pub(crate) refused: Vec<(usize, Refusal)>,
}

/// What of a module a set of mediations is for. Asks resolvers, which may need the loader: so without a turn.
pub(crate) struct Found<'m> {
    pub(crate) module: &'m Module,
    pub(crate) wanted: Vec<(usize, Wanted<'m>)>,
    /// What became of mediations that name the library and found no function in it.
    pub(crate) failed: Vec<(usize, Outcome)>,
    /// Not all could be asked for: the module has resolvers and is not relocated yet.
    pub(crate) must_wait: bool,
}

/// Looks for the functions of one module that are to be mediated. `is_relocated` is whether resolvers can be asked.
pub(crate) fn find<'m>(module: &'m Module, mediations: &'m [Mediation], is_relocated: bool) -> Found<'m> {
    let mut found = Found { module, wanted: Vec::new(), failed: Vec::new(), must_wait: false };
    for (index, mediation) in mediations.iter().enumerate() {
        if mediation.call.is_some() || !is_library(&mediation.library, module.soname, module.path) {
            continue;
        }
        if let Some(refusal) = refused_by_name(&mediation.function) {
            found.failed.push((index, Outcome::Refused(refusal)));
            continue;
        }
        let version = Some(mediation.version.as_slice()).filter(|version| !version.is_empty());
        let symbols = module.tables.named(&mediation.function, version);
        if symbols.is_empty() {
            found.failed.push((index, Outcome::NoFunction));
        }
        for symbol in symbols {
            let must_wait = !is_relocated && (symbol.is_ifunc || module.dynamic.has_text_relocations);
            found.must_wait |= must_wait;
            let located = match must_wait {
                true => Err(Refusal::Unrelocated),
                false => locate(module, symbol.value, symbol.bytes, symbol.is_ifunc),
            };
            match located {
                Ok(function) => {
                    let wanted = Wanted { library: module.name(), name: &mediation.function, function };
                    found.wanted.push((index, wanted));
                }
                Err(refusal) => found.failed.push((index, Outcome::Refused(refusal))),
            }
        }
    }
    found
}

/// A function's own code, by its symbol: what the resolver gives, where there is one.
fn locate(
    module: &Module,
    value: u64,
    size: u64,
    is_ifunc: bool,
) -> Result<brant_hook::Function<'static>, Refusal> {
    let mut address = module.base.wrapping_add(value);
    let mut size = size;
    if is_ifunc {
        // SAFETY: a resolver, which the loader itself calls so; the module is relocated.
        let resolver: extern "C" fn() -> u64 = unsafe { core::mem::transmute(address as usize) };
        address = resolver();
        size = 0;
    }
    function_at(module, address, size).ok_or(Refusal::Resolver)
}

/// The code at an address of a module.
pub(crate) fn function_at(module: &Module, address: u64, size: u64) -> Option<brant_hook::Function<'static>> {
    let (at, code) = module.code().find(|(at, code)| (*at..at + code.len() as u64).contains(&address))?;
    let rest = &code[(address - at) as usize..];
    let code = &rest[..rest.len().min(PROLOGUE_BYTES_MAX)];
    Some(brant_hook::Function { address, code, bytes: size })
}

impl Table {
    /// What must be as it is now while a plan is carried out.
    pub(crate) fn checks(&self) -> Vec<Write> {
        let generation = GENERATION.load(Ordering::Relaxed).to_le_bytes().to_vec();
        let check =
            |address: u64, bytes: Vec<u8>| Write { address, is_code: false, old: bytes.clone(), new: bytes };
        let mut checks = alloc::vec![check(GENERATION.as_ptr() as u64, generation)];
        if let Some(loader) = &self.loader {
            // SAFETY: this is asked for where the loader's list does not change.
            checks.extend(unsafe { loader.last_module() }.map(|(address, bytes)| check(address, bytes)));
        }
        checks
    }

    /// Whether libraries that are loaded from now on are mediated while a wrapper is on.
    pub(crate) fn covers_later(&self) -> bool {
        // SAFETY: the loader is never unloaded.
        let is_able = |loader: &Loader| unsafe { loader.slot.look() } != Look::Other;
        self.loader.as_ref().is_some_and(is_able) && !is_torn()
    }

    pub(crate) fn wrapper(&mut self, id: u32) -> Option<&mut Wrapper> {
        self.wrappers.iter_mut().find(|wrapper| wrapper.id == id)
    }

    /// Wrappers that are on, in the order in which they were put on.
    pub(crate) fn on(&self) -> Vec<usize> {
        let is_on = |index: &usize| self.wrappers[*index].is_on();
        let mut on: Vec<usize> = (0..self.wrappers.len()).filter(is_on).collect();
        on.sort_by_key(|index| self.wrappers[*index].id);
        on
    }

    /// Forgets what is in a module that has gone. No call of its functions is under way, so layers and code serve again.
    pub(crate) fn forget(&mut self, gone: Identity) {
        self.deferred.retain(|deferred| deferred.slot.module != gone);
        let (dropped, kept) = self.slots.iter().partition(|slot| slot.module == gone);
        self.slots = kept;
        let dropped: Vec<&'static Slot> = dropped;
        for slot in dropped {
            for layer in slot.layers() {
                if let Some(wrapper) = self.wrappers.iter_mut().find(|wrapper| wrapper.id == layer.wrapper())
                {
                    wrapper.layers.retain(|own| !core::ptr::eq(*own, layer));
                }
            }
            // SAFETY: nothing can jump to the slot any more, and no list has it.
            unsafe { self.layers.give_back_all(slot) };
        }
        self.areas.free(gone);
        self.calls.forget(gone);
        for wrapper in &mut self.wrappers {
            wrapper.failed.retain(|failed| failed.module != gone);
        }
    }

    /// Forgets what is in modules that are not there. Notes which are, unless that is followed anyway: then one that has not been
    /// seen yet is left to the loader's hook, which it is about to pass, for every wrapper that is on by then.
    pub(crate) fn note_modules(&mut self, modules: &[Module]) {
        let is_there = |identity: Identity| modules.iter().any(|module| Identity::of(module) == identity);
        let own = self.slots.iter().map(|slot| slot.module).chain(self.calls.modules());
        let mut gone: Vec<Identity> = own.filter(|identity| !is_there(*identity)).collect();
        gone.dedup();
        gone.into_iter().for_each(|identity| self.forget(identity));
        // What somebody else has changed is looked at anew, unless that one may still lead to the slot.
        // SAFETY: the modules of all slots that are left are there.
        self.slots.retain(|slot| slot.layers().next().is_some() || unsafe { slot.look() } != Look::Other);
        if !self.is_followed() {
            self.seen = modules.iter().map(Seen::of).collect();
        }
    }

    pub(crate) fn is_seen(&self, identity: Identity) -> bool {
        self.seen.iter().any(|seen| seen.identity == identity)
    }

    /// Whether the loader tells of every change now.
    pub(crate) fn is_followed(&self) -> bool {
        self.loader.as_ref().is_some_and(Loader::is_on) && !is_torn()
    }

    /// Makes the slots that are missing for what was found. Gives each function's mediation, and those that cannot have one.
    pub(crate) fn make_slots(&mut self, found: &Found<'_>) -> Option<Made> {
        let refusals = self.make_missing(found.module, &found.wanted)?;
        let mut made = Made::default();
        for (mediation, wanted) in &found.wanted {
            let (mediation, address) = (*mediation, wanted.function.address);
            match refusals.iter().find(|(refused, _)| *refused == address) {
                Some((_, refusal)) => made.refused.push((mediation, *refusal)),
                None if made.targets.iter().any(|t| t.mediation == mediation && t.address == address) => {}
                None => made.targets.push(Target { mediation, address }),
            }
        }
        Some(made)
    }

    /// Whether a mediator may stand before the function at an address: a native one before no other one at the same time.
    pub(crate) fn is_free(&self, index: usize, mediation: usize, address: u64) -> bool {
        let wrapper = &self.wrappers[index];
        let is_same = |layer: &Layer| {
            layer.wrapper() == wrapper.id && wrapper.mediators[layer.index()] == wrapper.mediators[mediation]
        };
        !wrapper.mediations[mediation].is_native
            || !self.slots.iter().any(|slot| slot.address != address && slot.layers().any(is_same))
    }

    pub(crate) fn slot_at(&self, address: u64) -> Option<&'static Slot> {
        self.slots.iter().rfind(|slot| slot.address == address).copied()
    }

    /// Those of functions and those of system calls.
    pub(crate) fn all_slots(&self) -> impl Iterator<Item = &'static Slot> + '_ {
        self.slots.iter().copied().chain(self.calls.slots())
    }

    /// Whether a module is the runtime, the implementation of a wrapper, or the kernel's own: the calls that these make are not
    /// mediated. The kernel's is another one where a program is restored, so that it is left as it is.
    pub(crate) fn is_ours(&self, module: &Module) -> bool {
        let (start, end) = module.range();
        let own = &raw const TABLE as u64;
        // brant's own implementations are loaded so, before any wrapper is known to have them.
        is_kernels(module.path)
            || module.soname.is_some_and(is_kernels)
            || module.path.starts_with(CARRIED_PREFIX)
            || (start..end).contains(&own)
            || self.wrappers.iter().any(|wrapper| wrapper.base == module.base)
    }

    /// What hooks of functions have overwritten in a module.
    pub(crate) fn overwritten(&self, module: &Module) -> Vec<(u64, Vec<u8>)> {
        // SAFETY: the modules of all slots are there.
        let is_hooked = |slot: &&&Slot| unsafe { slot.look() } == Look::Hooked;
        let own = self.slots.iter().filter(|slot| slot.module == Identity::of(module)).filter(is_hooked);
        own.flat_map(|slot| slot.overwritten().map(|(at, old)| (at, old.to_vec()))).collect()
    }

    /// Gives the addresses of functions that cannot have a slot.
    fn make_missing(
        &mut self,
        module: &Module,
        wanted: &[(usize, Wanted<'_>)],
    ) -> Option<Vec<(u64, Refusal)>> {
        let mut missing: Vec<Wanted<'_>> = Vec::new();
        for (_, wanted) in wanted {
            let is_there = self.slot_at(wanted.function.address).is_some()
                || missing.iter().any(|other| other.function.address == wanted.function.address);
            if !is_there {
                missing.push(Wanted { ..*wanted });
            }
        }
        if missing.is_empty() {
            return Some(Vec::new());
        }
        missing.sort_by_key(|wanted| wanted.function.address);
        let made = make_slots(&mut self.areas, &missing, module)?;
        let ranges: Vec<Range<u64>> = made.iter().flatten().flat_map(|slot| slot.ranges()).collect();
        let mut hits = branches(module, &ranges).into_iter();
        let mut refusals = Vec::new();
        for (wanted, slot) in missing.iter().zip(made) {
            let slot = slot.and_then(|slot| {
                // What another slot has taken as its padding is none any more.
                let is_taken = slot.ranges().any(|range| self.slots.iter().any(|other| other.covers(&range)));
                let is_branched_into = hits.next().unwrap_or(false);
                match (self.is_site(&slot), is_branched_into, is_taken) {
                    (true, _, _) => Err(Refusal::Hooked),
                    (false, true, _) => Err(Refusal::BranchInto),
                    (false, false, true) => Err(Refusal::TooShort),
                    (false, false, false) => Ok(slot),
                }
            });
            let slot = slot.or_else(|refusal| match refusal {
                Refusal::BranchInto | Refusal::TooShort => self.make_short(module, wanted).ok_or(refusal),
                _ => Err(refusal),
            });
            match slot {
                Ok(slot) => self.slots.push(slot.keep()),
                Err(refusal) => refusals.push((wanted.function.address, refusal)),
            }
        }
        Some(refusals)
    }

    /// A slot for a function that has no room for a long jump: with a short one, to padding nearby that nobody else has taken.
    fn make_short(&mut self, module: &Module, wanted: &Wanted<'_>) -> Option<Box<Slot>> {
        let function = wanted.function;
        let at = relocate_short(function, function.address).ok()?.at;
        let (start, code) =
            module.code().find(|(start, code)| (*start..*start + code.len() as u64).contains(&at))?;
        let entry = at..at + SHORT_JUMP_BYTES as u64;
        for place in padding_near(code, start, at) {
            let padding = place..place + JUMP_BYTES as u64;
            // A branch to its first byte counts, too.
            let both = [place - 1..padding.end, entry.clone()];
            let is_taken =
                [&padding, &entry].into_iter().any(|range| self.slots.iter().any(|slot| slot.covers(range)));
            let is_hit = both.iter().any(|range| branches(module, core::slice::from_ref(range))[0]);
            if is_taken || is_hit || short_jump(at, place).is_none() {
                continue;
            }
            let bytes = &code[(place - start) as usize..(padding.end - start) as usize];
            let slot = make_short_slot(&mut self.areas, wanted, module, (place, bytes)).ok()?;
            return (!self.is_site(&slot)).then_some(slot);
        }
        None
    }

    /// Whether it would write where a system call is mediated.
    fn is_site(&self, slot: &Slot) -> bool {
        slot.ranges().any(|range| self.calls.is_armed_in(range))
    }
}

/// For each of `ranges`, whether code of the module branches into it.
fn branches(module: &Module, ranges: &[Range<u64>]) -> Vec<bool> {
    let mut is_branched_into = alloc::vec![false; ranges.len()];
    for (at, code) in module.code() {
        let hits = branches_into(code, at, ranges);
        is_branched_into.iter_mut().zip(hits).for_each(|(is_hit, hit)| *is_hit |= hit);
    }
    is_branched_into
}

impl Wrapper {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed) == 1
    }

    pub(crate) fn new_layer(&mut self, layers: &mut Layers, mediation: usize) -> Option<&'static Layer> {
        let wanted = &self.mediations[mediation];
        let layer = layers.take(&Use {
            wrapper: self.id,
            mediator: self.mediators[mediation],
            is_native: wanted.is_native,
            is_guarded: !self.is_unguarded,
            index: mediation,
            shape: &wanted.shape,
        })?;
        self.layers.push(layer);
        Some(layer)
    }

    /// The write that gives a native mediator its inner function, before the mediator can be called.
    pub(crate) fn inner(&self, mediation: usize, layer: &Layer) -> Option<Write> {
        let address = self.inners[mediation];
        if address == 0 {
            return None;
        }
        // SAFETY: it was seen to be a variable of the implementation, which is loaded.
        let old = unsafe { (*(address as *const AtomicU64)).load(Ordering::Relaxed) };
        let (old, new) = (old.to_le_bytes().to_vec(), layer.past().to_le_bytes().to_vec());
        Some(Write { address, is_code: false, old, new })
    }

    /// Gives a native mediator its inner function at once.
    pub(crate) fn set_inner(&self, mediation: usize, layer: &Layer) {
        let address = self.inners[mediation];
        if address != 0 {
            // SAFETY: it was seen to be a variable of the implementation, which is loaded.
            unsafe { (*(address as *const AtomicU64)).store(layer.past(), Ordering::Release) };
        }
    }
}

impl Seen {
    pub(crate) fn of(module: &Module) -> Seen {
        Seen {
            identity: Identity::of(module),
            path: module.path.to_vec(),
            soname: module.soname.unwrap_or_default().to_vec(),
        }
    }
}
