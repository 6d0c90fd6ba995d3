//! Libraries that come and go while wrappers are on.
//!
//! The loader of glibc and that of musl call an empty function whenever their list of modules has changed, for debuggers:
//! `r_brk` of `struct r_debug` (link.h). It is hooked like any other function, with a layer of the runtime's own. It is called
//! under the loader's lock, when a new module is mapped and nothing of it has run: no constructor, and no other thread has a
//! pointer into it. So this is where the runtime writes jumps itself, into that module alone. When a module has gone, what was
//! made for it is forgotten.
//!
//! glibc before 2.42 calls it before the new module is relocated, so that resolvers (IFUNC) cannot be asked yet. Such a module
//! is looked at when its initialiser (`DT_INIT`) is about to run, which is hooked for that once.
//!
//! Only the loader's main list is followed: modules of other namespaces (dlmopen) are not mediated.

use alloc::vec;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::ffi::c_char;
use core::sync::atomic::{AtomicU64, Ordering};

use brant_hook::Refusal;
use brant_hook::exchange::{Event, Outcome, Shape};
use brant_hook::symbols::is_library;

use crate::event::{Known, Told};
use crate::modules::{Identity, LinkMap, Module, is_kernels, text};
use crate::slot::{Layer, Look, Slot, Use, Wanted};
use crate::system::Undisturbed;
use crate::table::{Failed, Found, LOADING, Seen, Table, Turn, find, function_at, is_torn, note_change};

/// The wrapper of the runtime's own layers: that of nobody.
const OWN: u32 = 0;
const CONSISTENT: i32 = 0;
const MODULES_MAX: usize = 65_536;

/// `struct r_debug`.
#[repr(C)]
struct Debug {
    version: i32,
    first: *const LinkMap,
    /// What the loader calls.
    changed: u64,
    state: i32,
    loader: u64,
}

/// Where it is, for the hook; 0 before there is one.
static DEBUG: AtomicU64 = AtomicU64::new(0);

/// The hook in the loader.
pub(crate) struct Loader {
    debug: u64,
    pub(crate) slot: &'static Slot,
    pub(crate) layer: &'static Layer,
}

/// A module whose functions are mediated when it is initialised.
pub(crate) struct Deferred {
    pub(crate) slot: &'static Slot,
    layer: &'static Layer,
}

// Both are entered as a layer's code is: the layer in r11, the rest as the caller left it. Everything comes back as it was, as
// the caller may know that the function changes nothing.
global_asm!(
    ".macro BRANT_NOTICE name, act",
    ".global \\name",
    ".hidden \\name",
    ".type \\name, @function",
    ".p2align 4",
    "\\name:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "sub rsp, 336",
    "mov [rbp - 8], rax",
    "mov [rbp - 16], rcx",
    "mov [rbp - 24], rdx",
    "mov [rbp - 32], rsi",
    "mov [rbp - 40], rdi",
    "mov [rbp - 48], r8",
    "mov [rbp - 56], r9",
    "mov [rbp - 64], r10",
    "mov [rbp - 72], r11",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movaps [rbp - 336 + 16 * \\n], xmm\\n",
    ".endr",
    "mov rdi, r11",
    "call \\act",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movaps xmm\\n, [rbp - 336 + 16 * \\n]",
    ".endr",
    "mov rax, [rbp - 8]",
    "mov rcx, [rbp - 16]",
    "mov rdx, [rbp - 24]",
    "mov rsi, [rbp - 32]",
    "mov rdi, [rbp - 40]",
    "mov r8, [rbp - 48]",
    "mov r9, [rbp - 56]",
    "mov r10, [rbp - 64]",
    "mov r11, [rbp - 72]",
    "mov r11, [r11 + 16]",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "jmp [r11]",
    ".cfi_endproc",
    ".size \\name, . - \\name",
    ".endm",
    ".pushsection .text.brant_notices, \"ax\", @progbits",
    "BRANT_NOTICE brant_loader_changed, {changed}",
    "BRANT_NOTICE brant_module_starts, {starts}",
    ".popsection",
    changed = sym changed,
    starts = sym starts,
);

