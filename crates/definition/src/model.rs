//! What a definition file says.

use std::fmt;

use crate::NAME_BYTES_MAX;
use crate::signature::Signature;
use crate::span::Span;

/// A file: one wrapper or several, with different names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Definition {
    pub wrappers: Vec<Wrapper>,
}

/// A set of mediators that is put on a process and taken off as one.
///
/// Two are equal where they say the same, wherever in a file they stand.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Wrapper {
    pub name: Name,
    /// The library that the mediators are exported from.
    pub implementation: PathText,
    /// At least one; no two of the same function, version and library.
    pub wraps: Vec<Wrap>,
    pub span: Span,
}

/// One mediator before one function.
///
/// Two are equal where they say the same, wherever in a file they stand.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Wrap {
    /// The exported symbol, as the linker sees it, or the name of a system call.
    pub function: Name,
    /// The symbol version; without one every version is meant.
    pub version: Option<Name>,
    pub library: Library,
    /// The symbol that the implementation exports.
    pub mediator: Name,
    /// Bytes of the arguments that travel in general registers, 8 for each; without the pointer of `sret`.
    pub size: Option<u32>,
    /// Bytes of the arguments that travel on the stack.
    pub stack: Option<u32>,
    /// That the caller passes a hidden pointer to room for the result. A signature implies it unsaid.
    pub sret: bool,
    pub signature: Option<Signature>,
    /// That the mediator has the function's own prototype, without `icall`.
    pub native: bool,
    pub span: Span,
}

impl PartialEq for Wrapper {
    fn eq(&self, other: &Wrapper) -> bool {
        let Wrapper { name, implementation, wraps, span: _ } = self;
        (name, implementation, wraps) == (&other.name, &other.implementation, &other.wraps)
    }
}

impl Eq for Wrapper {}

impl PartialEq for Wrap {
    fn eq(&self, other: &Wrap) -> bool {
        let Wrap { function, version, library, mediator, size, stack, sret, signature, native, span: _ } =
            self;
        (function, version, library, mediator)
            == (&other.function, &other.version, &other.library, &other.mediator)
            && (size, stack, sret, native) == (&other.size, &other.stack, &other.sret, &other.native)
            && signature == &other.signature
    }
}

impl Eq for Wrap {}

/// Where a wrapped function lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Library {
    /// `kernel`: the function is a system call.
    Kernel,
    /// `libc`, `kernel32`: every version of a library.
    Short(Name),
    /// `libc.so.6`, `KERNEL32.dll`: one version of a library.
    Soname(Name),
    /// `"/opt/lib/libfoo.so"`: one file.
    Path(PathText),
}

impl Library {
    /// The library that a text in quotes names: it is a path where there is a separator in it.
    pub fn named(text: &str) -> Result<Library, NameError> {
        if text.contains(['/', '\\']) {
            let path = PathText::new(text)?;
            return if is_absolute(text) { Ok(Library::Path(path)) } else { Err(NameError::Relative) };
        }
        let name = Name::new(text)?;
        let is_whole = text.contains(".so.") || text.ends_with(".so") || is_dll(text);
        Ok(if is_whole { Library::Soname(name) } else { Library::Short(name) })
    }

    /// Whether a loaded library is meant, by the name that it gives itself and the path that it was loaded from.
    ///
    /// A short name is what stands before `.so`, `.dll`, or a version: `libc` means `libc.so.6` and `libc-2.31.so`. It
    /// also means musl's, which is its own loader and has no soname. The kernel is no loaded library.
    pub fn matches(&self, soname: Option<&str>, path: &str) -> bool {
        let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
        let mut names = soname.into_iter().chain([file]);
        match self {
            Library::Kernel => false,
            Library::Path(wanted) => wanted.as_str() == path,
            Library::Soname(wanted) if is_dll(wanted.as_str()) => {
                names.any(|name| name.eq_ignore_ascii_case(wanted.as_str()))
            }
            Library::Soname(wanted) => names.any(|name| name == wanted.as_str()),
            Library::Short(wanted) => names.any(|name| is_short_of(wanted.as_str(), name)),
        }
    }
}

fn is_short_of(short: &str, name: &str) -> bool {
    if is_dll(name) {
        return name[..name.len() - ".dll".len()].eq_ignore_ascii_case(short);
    }
    if short == "libc" && name.starts_with("ld-musl-") {
        return true;
    }
    let Some(rest) = name.strip_prefix(short) else { return false };
    let is_versioned = |rest: &str| {
        let version = rest.strip_suffix(".so").and_then(|rest| rest.strip_prefix('-'));
        version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    };
    rest.is_empty() || rest == ".so" || rest.starts_with(".so.") || is_versioned(rest)
        // Debian's name of musl's: libc.musl-x86_64.so.1.
        || short == "libc" && rest.starts_with(".musl-")
}

