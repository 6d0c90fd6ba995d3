//! A wrapper is put on: on all of its functions or on none.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use brant_definition::Library;
use brant_windows::{Code as Reason, Missing, Refused, Spec, SpecFunction, Wrapped};

use super::code::{self, Code, Write};
use super::event::Event;
use super::implementation::Implementation;
use super::list::interceptions;
use super::modules::{self, Module};
use super::table::{Placed, Table, Wrap, Wrapper, table};
use super::{commit, later, loader, stop};
use crate::serve;

/// How long it is tried until no thread is in the way.
const ATTEMPTS_LIMIT: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_millis(5);

/// What the functions of a definition lead to.
#[derive(Debug, Default)]
struct Found {
    /// The address, and which `wrap`.
    functions: Vec<(u64, usize)>,
    missing: Vec<Missing>,
    refusals: Vec<String>,
}

impl Found {
    /// A function cannot be mediated. A wrapper that ships does without it.
    fn refuse(&mut self, spec: &Spec, address: u64, why: &str) {
        let of_it: Vec<usize> =
            self.functions.iter().filter(|(at, _)| *at == address).map(|(_, index)| *index).collect();
        self.functions.retain(|(at, _)| *at != address);
        for function in of_it.iter().filter_map(|index| spec.functions.get(*index)) {
            let SpecFunction { function, library, .. } = function;
            if spec.shipped().is_some() {
                self.missing.push(Missing {
                    function: function.clone(),
                    library: library.clone(),
                    why: Some(why.to_owned()),
                });
            } else {
                self.refusals.push(format!("{function} {why}"));
            }
        }
    }
}

/// Puts a wrapper on this process.
pub(crate) fn wrap(spec: Spec) -> Result<Wrapped, Refused> {
    let taken =
        Refused::new(Reason::AlreadyWrapped, format!("the process is already wrapped by {:?}", spec.name));
    // A dormant one of this name takes no calls: it has nothing to do with the new one.
    if table().wrappers.iter().any(|wrapper| wrapper.is_on && wrapper.spec.name == spec.name) {
        return Err(taken);
    }
    let mut implementation = Implementation::load(&spec)?;
    if let Err(refused) = implementation.ask() {
        implementation.unload();
        return Err(refused);
    }
    let placed = place(&spec, &implementation.mediators);
    let (mut table, number, layers, missing) = match placed {
        Ok(placed) => placed,
        Err(refused) => {
            let _ = implementation.tell(Event::Unload);
            implementation.unload();
            return Err(refused);
        }
    };
    let name = spec.name.clone();
    let wrapper = Wrapper { number, spec, implementation, layers, missing: missing.clone(), is_on: true };
    let interceptions = interceptions(&table, &wrapper);
    table.wrappers.push(wrapper);
    Ok(Wrapped { name, interceptions, missing })
}