unsafe extern "C" {
    fn brant_loader_changed();
    fn brant_module_starts();
}

/// The loader has changed its list, or is about to.
unsafe extern "C" fn changed(_: *const Layer) {
    // SAFETY: the loader's own, for as long as the program runs.
    let state = unsafe { (*(DEBUG.load(Ordering::Relaxed) as *const Debug)).state };
    if state != CONSISTENT || is_torn() {
        return;
    }
    LOADING.fetch_add(1, Ordering::SeqCst);
    let notices = {
        let _quiet = Undisturbed::begin();
        Turn::take_for_change().map_or(Vec::new(), |mut turn| turn.table().follow())
    };
    // Without the turn: what is told may load a library.
    for Notice { known, event, told } in &notices {
        // SAFETY: its wrapper was on, and brant unloads it only while no thread is in here.
        unsafe { (**known).tell(*event, Some(told)) };
    }
    LOADING.fetch_sub(1, Ordering::SeqCst);
}

/// A module whose functions had to wait is about to be initialised: it is relocated.
unsafe extern "C" fn starts(layer: *const Layer) {
    LOADING.fetch_add(1, Ordering::SeqCst);
    let quiet = Undisturbed::begin();
    if let Some(mut turn) = Turn::take_for_change() {
        turn.table().start(layer);
    }
    drop(quiet);
    LOADING.fetch_sub(1, Ordering::SeqCst);
}

/// What an implementation is to be told.
struct Notice {
    known: *const Known,
    event: Event,
    told: Told,
}

impl Loader {
    pub(crate) fn is_on(&self) -> bool {
        // SAFETY: the loader is never unloaded.
        self.is_in_place() && unsafe { self.slot.look() } == Look::Hooked
    }

    /// Whether its layer is in its slot's chain.
    pub(crate) fn is_in_place(&self) -> bool {
        self.slot.layers().any(|layer| core::ptr::eq(layer, self.layer))
    }

    /// Where the list ends and what is there, which is another module after every change.
    ///
    /// # Safety
    ///
    /// The list does not change meanwhile.
    pub(crate) unsafe fn last_module(&self) -> Option<(u64, Vec<u8>)> {
        // SAFETY: promised by the caller.
        let last = *unsafe { self.listed() }.last()?;
        let words = [last.base, last.name as u64, last.dynamic, last.next as u64];
        Some((&raw const *last as u64, words.iter().flat_map(|word| word.to_le_bytes()).collect()))
    }

    /// # Safety
    ///
    /// The list does not change as long as the result is used.
    unsafe fn listed(&self) -> Vec<&'static LinkMap> {
        let mut all = Vec::new();
        // SAFETY: the loader's own, for as long as the program runs.
        let mut next = unsafe { (*(self.debug as *const Debug)).first };
        while !next.is_null() && all.len() < MODULES_MAX {
            // SAFETY: promised by the caller.
            let listed = unsafe { &*next };
            all.push(listed);
            next = listed.next;
        }
        all
    }
}

fn path_of(listed: &LinkMap) -> &'static [u8] {
    let name: *const c_char = listed.name;
    // SAFETY: the loader's string, which lives as long as the module.
    unsafe { text(name) }
}

impl Table {
    /// Looks for the function that the loader calls, and makes it a slot.
    pub(crate) fn find_loader(&mut self, debug: u64, modules: &[Module]) -> Option<Loader> {
        if debug == 0 {
            return None;
        }
        // SAFETY: brant has found it.
        let changed = unsafe { (*(debug as *const Debug)).changed };
        let module = modules.iter().find(|module| module.segment_at(changed).is_some())?;
        let (slot, layer) = self.own_slot(module, changed, b"_dl_debug_state", brant_loader_changed)?;
        DEBUG.store(debug, Ordering::Relaxed);
        Some(Loader { debug, slot, layer })
    }

