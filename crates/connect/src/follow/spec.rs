//! What is handed on over execve, as the options of the wrapper `follow-exec` say it: a line for each thing.
//!
//! `brant=PATH`, perhaps `log=PATH`, and for each wrapper `wrapper=NAME`, `definition=PATH or NAME`, `options=OPTIONS` and perhaps
//! `unguarded`.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use brant_wrappers::follow::OPTION_BRANT;

use super::NAME;
use crate::error::Error;
use crate::{Log, Wrapper, definitions};

/// What is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) brant: PathBuf,
    pub(crate) log: Option<PathBuf>,
    pub(crate) wrappers: Vec<Inherited>,
}

/// One wrapper.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Inherited {
    name: Vec<u8>,
    /// As `definitions::again` takes it.
    definition: Vec<u8>,
    options: Vec<u8>,
    is_unguarded: bool,
}

impl Spec {
    pub(crate) fn new(brant: &Path, log: &Log) -> Spec {
        Spec { brant: brant.to_owned(), log: log.path().map(Path::to_owned), wrappers: Vec::new() }
    }

    /// Nothing is handed on.
    pub(crate) fn nothing() -> Spec {
        Spec { brant: PathBuf::new(), log: None, wrappers: Vec::new() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.wrappers.iter().any(|inherited| inherited.name == name.as_bytes())
    }

    pub(crate) fn add(&mut self, wrapper: &Wrapper) -> Result<(), Error> {
        let definition = wrapper.definition.clone().ok_or_else(|| {
            Error::Follow(format!("\"{}\" comes from no definition that could be read again", wrapper.name))
        })?;
        self.wrappers.push(Inherited {
            name: wrapper.name.clone().into_bytes(),
            definition: definition.into_bytes(),
            options: wrapper.options.clone(),
            is_unguarded: wrapper.is_unguarded,
        });
        Ok(())
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.wrappers.len();
        self.wrappers.retain(|inherited| inherited.name != name.as_bytes());
        self.wrappers.len() < before
    }

    /// The wrapper that hands this on.
    pub(crate) fn wrapper(&self) -> Result<Wrapper, Error> {
        let definition =
            brant_definition::parse(brant_wrappers::FOLLOW.as_bytes(), brant_definition::Convention::SysV);
        let definition = definition.expect("it is ours");
        let mut wrapper =
            Wrapper::new(&definition.wrappers[0], PathBuf::from("/memfd:brant-wrapper-follow"))?;
        debug_assert_eq!(wrapper.name, NAME);
        wrapper.carried = Some(brant_wrappers::LIBRARY);
        // musl has no execveat.
        wrapper.skips_missing = true;
        wrapper.options = self.encode()?;
        Ok(wrapper)
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut line = |key: &str, value: &[u8]| -> Result<(), Error> {
            if value.iter().any(|byte| matches!(byte, b'\n' | 0)) {
                let shown = String::from_utf8_lossy(value).escape_debug().to_string();
                return Err(Error::Follow(format!("a line break cannot be handed on: \"{shown}\"")));
            }
            out.extend(key.as_bytes());
            out.extend(value);
            out.push(b'\n');
            Ok(())
        };
        line(OPTION_BRANT, self.brant.as_os_str().as_bytes())?;
        if let Some(log) = &self.log {
            line("log=", log.as_os_str().as_bytes())?;
        }
        for inherited in &self.wrappers {
            line("wrapper=", &inherited.name)?;
            line("definition=", &inherited.definition)?;
            line("options=", &inherited.options)?;
            if inherited.is_unguarded {
                line("unguarded", b"")?;
            }
        }
        match out.len() < OPTIONS_BYTES_MAX {
            true => Ok(out),
            false => Err(Error::Follow("there is too much to be handed on".to_owned())),
        }
    }

    pub(crate) fn parse(options: &[u8]) -> Option<Spec> {
        let mut spec = Spec::nothing();
        let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
        for line in options.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let value = |key: &str| line.strip_prefix(key.as_bytes());
            if let Some(value) = value(OPTION_BRANT) {
                spec.brant = path(value);
            } else if let Some(value) = value("log=") {
                spec.log = Some(path(value));
            } else if let Some(value) = value("wrapper=") {
                spec.wrappers.push(Inherited { name: value.to_vec(), ..Inherited::default() });
            } else if let Some(value) = value("definition=") {
                spec.wrappers.last_mut()?.definition = value.to_vec();
            } else if let Some(value) = value("options=") {
                spec.wrappers.last_mut()?.options = value.to_vec();
            } else if line == b"unguarded" {
                spec.wrappers.last_mut()?.is_unguarded = true;
            } else {
                return None;
            }
        }
        (!spec.brant.as_os_str().is_empty()).then_some(spec)
    }

    /// The wrappers for the program that is executed: first the one that hands them on to the next, if there are any.
    pub(crate) fn load(&self) -> Vec<(String, Result<Wrapper, Error>)> {
        let own = (!self.wrappers.is_empty()).then(|| (NAME.to_owned(), self.wrapper()));
        let others = self.wrappers.iter().map(|inherited| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let found = definitions::again(&text(&inherited.definition), &inherited.options);
            let found = found.map(|mut wrapper| {
                wrapper.is_unguarded = inherited.is_unguarded;
                // It was meant for another program, which had them.
                wrapper.skips_missing = true;
                wrapper
            });
            (text(&inherited.name), found)
        });
        own.into_iter().chain(others).collect()
    }
}

/// They are one argument of brant's: the kernel allows 128 KiB for each (MAX_ARG_STRLEN).
const OPTIONS_BYTES_MAX: usize = 100 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_comes_back() {
        let mut spec = Spec::new(Path::new("/bin/brant"), &Log::none());
        let mut wrapper = spec.wrapper().unwrap();
        assert!(spec.add(&wrapper).is_err(), "it comes from no file");
        wrapper.definition = Some("/a b/c=d.wrap".to_owned());
        wrapper.options = b"as=trace,out=/x".to_vec();
        wrapper.is_unguarded = true;
        spec.add(&wrapper).unwrap();
        wrapper.name = "other".to_owned();
        spec.add(&wrapper).unwrap();
        spec.log = Some("/log".into());
        assert_eq!(Spec::parse(&spec.wrapper().unwrap().options), Some(spec.clone()));
        assert!(spec.remove("other") && !spec.remove("other"));
        assert_eq!(Spec::parse(&spec.wrapper().unwrap().options), Some(spec.clone()));
        spec.log = Some("/l\nog".into());
        assert!(matches!(spec.wrapper(), Err(Error::Follow(_))));
        assert!(!spec.has("other") && Spec::nothing().load().is_empty());
        assert_eq!(Spec::parse(b"brant=/x\nnothing\n"), None);
        assert_eq!(Spec::parse(b"brant=/x\noptions=1\n"), None);
    }
}
