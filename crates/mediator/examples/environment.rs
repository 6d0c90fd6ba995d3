//! Another value for an environment variable of a running program.
//!
//! ```text
//! wrapper environment implementation "libenvironment.so"
//! wrap getenv in libc with environment_getenv sig "char *(const char *name)"
//! ```
//!
//! `brant wrap ./environment.wrap:NAME=VALUE TARGET`; `brant unwrap environment TARGET` gives the old one back.

use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;

use brant_mediator::{Event, events, mediator};

static VARIABLE: OnceLock<(CString, CString)> = OnceLock::new();

fn on_event(event: Event<'_>) -> Result<(), &'static str> {
    if let Event::Load(load) = event {
        let options = load.options();
        let at = options.iter().position(|byte| *byte == b'=').ok_or("it takes NAME=VALUE")?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| "it takes NAME=VALUE");
        VARIABLE
            .set((text(&options[..at])?, text(&options[at + 1..])?))
            .map_err(|_| "it is loaded already")?;
    }
    Ok(())
}

events!(on_event);

mediator! {
    fn environment_getenv(call, name: *const c_char) -> *const c_char {
        match VARIABLE.get() {
            // SAFETY: getenv takes a text.
            Some((known, value)) if unsafe { CStr::from_ptr(name) } == known.as_c_str() => value.as_ptr(),
            _ => call.inner(),
        }
    }
}
