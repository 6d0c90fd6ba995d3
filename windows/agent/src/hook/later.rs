//! Libraries that come and go while wrappers are on.
//!
//! The loader tells of them under its lock, of a new one before any of its code has run: so its code is written at once, without
//! stopping anybody. What leads on to another library is not asked for here, as the loader might load that within its own notice.

use std::ffi::c_void;

use brant_definition::Library as Named;
use brant_windows::exports::{self, Memory};
use brant_windows::{Missing, SpecFunction};

use super::code::{self, Code, Write};
use super::event::{Event, Library};
use super::loader::{LOADED, Notice};
use super::modules::{self, Module};
use super::table::{Placed, Table, Wrap, table};
use super::wrap::{is_named, link};
use super::{commit, unwrap};
use crate::thread;

/// Called by the loader.
pub(super) unsafe extern "system" fn told(reason: u32, notice: *const Notice, _context: *mut c_void) {
    let error = thread::last_error();
    let Some(_busy) = thread::busy() else { return };
    // SAFETY: the loader's own, while it tells of a library.
    let notice = unsafe { &*notice };
    let module = Module::new(notice.base(), notice.bytes(), notice.path());
    let mut table = table();
    let library = Library::new(&module.path, module.name(), module.base);
    if reason == LOADED {
        table.modules.retain(|other| other.base != module.base);
        table.modules.push(module.clone());
        judge(&table);
        come(&mut table, &module);
        tell(&table, Event::Library(&library));
    } else {
        table.modules.retain(|other| other.base != module.base);
        judge(&table);
        go(&mut table, &module);
        tell(&table, Event::LibraryGone(&library));
    }
    thread::set_last_error(error);
}

fn judge(table: &Table) {
    modules::judge_by(&table.modules);
    table.hooks.iter().for_each(|hook| hook.slot.forget_caller());
}

fn tell(table: &Table, event: Event<'_>) {
    for wrapper in table.wrappers.iter().filter(|wrapper| wrapper.is_on) {
        let _ = wrapper.implementation.tell(event);
    }
}

/// A library in this process.
struct Here<'a>(&'a Module);

impl Memory for Here<'_> {
    fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        if u64::from(offset) + into.len() as u64 > self.0.bytes {
            return false;
        }
        let at = (self.0.base + u64::from(offset)) as *const u8;
        // SAFETY: within the library, whose headers and tables are readable.
        unsafe { std::ptr::copy_nonoverlapping(at, into.as_mut_ptr(), into.len()) };
        true
    }
}

/// Puts the wrappers that name it on a new library.
fn come(table: &mut Table, module: &Module) {
    for at in 0..table.wrappers.len() {
        if !table.wrappers[at].is_on {
            continue;
        }
        let functions = table.wrappers[at].spec.functions.clone();
        let is_meant = |function: &SpecFunction| {
            Named::named(&function.library).is_ok_and(|wanted| is_named(&wanted, module))
        };
        for (index, function) in functions.iter().enumerate().rev().filter(|(_, function)| is_meant(function))
        {
            let done = place(table, at, index, function, module);
            let wrapper = &mut table.wrappers[at];
            wrapper.missing.retain(|missing| {
                missing.function != function.function || missing.library != function.library
            });
            if let Err(why) = done {
                let (name, library) = (function.function.clone(), function.library.clone());
                wrapper.missing.push(Missing { function: name, library, why: Some(why) });
            }
        }
    }
}

fn place(
    table: &mut Table,
    at: usize,
    index: usize,
    function: &SpecFunction,
    module: &Module,
) -> Result<(), String> {
    let offset = exports::find(&Here(module), &function.function)
        .ok_or_else(|| format!("{} does not export it by code of its own", module.name()))?;
    let here = [module.clone()];
    let start = module.base + u64::from(offset);
    if let Some(why) = code::refused_by_name(&function.function) {
        return Err(why.to_owned());
    }
    let address = code::follow(start, &here, |at| table.hook_at(at).is_some());
    if table.hook_at(address).is_none() {
        let code = Code::of(module, &[address]);
        let taken = table.taken();
        let plan = code::plan(address, &code, &mut table.room, &taken).map_err(|why| why.to_string())?;
        table.add_hook(plan);
    }
    let slot = table.hook_at(address).ok_or("it is gone")?.slot;
    let wrapper = &table.wrappers[at];
    let wrap = Wrap {
        function,
        mediator: wrapper.implementation.mediators.get(index).copied().ok_or("it has no mediator")?,
        index,
        wrapper: wrapper.number,
        callers: wrapper.spec.callers,
    };
    let layer = table.new_layer(slot, &wrap).ok_or("there is no room for code near to it")?;
    let placed = Placed { layer, address, index };
    link(&placed);
    table.wrappers[at].layers.push(placed);
    write(table, address)
}

/// Writes the jump of a function whose library has not begun.
fn write(table: &mut Table, address: u64) -> Result<(), String> {
    let Some(hook) = table.hooks.iter_mut().find(|hook| hook.address == address && !hook.is_written) else {
        return Ok(());
    };
    let writes: Vec<Write> = hook.writes.clone();
    let opened = commit::open(writes.iter()).map_err(|refused| refused.why)?;
    writes.iter().for_each(|write| write.perform(true));
    drop(opened);
    hook.is_written = true;
    Ok(())
}

/// Forgets a library's functions. They wait again.
fn go(table: &mut Table, module: &Module) {
    table.hooks.retain(|hook| !module.contains(hook.address));
    for wrapper in &mut table.wrappers {
        let (gone, left): (Vec<Placed>, Vec<Placed>) =
            wrapper.layers.iter().copied().partition(|placed| module.contains(placed.address));
        gone.iter().for_each(|placed| unwrap::unlink(placed.layer));
        wrapper.layers = left;
        for placed in gone {
            let Some(function) = wrapper.spec.functions.get(placed.index) else { continue };
            let is_elsewhere = wrapper.layers.iter().any(|other| other.index == placed.index);
            let (function, library) = (function.function.clone(), function.library.clone());
            if wrapper.is_on && !is_elsewhere {
                wrapper.missing.push(Missing { function, library, why: None });
            }
        }
    }
}