fn is_dll(name: &str) -> bool {
    name.get(name.len().saturating_sub(4)..).is_some_and(|ending| ending.eq_ignore_ascii_case(".dll"))
}

fn is_absolute(path: &str) -> bool {
    let bytes = path.as_bytes();
    let has_drive = bytes.len() > 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
    path.starts_with('/') || path.starts_with(r"\\") || has_drive && matches!(bytes[2], b'/' | b'\\')
}

/// The name of a function, version, library, mediator or wrapper: 1 to 4096 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    pub fn new(text: impl Into<String>) -> Result<Name, NameError> {
        let text = text.into();
        check_length(&text)?;
        if text.contains(char::is_control) {
            return Err(NameError::Control);
        }
        Ok(Name(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path: 1 to 4096 bytes, no NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathText(String);

impl PathText {
    pub fn new(text: impl Into<String>) -> Result<PathText, NameError> {
        let text = text.into();
        check_length(&text)?;
        if text.contains('\0') {
            return Err(NameError::Control);
        }
        Ok(PathText(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_length(text: &str) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        length if length > NAME_BYTES_MAX => Err(NameError::TooLong),
        _ => Ok(()),
    }
}

/// Why a text is no name, or no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    Empty,
    TooLong,
    Control,
    /// A library's path that is none from the root on.
    Relative,
}

impl NameError {
    pub(crate) fn why(self) -> &'static str {
        match self {
            NameError::Empty => "is empty",
            NameError::TooLong => "is longer than 4096 bytes",
            NameError::Control => "has a control character in it",
            NameError::Relative => "is a relative path",
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_told_apart_by_their_names() {
        let kind = |text| match Library::named(text) {
            Ok(Library::Kernel) => "kernel",
            Ok(Library::Short(_)) => "short",
            Ok(Library::Soname(_)) => "soname",
            Ok(Library::Path(_)) => "path",
            Err(error) => error.why(),
        };
        assert_eq!(kind("libc"), "short");
        assert_eq!(kind("kernel"), "short");
        assert_eq!(kind("libstdc++"), "short");
        assert_eq!(kind("libc.so.6"), "soname");
        assert_eq!(kind("libfoo.so"), "soname");
        assert_eq!(kind("KERNEL32.DLL"), "soname");
        assert_eq!(kind("/lib/libc.so.6"), "path");
        assert_eq!(kind(r"C:\lib\foo.dll"), "path");
        assert_eq!(kind("./libfoo.so"), "is a relative path");
        assert_eq!(kind(""), "is empty");
        assert_eq!(kind("ä"), "short");
    }

    #[test]
    fn a_library_is_found_by_soname_and_path() {
        let matches = |text: &str, soname, path| Library::named(text).unwrap().matches(soname, path);
        assert!(matches("libc", Some("libc.so.6"), "/lib/x86_64-linux-gnu/libc.so.6"));
        assert!(matches("libc", None, "/lib/libc-2.31.so"));
        assert!(matches("libc", None, "/lib/ld-musl-x86_64.so.1"));
        assert!(matches("libc", Some("libc.musl-x86_64.so.1"), "/lib/ld-musl-x86_64.so.1"));
        assert!(!matches("libc", Some("libc-client.so.2"), "/lib/libc-client.so.2"));
        assert!(!matches("libc", Some("libcrypto.so.3"), "/lib/libcrypto.so.3"));
        assert!(!matches("libm", None, "/lib/ld-musl-x86_64.so.1"));
        assert!(matches("libstdc++", Some("libstdc++.so.6"), "/lib/libstdc++.so.6.0.30"));
        assert!(matches("libc.so.6", Some("libc.so.6"), "/lib/libc-2.31.so"));
        assert!(!matches("libc.so.6", Some("libc.so.7"), "/lib/libc.so.7"));
        assert!(matches("kernel32", None, r"C:\Windows\System32\KERNEL32.DLL"));
        assert!(matches("Kernel32.dll", None, r"C:\Windows\System32\KERNEL32.DLL"));
        assert!(!matches("kernel", None, r"C:\Windows\System32\KERNEL32.DLL"));
        assert!(matches("/opt/libx.so", Some("liby.so"), "/opt/libx.so"));
        assert!(!matches("/opt/libx.so", Some("libx.so"), "/usr/lib/libx.so"));
        assert!(!Library::Kernel.matches(Some("kernel"), "kernel"));
    }
}
