//! What a wrapper's implementation is told: `brant_event` of `brant/mediator.h`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};

use brant_hook::exchange::{Event, Mediation, NO_EVENTS};
use brant_mediator::{Raw, RawFunction, RawLibrary};

use crate::modules;

const SYMBOL: &[u8] = b"brant_event";
const ANSWER_BYTES: usize = 512;

/// A library that has come or gone.
pub(crate) struct Told {
    path: Vec<u8>,
    soname: Vec<u8>,
    base: u64,
}

impl Told {
    pub(crate) fn of(path: &[u8], soname: &[u8], base: u64) -> Told {
        Told { path: terminated(path), soname: terminated(soname), base }
    }
}

/// A wrapper as its implementation knows it.
pub(crate) struct Known {
    pub(crate) path: Vec<u8>,
    /// What dlopen gave.
    pub(crate) handle: u64,
    /// With a zero byte at the end, as all texts here.
    name: Vec<u8>,
    options: Vec<u8>,
    /// The pointers lead into `texts`, whose elements do not move.
    functions: Box<[RawFunction]>,
    /// The version and the mediator of each, as the definition has them.
    mediators: Vec<(Vec<u8>, Vec<u8>)>,
    _texts: Vec<Vec<u8>>,
}

impl Known {
    pub(crate) fn new(
        name: &[u8],
        path: &[u8],
        handle: u64,
        options: &[u8],
        mediations: &[Mediation],
    ) -> Known {
        let mut texts = Vec::new();
        let mut keep = |text: &[u8]| -> *const c_char {
            let text = terminated(text);
            let at = text.as_ptr().cast();
            texts.push(text);
            at
        };
        let functions = mediations
            .iter()
            .map(|mediation| RawFunction {
                name: keep(&mediation.function),
                library: keep(&mediation.library),
                prototype: keep(&mediation.prototype),
                kinds: keep(&mediation.kinds),
            })
            .collect();
        let mediators = mediations
            .iter()
            .map(|mediation| (mediation.version.clone(), mediation.mediator.clone()))
            .collect();
        Known {
            path: path.to_vec(),
            handle,
            name: terminated(name),
            options: terminated(options),
            functions,
            mediators,
            _texts: texts,
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.name[..self.name.len() - 1]
    }

    pub(crate) fn options(&self) -> &[u8] {
        &self.options[..self.options.len() - 1]
    }

    /// The version that the definition names for one `wrap`, and the mediator.
    pub(crate) fn mediator(&self, index: usize) -> (Vec<u8>, Vec<u8>) {
        self.mediators.get(index).cloned().unwrap_or_default()
    }

    /// Tells it, where it wants to know; of a library, where there is one. What it answers; nothing where it agrees.
    ///
    /// # Safety
    ///
    /// The implementation is loaded, and this is a thread that may run its code.
    pub(crate) unsafe fn tell(&self, event: Event, told: Option<&Told>) -> Vec<u8> {
        // SAFETY: promised by the caller.
        let Some(address) = (unsafe { modules::exported(self.handle, SYMBOL) }) else {
            return NO_EVENTS.to_vec();
        };
        // SAFETY: `brant/mediator.h` says what it is.
        let listen: extern "C" fn(*const Raw) -> i32 = unsafe { core::mem::transmute(address as usize) };
        let mut answer = [0u8; ANSWER_BYTES];
        let library = told.map(|told| RawLibrary {
            path: told.path.as_ptr().cast(),
            soname: told.soname.as_ptr().cast(),
            base: told.base,
        });
        let message = Raw {
            bytes: size_of::<Raw>() as u32,
            kind: event as u32,
            wrapper: self.name.as_ptr().cast(),
            options: self.options.as_ptr().cast(),
            functions: self.functions.as_ptr(),
            function_count: self.functions.len(),
            answer: answer.as_mut_ptr().cast(),
            answer_bytes: ANSWER_BYTES,
            library: library.as_ref().map_or(core::ptr::null(), core::ptr::from_ref),
        };
        if listen(&message) == 0 {
            return Vec::new();
        }
        let why = CStr::from_bytes_until_nul(&answer).map_or(&[][..], CStr::to_bytes);
        if why.is_empty() { b"it does not say why".to_vec() } else { why.to_vec() }
    }
}

fn terminated(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    text.push(0);
    text
}
