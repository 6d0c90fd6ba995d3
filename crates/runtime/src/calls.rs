//! Mediated system calls: the sites in the modules of the program, and what stands before each number.
//!
//! A number has a slot with layers as a function has. A site that may make such a call, by its number or because that is not
//! known, has a stub, to which its jump leads once it is armed; the stub passes on what is not mediated. Sites, stubs and slots
//! are never freed. Sites that cannot be patched are told with every plan: calls from there are not mediated.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use brant_hook::exchange::{MissedSite, Missing, Outcome, SiteCounts, Write};
use brant_hook::symbols::Symbol;
use brant_hook::{JUMP_BYTES, Places, Refusal, STUB_BYTES_MAX, Site, find_sites};

use crate::entry::{self, BARE_BYTES, CALLS_MAX, FIRST, FLAGS, RECORDS, RECORDS_MAX};
use crate::modules::{Identity, Module};
use crate::slot::{Slot, put};
use crate::system;

/// What of calls is mediated in this process.
pub(crate) struct Calls {
    slots: Vec<(u32, &'static Slot)>,
    modules: Vec<Scanned>,
    records: Records,
    /// Places in modules that were loaded later which cannot be patched.
    missed: Vec<(Identity, MissedSite)>,
    /// Pages of stubs that make calls, and how many bytes of the last one are taken.
    bare: Option<(*mut u8, usize)>,
}

/// A module whose sites are known.
pub(crate) struct Scanned {
    module: Identity,
    range: (u64, u64),
    sites: Vec<Known>,
    doubtful: Vec<u64>,
    /// Pages of its stubs, and the records that these have.
    pages: Vec<(*mut u8, usize)>,
    records: Vec<usize>,
}

/// Which records are in use.
struct Records {
    used: usize,
    free: Vec<usize>,
}

struct Known {
    site: Site,
    made: Option<Result<Made, Refusal>>,
}

/// A site with its stub.
struct Made {
    at: u64,
    old: [u8; JUMP_BYTES],
    new: [u8; JUMP_BYTES],
    moves: Vec<(u64, u64)>,
}

/// What is to be written so that calls of some numbers are mediated, or no longer.
#[derive(Default)]
pub(crate) struct Sites {
    pub(crate) writes: Vec<Write>,
    pub(crate) moves: Vec<(u64, u64)>,
    pub(crate) counts: SiteCounts,
}

impl Made {
    /// What is there now.
    ///
    /// # Safety
    ///
    /// Its module is mapped.
    unsafe fn now(&self) -> [u8; JUMP_BYTES] {
        // SAFETY: promised by the caller.
        unsafe { (self.at as *const [u8; JUMP_BYTES]).read() }
    }
}

impl Calls {
    pub(crate) const fn new() -> Calls {
        Calls {
            slots: Vec::new(),
            modules: Vec::new(),
            records: Records { used: 0, free: Vec::new() },
            missed: Vec::new(),
            bare: None,
        }
    }

    /// The slots of all numbers that were ever mediated.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &'static Slot> + '_ {
        self.slots.iter().map(|(_, slot)| *slot)
    }