type Places = (MutexGuard<'static, Table>, u64, Vec<Placed>, Vec<Missing>);

/// Finds, plans and writes. The table stays locked: libraries that are loaded next are told to the wrapper.
fn place(spec: &Spec, mediators: &[usize]) -> Result<Places, Refused> {
    serve::step()?;
    let guardian = stop::Guardian::new()?;
    serve::step()?;
    let _loader = loader::hold()?;
    let mut table = table();
    if !table.is_listening {
        table.is_listening = loader::listen(later::told);
    }
    table.modules = modules::all();
    modules::judge_by(&table.modules);
    table.hooks.iter().for_each(|hook| hook.slot.forget_caller());
    let mut found = find(&table, spec);
    plan(&mut table, spec, &mut found);
    if !found.refusals.is_empty() {
        return Err(Refused::new(Reason::Unhookable, "functions of the definition cannot be mediated")
            .why(found.refusals.join("\n")));
    }
    let number = table.number();
    let layers = layers(&mut table, spec, number, mediators, &found.functions)
        .ok_or_else(|| Refused::new(Reason::Unhookable, "there is no room for code near to the functions"))?;
    attempt(|| write(&mut table, &layers, &guardian))?;
    Ok((table, number, layers, found.missing))
}

/// Does what needs all threads to stand still, until none is in the way.
pub(super) fn attempt<T>(mut act: impl FnMut() -> Result<T, Refused>) -> Result<T, Refused> {
    let begin = Instant::now();
    loop {
        serve::step()?;
        match act() {
            Err(refused) if refused.code == Reason::Threads && begin.elapsed() < ATTEMPTS_LIMIT => {
                std::thread::sleep(PAUSE)
            }
            done => return done,
        }
    }
}

/// Where the functions are. One that a loaded library does not export is refused, unless the wrapper ships.
fn find(table: &Table, spec: &Spec) -> Found {
    let mut found = Found::default();
    for (index, function) in spec.functions.iter().enumerate() {
        let SpecFunction { function: name, library, mediator, .. } = function;
        let missing = |why| Missing { function: name.clone(), library: library.clone(), why };
        let Ok(wanted) = Library::named(library) else {
            found.refusals.push(format!("{name}: {library} is no library's name"));
            continue;
        };
        let loaded: Vec<&Module> = table.modules.iter().filter(|module| is_named(&wanted, module)).collect();
        if loaded.is_empty() {
            found.missing.push(missing(None));
            continue;
        }
        for module in loaded {
            match code::resolve(module, name) {
                Some(Ok(address)) => {
                    let address = code::follow(address, &table.modules, |at| table.hook_at(at).is_some());
                    let is_same = |(other, before): &(u64, usize)| {
                        *other == address
                            && spec.functions.get(*before).is_some_and(|before| before.mediator == *mediator)
                    };
                    if !found.functions.iter().any(is_same) {
                        found.functions.push((address, index));
                    }
                }
                Some(Err(why)) => found.refusals.push(format!("{name} in {}: {why}", module.name())),
                None if spec.shipped().is_some() => {
                    found.missing.push(missing(Some(format!("{} does not export it", module.name()))))
                }
                None => found.refusals.push(format!("{name}: {} does not export it", module.name())),
            }
        }
    }
    found
}

pub(super) fn is_named(wanted: &Library, module: &Module) -> bool {
    match wanted {
        Library::Path(path) => path.as_str().replace('/', "\\").eq_ignore_ascii_case(&module.path),
        other => other.matches(None, &module.path),
    }
}

/// Makes hooks for the functions that have none yet.
fn plan(table: &mut Table, spec: &Spec, found: &mut Found) {
    let mut wanted: Vec<u64> = found.functions.iter().map(|(address, _)| *address).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.retain(|address| table.hook_at(*address).is_none());
    for module in table.modules.clone() {
        let own: Vec<u64> = wanted.iter().copied().filter(|address| module.contains(*address)).collect();
        if own.is_empty() {
            continue;
        }
        let code = Code::of(&module, &own);
        for address in own {
            // Where nobody waits any more it ends before anything is written.
            let _ = serve::step();
            let taken = table.taken();
            match code::plan(address, &code, &mut table.room, &taken) {
                Ok(plan) => table.add_hook(plan),
                Err(why) => found.refuse(spec, address, &format!("in {}: {why}", module.name())),
            }
        }
    }
}

/// Makes the layers. The first of the definition is to be called first, so they are put on from the last one on.
fn layers(
    table: &mut Table,
    spec: &Spec,
    number: u64,
    mediators: &[usize],
    functions: &[(u64, usize)],
) -> Option<Vec<Placed>> {
    let mut placed = Vec::new();
    for (address, index) in functions.iter().rev() {
        let slot = table.hook_at(*address)?.slot;
        let function = spec.functions.get(*index)?;
        let wrap = Wrap {
            function,
            mediator: *mediators.get(*index)?,
            index: *index,
            wrapper: number,
            callers: spec.callers,
        };
        let layer = table.new_layer(slot, &wrap)?;
        placed.push(Placed { layer, address: *address, index: *index });
    }
    Some(placed)
}

/// Writes the jumps that are not there yet, and lets the slots lead to the layers, while no other thread runs.
fn write(table: &mut Table, layers: &[Placed], guardian: &stop::Guardian) -> Result<(), Refused> {
    let is_new = |address: u64| layers.iter().any(|placed| placed.address == address);
    let hooks: Vec<usize> = (0..table.hooks.len())
        .filter(|at| !table.hooks[*at].is_written && is_new(table.hooks[*at].address))
        .collect();
    let writes: Vec<Write> = hooks.iter().flat_map(|at| table.hooks[*at].writes.clone()).collect();
    let moves: Vec<(u64, u64)> = hooks.iter().flat_map(|at| table.hooks[*at].moves.clone()).collect();
    let ranges: Vec<(u64, u64)> =
        writes.iter().map(|write| (write.at, write.at + write.new.len() as u64)).collect();
    let opened = commit::open(writes.iter())?;
    let stopped = stop::stop(guardian)?;
    // From here on until all go on nothing may be allocated.
    let is_changed = !writes.iter().all(|write| write.stands(false));
    let is_in_the_way = stopped.is_within(&ranges, &moves);
    let is_free = !is_changed && !is_in_the_way && stopped.move_all(&moves) && stopped.begin();
    if is_free {
        layers.iter().for_each(link);
        writes.iter().for_each(|write| write.perform(true));
    }
    drop(stopped);
    drop(opened);
    if !is_free {
        return Err(Refused::new(Reason::Threads, "the program's code cannot be changed now").why(
            if is_changed {
                "somebody else has changed it"
            } else {
                "a thread stands in the bytes that are to be changed"
            },
        ));
    }
    hooks.iter().for_each(|at| table.hooks[*at].is_written = true);
    Ok(())
}

/// Puts a layer before the others of its function.
pub(super) fn link(placed: &Placed) {
    // SAFETY: slots are never freed.
    let slot = unsafe { &*placed.layer.slot };
    let first = slot.first.load(Ordering::Relaxed);
    // SAFETY: layers are never freed.
    if let Some(first) = unsafe { first.as_ref() } {
        placed.layer.next.store((&raw const first.link).cast_mut(), Ordering::Relaxed);
    }
    slot.first.store(std::ptr::from_ref(placed.layer).cast_mut(), Ordering::Release);
}
