//! What is mediated, told.

use brant_windows::{Interception, Listed, Missing};

use super::table::{Table, Wrapper, table};
use super::unwrap::chain;

/// The wrappers of this process.
pub(crate) fn wrappers() -> Vec<Listed> {
    let table = table();
    let listed = |wrapper: &Wrapper| Listed {
        name: wrapper.spec.name.clone(),
        implementation: wrapper.spec.implementation.clone(),
        is_on: wrapper.is_on,
        interceptions: if wrapper.is_on { interceptions(&table, wrapper) } else { Vec::new() },
        missing: if wrapper.is_on { wrapper.missing.clone() } else { Vec::<Missing>::new() },
    };
    table.wrappers.iter().map(listed).collect()
}

/// The functions that a wrapper is before, in the order of its definition.
pub(super) fn interceptions(table: &Table, wrapper: &Wrapper) -> Vec<Interception> {
    let mut placed = wrapper.layers.clone();
    placed.sort_by_key(|placed| placed.index);
    let told = placed.iter().filter_map(|placed| {
        let function = wrapper.spec.functions.get(placed.index)?;
        let hook = table.hook_at(placed.address)?;
        let depth = chain(hook.slot).position(|layer| std::ptr::eq(layer, placed.layer))?;
        Some(Interception {
            function: function.function.clone(),
            library: function.library.clone(),
            address: placed.address,
            mediator: function.mediator.clone(),
            depth: depth as u32,
        })
    });
    told.collect()
}
