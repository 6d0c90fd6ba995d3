//! Looks for addresses of the system in memory that is to travel: in another process they would lead elsewhere.

use windows_sys::Win32::Foundation::HMODULE;
use windows_sys::Win32::System::LibraryLoader::GetModuleHandleW;
use windows_sys::Win32::System::ProcessStatus::EnumProcessModules;
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use crate::calls::libraries;
use crate::pe::Module;

/// A library of the system, or the agent.
struct Foreign {
    module: Module,
    name: String,
    /// Sorted; for libraries that lie where small numbers point to.
    exports: Vec<usize>,
}

/// All of them.
pub(crate) struct Scan(Vec<Foreign>);

/// Numbers below are often something else than addresses: there, only those count that lead to an export, or behind a call.
const SMALL: usize = 1 << 32;

impl Scan {
    pub(crate) fn new() -> Scan {
        let mut modules: Vec<HMODULE> = vec![std::ptr::null_mut(); 512];
        let mut bytes = 0;
        // SAFETY: there is room for so many bytes.
        unsafe {
            EnumProcessModules(
                GetCurrentProcess(),
                modules.as_mut_ptr(),
                (modules.len() * 8) as u32,
                &raw mut bytes,
            )
        };
        modules.truncate(bytes as usize / 8);
        // SAFETY: the program's own module.
        let program = unsafe { GetModuleHandleW(std::ptr::null()) };
        let foreign = |native: HMODULE| {
            let module = Module::at(native as usize);
            let mut exports = if native as usize >= SMALL { Vec::new() } else { module.export_addresses() };
            exports.sort_unstable();
            Foreign { module, name: libraries::name_of(native), exports }
        };
        Scan(modules.into_iter().filter(|&module| module != program).map(foreign).collect())
    }

    /// The library that a word leads into; nothing where it is no address of one.
    fn leads_into(&self, word: usize) -> Option<&str> {
        let is_in = |foreign: &&Foreign| {
            let base = foreign.module.base();
            (base..base + foreign.module.bytes()).contains(&word)
        };
        let foreign = self.0.iter().find(is_in)?;
        let counts =
            word >= SMALL || foreign.exports.binary_search(&word).is_ok() || is_behind_call(foreign, word);
        counts.then_some(&foreign.name)
    }

    /// The first address of the system in these bytes: where, and of which library.
    pub(crate) fn find(&self, at: usize, bytes: &[u8]) -> Option<(usize, usize, String)> {
        let lowest = self.0.iter().map(|foreign| foreign.module.base()).min()?;
        let (words, _) = bytes.as_chunks::<8>();
        words.iter().enumerate().find_map(|(index, word)| {
            let word = u64::from_le_bytes(*word) as usize;
            if word < lowest {
                return None;
            }
            self.leads_into(word).map(|name| (at + 8 * index, word, name.to_owned()))
        })
    }
}

/// Whether a call stands before an address of code: then it is where a function returns to.
fn is_behind_call(foreign: &Foreign, at: usize) -> bool {
    let offset = at - foreign.module.base();
    let in_code = |section: &crate::pe::Section| {
        section.protection() & 0x60 != 0
            && (section.start + 8..section.start + section.bytes).contains(&offset)
    };
    if !foreign.module.sections().iter().any(in_code) {
        return false;
    }
    // SAFETY: the bytes are in a section of code, which can be read.
    let before = unsafe { std::slice::from_raw_parts((at - 7) as *const u8, 7) };
    before[2] == 0xe8
        || before[1..3] == [0xff, 0x15]
        || (before[5] == 0xff && before[6] >> 3 == 0b11010)
        || (before[4] == 0xff && before[5] >> 3 & 7 == 2)
}