    /// The slot whose calls the code at an address makes.
    pub(crate) fn slot_at(&self, address: u64) -> Option<&'static Slot> {
        self.slots().find(|slot| slot.address == address)
    }

    /// The slot of a number, made where there is none. `None`: there is no memory for it.
    pub(crate) fn slot(&mut self, number: u32, name: &[u8]) -> Option<&'static Slot> {
        if let Some((_, slot)) = self.slots.iter().find(|(known, _)| *known == number) {
            return Some(slot);
        }
        let first = FIRST.get(number as usize)?;
        let bare = self.bare_stub(number)?;
        let slot = Slot::of_call(name, bare as u64).keep();
        first.store(slot.first_place(), Ordering::Release);
        self.slots.push((number, slot));
        Some(slot)
    }

    /// Code that makes calls of this number; in pages of its own, each written once and then sealed.
    fn bare_stub(&mut self, number: u32) -> Option<*mut u8> {
        let (pages, used) = match self.bare.filter(|(_, used)| used + BARE_BYTES <= CALLS_MAX * BARE_BYTES) {
            Some(bare) => bare,
            None => {
                let bytes = (CALLS_MAX * BARE_BYTES).next_multiple_of(system::PAGE);
                let pages = system::map(bytes)?;
                for number in 0..CALLS_MAX {
                    let code = entry::bare_stub(number as u32);
                    // SAFETY: there is room for one of each number.
                    unsafe {
                        core::ptr::copy_nonoverlapping(
                            code.as_ptr(),
                            pages.add(number * BARE_BYTES),
                            BARE_BYTES,
                        );
                    }
                }
                // SAFETY: nothing writes there any more.
                unsafe { system::seal(pages, bytes) }.then_some(())?;
                entry::prepare();
                (pages, 0)
            }
        };
        self.bare = Some((pages, used));
        // SAFETY: one of those that were made.
        Some(unsafe { pages.add(number as usize * BARE_BYTES) })
    }

    /// Whether the sites of a module are known.
    pub(crate) fn knows(&self, module: &Module) -> bool {
        self.modules.iter().any(|scanned| scanned.module == Identity::of(module))
    }

    /// The modules whose sites are known.
    pub(crate) fn modules(&self) -> impl Iterator<Item = Identity> + '_ {
        self.modules.iter().map(|scanned| scanned.module)
    }

    /// Notes the sites of a module.
    pub(crate) fn learn(&mut self, scanned: Scanned) {
        self.modules.push(scanned);
    }

    /// Forgets a module that has gone: nothing can come from it any more.
    pub(crate) fn forget(&mut self, gone: Identity) {
        self.missed.retain(|(module, _)| *module != gone);
        let is_gone = |scanned: &Scanned| scanned.module == gone;
        while let Some(index) = self.modules.iter().position(is_gone) {
            let scanned = self.modules.swap_remove(index);
            self.records.free.extend(scanned.records);
            for (pages, bytes) in scanned.pages {
                // SAFETY: no jump leads to these stubs any more, and no thread is in them.
                unsafe { system::unmap(pages, bytes) };
            }
        }
    }

    /// Plans the jumps in one module whose sites are known, so that calls of all `numbers` come to their layers. `functions` are
    /// bytes of it that hooks of functions have overwritten.
    pub(crate) fn arm(
        &mut self,
        module: &Module,
        numbers: &[u32],
        functions: &[(u64, Vec<u8>)],
        plan: &mut Sites,
    ) {
        let is_wanted = |number: Option<u32>| number.is_none_or(|number| numbers.contains(&number));
        let is_it = |scanned: &&mut Scanned| scanned.module == Identity::of(module);
        let Some(scanned) = self.modules.iter_mut().find(is_it) else { return };
        scanned.make(&mut self.records, &is_wanted);
        scanned.arm(module, &is_wanted, functions, plan);
    }

    /// The same in a module that is just being loaded, at once.
    ///
    /// # Safety
    ///
    /// It is mapped, and no other thread can run its code yet.
    pub(crate) unsafe fn arm_here(&mut self, module: &Module, functions: &[(u64, Vec<u8>)]) {
        let numbers = self.numbers(|_| true);
        if numbers.is_empty() {
            return;
        }
        if !self.knows(module) {
            self.learn(Scanned::new(module));
        }
        let mut plan = Sites::default();
        self.arm(module, &numbers, functions, &mut plan);
        let identity = Identity::of(module);
        self.missed.retain(|(known, _)| *known != identity);
        self.missed.extend(plan.counts.missed.into_iter().map(|missed| (identity, missed)));
        for write in plan.writes {
            // SAFETY: promised by the caller; the bytes were seen a moment ago.
            if let Err(refusal) = unsafe { put(module, write.address, &write.new) } {
                self.missed.push((identity, missed(module, write.address, None, refusal)));
            }
        }
    }

    /// What was missed in modules that were loaded later, of calls of these numbers or of unknown ones: its library, the call
    /// and the place, and why.
    pub(crate) fn missed_later(&self, numbers: &[u32]) -> Vec<Missing> {
        let is_wanted = |site: &MissedSite| {
            site.number == u64::MAX || numbers.iter().any(|number| u64::from(*number) == site.number)
        };
        let missing = |site: &MissedSite| {
            let name = self.slots.iter().find(|(number, _)| u64::from(*number) == site.number);
            let name = name.map_or(&b"calls"[..], |(_, slot)| &slot.name);
            let function = [name, format!(" at +{:#x}", site.offset).as_bytes()].concat();
            Missing { library: site.library.clone(), function, outcome: Outcome::Refused(site.refusal) }
        };
        self.missed.iter().map(|(_, site)| site).filter(|site| is_wanted(site)).map(missing).collect()
    }

    /// Plans to take the jumps in one module away that none of `numbers`, those which stay mediated, needs.
    pub(crate) fn disarm(&self, module: &Module, numbers: &[u32], writes: &mut Vec<Write>) {
        let is_it = |scanned: &&Scanned| scanned.module == Identity::of(module);
        let Some(scanned) = self.modules.iter().find(is_it) else { return };
        for known in &scanned.sites {
            let Some(Ok(made)) = &known.made else { continue };
            let is_needed = match known.site.number {
                Some(number) => numbers.contains(&number),
                None => !numbers.is_empty(),
            };
            // SAFETY: its module is loaded.
            if !is_needed && unsafe { made.now() } == made.new {
                let (old, new) = (made.new.to_vec(), made.old.to_vec());
                writes.push(Write { address: made.at, is_code: true, old, new });
            }
        }
    }

    /// What tells the stubs which calls are mediated: those of `numbers` only.
    pub(crate) fn flags<'a>(&'a self, numbers: &'a [u32]) -> impl Iterator<Item = Write> + 'a {
        let write = |(number, _): &(u32, _)| flag_write(*number, numbers.contains(number));
        self.slots.iter().map(write).filter(|write| write.old != write.new)
    }

    /// The numbers that have layers of a wrapper for which `is_wanted`.
    pub(crate) fn numbers(&self, is_wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        let has = |slot: &Slot| slot.layers().any(|layer| is_wanted(layer.wrapper()));
        self.slots.iter().filter(|(_, slot)| has(slot)).map(|(number, _)| *number).collect()
    }

    /// Whether a jump over these bytes would cover one that is armed.
    pub(crate) fn is_armed_in(&self, bytes: Range<u64>) -> bool {
        let all = self.modules.iter().flat_map(|scanned| &scanned.sites);
        all.filter_map(|known| known.made.as_ref()?.as_ref().ok()).any(|made| {
            let is_near = made.at < bytes.end && bytes.start < made.at + JUMP_BYTES as u64;
            // SAFETY: the bytes are those of a module that is loaded.
            is_near && unsafe { made.now() } == made.new
        })
    }
}