    /// A slot for a function of the loader's or of a module, and a layer that `enter` is for.
    fn own_slot(
        &mut self,
        module: &Module,
        address: u64,
        name: &[u8],
        enter: unsafe extern "C" fn(),
    ) -> Option<(&'static Slot, &'static Layer)> {
        let size = module
            .tables
            .functions()
            .find(|symbol| module.base.wrapping_add(symbol.value) == address)
            .map_or(0, |symbol| symbol.bytes);
        let function = function_at(module, address, size)?;
        let wanted = vec![(0, Wanted { library: module.name(), name, function })];
        let found = Found { module, wanted, failed: Vec::new(), must_wait: false };
        self.make_slots(&found)?;
        let slot = self.slot_at(address)?;
        let layer = self.layers.take(&Use {
            wrapper: OWN,
            mediator: enter as usize as u64,
            is_native: true,
            is_guarded: false,
            index: 0,
            shape: &Shape::default(),
        })?;
        Some((slot, layer))
    }

    /// Brings everything to what the loader's list says now.
    fn follow(&mut self) -> Vec<Notice> {
        let Some(loader) = &self.loader else { return Vec::new() };
        // SAFETY: this thread is in the loader, which calls from under its lock.
        let listed: Vec<&LinkMap> = unsafe { loader.listed() };
        let identity = |listed: &LinkMap| Identity { base: listed.base, dynamic: listed.dynamic };
        let is_listed = |of: Identity| listed.iter().any(|listed| identity(listed) == of);
        let gone: Vec<Identity> =
            self.seen.iter().map(|seen| seen.identity).filter(|of| !is_listed(*of)).collect();
        let is_new = |table: &Table, listed: &LinkMap| {
            !table.is_seen(identity(listed)) && !is_kernels(path_of(listed))
        };
        if gone.is_empty() && !listed.iter().any(|listed| is_new(self, listed)) {
            return Vec::new();
        }
        note_change();
        let mut notices = Vec::new();
        for gone in gone {
            let index = self.seen.iter().position(|seen| seen.identity == gone);
            index.into_iter().for_each(|index| self.notice(Event::LibraryGone, index, &mut notices));
            self.forget(gone);
            self.seen.retain(|seen| seen.identity != gone);
        }
        for listed in listed {
            if !is_new(self, listed) {
                continue;
            }
            // SAFETY: the loader has just mapped it, and waits for this thread.
            match unsafe { Module::of(listed) } {
                Ok(module) => {
                    self.seen.push(Seen::of(&module));
                    self.cover(&module);
                }
                Err(refusal) => self.see_only(identity(listed), path_of(listed), refusal),
            }
            self.notice(Event::Library, self.seen.len() - 1, &mut notices);
        }
        note_change();
        notices
    }

    fn notice(&self, event: Event, seen: usize, notices: &mut Vec<Notice>) {
        let seen = &self.seen[seen];
        notices.extend(self.on().into_iter().map(|index| Notice {
            known: &raw const *self.wrappers[index].known,
            event,
            told: Told::of(&seen.path, &seen.soname, seen.identity.base),
        }));
    }

    /// A module that cannot be looked at.
    fn see_only(&mut self, identity: Identity, path: &[u8], refusal: Refusal) {
        self.seen.push(Seen { identity, path: path.to_vec(), soname: Vec::new() });
        for index in self.on() {
            let wrapper = &mut self.wrappers[index];
            for (mediation, wanted) in wrapper.mediations.iter().enumerate() {
                if is_library(&wanted.library, None, path) {
                    let (library, outcome) = (path.to_vec(), Outcome::Refused(refusal));
                    wrapper.failed.push(Failed { mediation, module: identity, library, outcome });
                }
            }
        }
    }

    /// Mediates the functions of a module that is just being loaded, or puts that off until it is initialised.
    fn cover(&mut self, module: &Module) {
        let is_relocated = module.is_relocated() == Some(true);
        let must_wait =
            |index: &usize| find(module, &self.wrappers[*index].mediations, is_relocated).must_wait;
        if self.on().iter().any(must_wait) && self.defer(module).is_some() {
            return;
        }
        self.mediate(module, is_relocated);
    }

