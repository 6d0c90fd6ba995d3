//! The library with a wrapper's mediators, and what it is told. The layouts are those of `brant/mediator.h`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::windows::ffi::OsStrExt as _;

use brant_mediator::{Raw, RawFunction};
use brant_windows::{Code, Refused, Spec};
use windows_sys::Win32::Foundation::{FreeLibrary, HMODULE};
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_WITH_ALTERED_SEARCH_PATH, LoadLibraryExW,
};

use super::event::{self, Event};
use crate::{handles, record};

const ANSWER_BYTES: usize = 512;

/// `brant_event`.
type Told = unsafe extern "C" fn(*const Raw) -> c_int;

/// The loaded library of a wrapper. Its texts stay for ever, as it may keep pointers to them.
#[derive(Debug)]
pub(crate) struct Implementation {
    library: usize,
    /// One for each `wrap`.
    pub(crate) mediators: Vec<usize>,
    telling: Telling,
}

/// How the library is told of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Telling {
    told: Option<usize>,
    wrapper: &'static CStr,
    options: &'static CStr,
    functions: &'static [RawFunction],
}

impl Implementation {
    /// Loads it, and finds its mediators. Without any lock: its first code runs here.
    pub(crate) fn load(spec: &Spec) -> Result<Implementation, Refused> {
        if let Some(name) = spec.shipped() {
            return Implementation::shipped(spec, name);
        }
        let path: Vec<u16> = std::ffi::OsStr::new(&spec.implementation).encode_wide().chain([0]).collect();
        // SAFETY: a text that ends with a zero; what the library does is the user's wish.
        let library =
            unsafe { LoadLibraryExW(path.as_ptr(), std::ptr::null_mut(), LOAD_WITH_ALTERED_SEARCH_PATH) };
        if library.is_null() {
            return Err(Refused::new(
                Code::NoImplementation,
                format!("{} cannot be loaded", spec.implementation),
            )
            .why(std::io::Error::last_os_error()));
        }
        let mut implementation = Implementation {
            library: library as usize,
            mediators: Vec::new(),
            telling: Telling::new(spec, export(library, "brant_event")),
        };
        let missing = spec.functions.iter().find(|function| export(library, &function.mediator).is_none());
        if let Some(function) = missing {
            implementation.unload();
            let what = format!("{} does not export {}", spec.implementation, function.mediator);
            return Err(Refused::new(Code::NoMediator, what));
        }
        if implementation.telling.told.is_none() && !spec.options.is_empty() {
            implementation.unload();
            return Err(Refused::new(Code::NoOptions, format!("{:?} takes no options", spec.name))
                .why(format!("given were {:?}", spec.options)));
        }
        let mediators = spec.functions.iter().filter_map(|function| export(library, &function.mediator));
        implementation.mediators = mediators.collect();
        Ok(implementation)
    }

    /// What the agent has in itself.
    fn shipped(spec: &Spec, name: &str) -> Result<Implementation, Refused> {
        let (known, mediator): (&str, unsafe extern "C" fn(*mut c_void) -> u64) = match name {
            record::NAME => ("record_call", record::record_call),
            handles::NAME => ("handles_call", handles::handles_call),
            _ => {
                let what = format!("the agent has no implementation {name:?} in it");
                return Err(Refused::new(Code::NoImplementation, what));
            }
        };
        if spec.functions.iter().any(|function| function.mediator != known) {
            return Err(Refused::new(Code::NoMediator, format!("{name:?} has the mediator {known} only")));
        }
        if !spec.options.is_empty() {
            return Err(Refused::new(Code::NoOptions, format!("{name:?} takes no options")));
        }
        let mediators = vec![mediator as *const () as usize; spec.functions.len()];
        match name {
            record::NAME => record::begin(spec),
            _ => handles::begin(spec),
        }
        Ok(Implementation { library: 0, mediators, telling: Telling::new(spec, None) })
    }

    /// Asks it whether it takes the wrapper.
    pub(crate) fn ask(&self) -> Result<(), Refused> {
        self.tell(Event::Load).map_err(|answer| {
            Refused::new(
                Code::Declined,
                format!("the implementation of {:?} declines", self.telling.wrapper.to_string_lossy()),
            )
            .why(answer)
        })
    }

    pub(crate) fn telling(&self) -> Telling {
        self.telling
    }

    /// Tells it what happens.
    pub(crate) fn tell(&self, event: Event<'_>) -> Result<(), String> {
        self.telling.tell(event)
    }

    /// Whether there is a library that is to be unloaded: the wrappers that ship have none.
    pub(crate) fn is_loaded(&self) -> bool {
        self.library != 0
    }

    /// Gives the library back, without any lock. No call is under way in it, and none will be.
    pub(crate) fn unload(&mut self) {
        let library = std::mem::take(&mut self.library);
        if library != 0 {
            // SAFETY: loaded by us, and not used any more.
            unsafe { FreeLibrary(library as HMODULE) };
        }
    }
}

impl Telling {
    fn new(spec: &Spec, told: Option<usize>) -> Telling {
        Telling {
            told,
            wrapper: kept(&spec.name),
            options: kept(&spec.options),
            functions: Vec::leak(spec.functions.iter().map(event::function).collect()),
        }
    }

    /// Tells the library what happens. What it answers counts for [`Event::Load`] only.
    pub(crate) fn tell(&self, event: Event<'_>) -> Result<(), String> {
        let Some(told) = self.told else { return Ok(()) };
        // SAFETY: it says that its `brant_event` has this prototype.
        let told: Told = unsafe { std::mem::transmute(told) };
        let mut answer = [0u8; ANSWER_BYTES];
        let raw = Raw {
            bytes: size_of::<Raw>() as u32,
            kind: event.kind(),
            wrapper: self.wrapper.as_ptr(),
            options: self.options.as_ptr(),
            functions: self.functions.as_ptr(),
            function_count: self.functions.len(),
            answer: answer.as_mut_ptr().cast::<c_char>(),
            answer_bytes: answer.len(),
            library: event.library(),
        };
        // SAFETY: all that the event points to lives as long as it is told.
        if unsafe { told(&raw const raw) } == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&answer).map(CStr::to_string_lossy).unwrap_or_default();
        Err(if text.is_empty() { "it does not say why".to_owned() } else { text.into_owned() })
    }
}

fn export(library: HMODULE, name: &str) -> Option<usize> {
    let name = CString::new(name).ok()?;
    // SAFETY: a loaded library, and a text that ends with a zero byte.
    unsafe { GetProcAddress(library, name.as_ptr().cast()) }.map(|function| function as usize)
}

/// A text of C that stays.
pub(super) fn kept(text: &str) -> &'static CStr {
    Box::leak(CString::new(text.replace('\0', " ")).unwrap_or_default().into_boxed_c_str())
}