impl Scanned {
    /// Finds the sites of a module.
    pub(crate) fn new(module: &Module) -> Scanned {
        let functions = module.functions();
        let mut scanned = Scanned {
            module: Identity::of(module),
            range: module.range(),
            sites: Vec::new(),
            doubtful: Vec::new(),
            pages: Vec::new(),
            records: Vec::new(),
        };
        for (at, code) in module.code() {
            let found = find_sites(code, at, &functions);
            scanned.sites.extend(found.sites.into_iter().map(|site| Known { site, made: None }));
            scanned.doubtful.extend(found.doubtful);
        }
        scanned
    }

    /// Makes the stubs that are missing.
    fn make(&mut self, records: &mut Records, is_wanted: &impl Fn(Option<u32>) -> bool) {
        let is_missing = |known: &Known| known.made.is_none() && is_wanted(known.site.number);
        let count = self.sites.iter().filter(|known| is_missing(known)).count();
        if count == 0 {
            return;
        }
        let bytes = (count * STUB_BYTES_MAX).next_multiple_of(system::PAGE);
        let pages = system::map_near(self.range.0 as usize, self.range.1 as usize, bytes);
        self.pages.extend(pages.map(|pages| (pages, bytes)));
        let mut used = 0;
        for known in self.sites.iter_mut().filter(|known| is_missing(known)) {
            let Some((pages, record)) = pages.zip(records.take()) else {
                known.made = Some(Err(Refusal::TooFar));
                continue;
            };
            // SAFETY: there is room for as many.
            let made = make(&known.site, unsafe { pages.add(used * STUB_BYTES_MAX) }, record);
            match &made {
                Ok(_) => {
                    self.records.push(record);
                    used += 1;
                }
                Err(_) => records.free.push(record),
            }
            known.made = Some(made);
        }
        // SAFETY: nothing writes there any more.
        if !pages.is_some_and(|pages| unsafe { system::seal(pages, bytes) }) {
            self.sites.iter_mut().for_each(|known| known.made = Some(Err(Refusal::TooFar)));
        }
    }