    /// Puts everything that is on before the functions of a module that has just come, and notes why where that
    /// cannot be.
    fn mediate(&mut self, module: &Module, is_relocated: bool) {
        if !self.is_ours(module) {
            let functions = self.overwritten(module);
            // SAFETY: the module is mapped, and no other thread can run its code yet.
            unsafe { self.calls.arm_here(module, &functions) };
        }
        for index in self.on() {
            let mediations = self.wrappers[index].mediations.clone();
            let found = find(module, &mediations, is_relocated);
            let mut failed = found.failed.clone();
            match self.make_slots(&found) {
                Some(made) => {
                    let refused = made.refused.into_iter();
                    failed.extend(refused.map(|(mediation, refusal)| (mediation, Outcome::Refused(refusal))));
                    // The first mediation of a function is the outermost; so the last one is put on first.
                    for target in made.targets.iter().rev() {
                        if let Err(refusal) = self.hook(module, index, target.mediation, target.address) {
                            failed.push((target.mediation, Outcome::Refused(refusal)));
                        }
                    }
                }
                None => {
                    let all = found.wanted.iter();
                    failed.extend(all.map(|(wanted, _)| (*wanted, Outcome::Refused(Refusal::TooFar))));
                }
            }
            let failed = failed.into_iter().map(|(mediation, outcome)| Failed {
                mediation,
                module: Identity::of(module),
                library: module.name().to_vec(),
                outcome,
            });
            self.wrappers[index].failed.extend(failed);
        }
    }

    /// One function of it. Its jump is written here, by the one thread that knows the module.
    fn hook(&mut self, module: &Module, index: usize, mediation: usize, address: u64) -> Result<(), Refusal> {
        let slot = self.slot_at(address).ok_or(Refusal::TooFar)?;
        if !self.is_free(index, mediation, address) {
            return Err(Refusal::Several);
        }
        let layer = self.wrappers[index].new_layer(&mut self.layers, mediation).ok_or(Refusal::TooFar)?;
        slot.put_first_here(layer, || self.wrappers[index].set_inner(mediation, layer));
        // SAFETY: the module is mapped, and no other thread can run its code yet.
        let done = match unsafe { slot.look() } {
            Look::Hooked => Ok(()),
            // SAFETY: as above.
            Look::Bare => unsafe { slot.arm_here(module) },
            Look::Other => Err(Refusal::Unwritable),
        };
        if done.is_err() {
            self.slots.retain(|other| !core::ptr::eq(*other, slot));
        }
        done
    }

    /// Hooks the initialiser of a module. `None` where there is none, or it cannot be.
    fn defer(&mut self, module: &Module) -> Option<()> {
        let init = module.dynamic.init?;
        let (slot, layer) = self.own_slot(module, init, b"_init", brant_module_starts)?;
        slot.put_first_here(layer, || {});
        // SAFETY: the module is mapped, and no other thread can run its code yet.
        unsafe { slot.arm_here(module) }.ok()?;
        self.deferred.push(Deferred { slot, layer });
        Some(())
    }

    /// The module whose initialiser `layer` stands before is relocated.
    fn start(&mut self, layer: *const Layer) {
        let Some(index) = self.deferred.iter().position(|deferred| core::ptr::eq(deferred.layer, layer))
        else {
            return;
        };
        let Deferred { slot, .. } = self.deferred.swap_remove(index);
        let Some(loader) = &self.loader else { return };
        // SAFETY: this thread is in the loader, under its lock, as constructors are.
        let listed = unsafe { loader.listed() };
        let is_it =
            |listed: &&&LinkMap| slot.module == Identity { base: listed.base, dynamic: listed.dynamic };
        let Some(listed) = listed.iter().find(is_it) else { return };
        note_change();
        // SAFETY: it is being initialised.
        if let Ok(module) = unsafe { Module::of(listed) } {
            // SAFETY: the module is mapped, and no other thread runs its initialiser; this one is behind it.
            let _ = unsafe { slot.disarm_here(&module) };
            self.mediate(&module, true);
        }
        note_change();
    }
}
