//! Where generated code lies: pages near to the module whose functions it is for.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::modules::{Identity, Module};
use crate::system;

/// A range of generated code.
#[repr(C)]
pub(crate) struct CodeRange {
    start: AtomicU64,
    end: AtomicU64,
}

const CODE_MAX: usize = 4096;
pub(crate) static CODE: [CodeRange; CODE_MAX] =
    [const { CodeRange { start: AtomicU64::new(0), end: AtomicU64::new(0) } }; CODE_MAX];
pub(crate) static CODE_COUNT: AtomicU32 = AtomicU32::new(0);

/// Pages of generated code, each for slots of one module.
pub(crate) struct Areas(Vec<Area>);

struct Area {
    start: usize,
    bytes: usize,
    /// Nothing: its module has gone.
    module: Option<Identity>,
}

impl Areas {
    pub(crate) const fn new() -> Areas {
        Areas(Vec::new())
    }

    /// Writable pages for a module, near to it: those of another one that has gone, or new ones. Nothing where there are none;
    /// `None` where brant could not be told of them.
    pub(crate) fn take(&mut self, module: &Module, bytes: usize) -> Option<Option<*mut u8>> {
        let (start, end) = module.range();
        let (start, end) = (start as usize, end as usize);
        let identity = Identity::of(module);
        let is_near =
            |area: &Area| area.start + system::NEAR >= end && area.start + area.bytes <= start + system::NEAR;
        let is_free = |area: &&mut Area| area.module.is_none() && area.bytes >= bytes && is_near(area);
        if let Some(area) = self.0.iter_mut().find(is_free) {
            // SAFETY: pages of map_near to which nothing leads any more.
            if unsafe { system::unseal(area.start as *mut u8, bytes) } {
                area.module = Some(identity);
                return Some(Some(area.start as *mut u8));
            }
        }
        let Some(pages) = system::map_near(start, end, bytes) else { return Some(None) };
        note_code(pages as u64, bytes as u64)?;
        self.0.push(Area { start: pages as usize, bytes, module: Some(identity) });
        Some(Some(pages))
    }

    /// Those of a module that has gone.
    pub(crate) fn free(&mut self, gone: Identity) {
        for area in self.0.iter_mut().filter(|area| area.module == Some(gone)) {
            area.module = None;
        }
    }
}

/// Lets brant know of generated code.
pub(crate) fn note_code(start: u64, bytes: u64) -> Option<()> {
    let count = CODE_COUNT.load(Ordering::Relaxed);
    let range = CODE.get(count as usize)?;
    range.start.store(start, Ordering::Relaxed);
    range.end.store(start + bytes, Ordering::Relaxed);
    CODE_COUNT.store(count + 1, Ordering::Release);
    Some(())
}