    fn arm(
        &self,
        module: &Module,
        is_wanted: &impl Fn(Option<u32>) -> bool,
        functions: &[(u64, Vec<u8>)],
        plan: &mut Sites,
    ) {
        plan.counts.found += self.sites.len() as u32;
        for known in self.sites.iter().filter(|known| is_wanted(known.site.number)) {
            let refusal = match known.made.as_ref() {
                Some(Ok(made)) => {
                    // SAFETY: the module is loaded.
                    let now = unsafe { made.now() };
                    if now == made.old {
                        plan.writes.push(Write {
                            address: made.at,
                            is_code: true,
                            old: made.old.to_vec(),
                            new: made.new.to_vec(),
                        });
                        plan.moves.extend(&made.moves);
                    }
                    if now == made.old || now == made.new {
                        plan.counts.patched += 1;
                        continue;
                    }
                    Refusal::Hooked
                }
                Some(Err(refusal)) => *refusal,
                None => Refusal::TooFar,
            };
            plan.counts.missed.push(missed(module, known.site.address, known.site.number, refusal));
        }
        for at in &self.doubtful {
            plan.counts.missed.push(missed(module, *at, None, Refusal::Doubtful));
        }
        let (start, end) = self.range;
        for (at, _) in functions.iter().filter(|(at, old)| (start..end).contains(at) && has_call(old)) {
            plan.counts.missed.push(missed(module, *at, None, Refusal::Hooked));
        }
    }
}

fn missed(module: &Module, address: u64, number: Option<u32>, refusal: Refusal) -> MissedSite {
    let offset = address.wrapping_sub(module.base);
    let is_in = |symbol: &Symbol<'_>| (symbol.value..symbol.value + symbol.bytes).contains(&offset);
    let function = module.tables.functions().find(is_in).map_or(Vec::new(), |symbol| symbol.name.to_vec());
    MissedSite {
        library: module.name().to_vec(),
        function,
        offset,
        number: number.map_or(u64::MAX, u64::from),
        refusal,
    }
}

/// Whether bytes that a hook has overwritten have a system call among them.
fn has_call(old: &[u8]) -> bool {
    old.windows(2).any(|pair| pair == [0x0f, 0x05])
}

impl Records {
    fn take(&mut self) -> Option<usize> {
        if let Some(record) = self.free.pop() {
            return Some(record);
        }
        let record = self.used;
        (record < RECORDS_MAX).then(|| self.used += 1).map(|()| record)
    }
}

fn make(site: &Site, stub: *mut u8, record: usize) -> Result<Made, Refusal> {
    let own = &RECORDS[record];
    let places = Places { stub: stub as u64, flags: FLAGS.as_ptr() as u64, record: &raw const *own as u64 };
    let around = site.surroundings();
    // SAFETY: the code around a site is that of its module, which is mapped.
    let code = unsafe {
        core::slice::from_raw_parts(around.start as *const u8, (around.end - around.start) as usize)
    };
    let patch = site.patch(code, around.start, places)?;
    own.site.store(site.address, Ordering::Relaxed);
    own.back.store(patch.back, Ordering::Relaxed);
    own.bare.store(patch.bare, Ordering::Relaxed);
    own.flags.store(u64::from(site.returns && patch.bare == site.address), Ordering::Relaxed);
    own.code.store(entry::enter(), Ordering::Release);
    // SAFETY: the stub's place is ours alone, writable, and large enough.
    unsafe {
        core::ptr::write_bytes(stub, 0xcc, STUB_BYTES_MAX);
        core::ptr::copy_nonoverlapping(patch.stub.as_ptr(), stub, patch.stub.len().min(STUB_BYTES_MAX));
    }
    Ok(Made { at: patch.at, old: patch.old, new: patch.new, moves: patch.moves })
}

fn flag_write(number: u32, is_on: bool) -> Write {
    let place = &FLAGS[number as usize % FLAGS.len()];
    Write {
        address: place.as_ptr() as u64,
        is_code: false,
        old: [place.load(Ordering::Relaxed)].to_vec(),
        new: [u8::from(is_on)].to_vec(),
    }
}
