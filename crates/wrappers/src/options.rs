//! Options of wrappers: `key=value,key`, and which ones each wrapper has.
//!
//! brant checks them and makes paths absolute; the wrapper in the program reads them with the same functions.

/// How much of a string is shown at most.
pub(crate) const STRINGS_MAX: usize = 256;
/// How much where nothing is said.
#[cfg(feature = "loaded")]
pub(crate) const STRINGS_UNSAID: usize = 32;

/// How many pairs `map` may be given.
pub(crate) const MAPS_MAX: usize = 16;
/// The longest path that options have.
pub(crate) const PATH_BYTES_MAX: usize = 1024;

/// `key=value` and `key`, in their order.
pub(crate) fn each(options: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    options.split(',').filter(|option| !option.is_empty()).map(|option| match option.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (option, None),
    })
}

/// The value of an option that is said once.
#[cfg(feature = "loaded")]
pub(crate) fn value<'a>(options: &'a str, key: &str) -> Option<&'a str> {
    each(options).find(|(found, _)| *found == key).map(|(_, value)| value.unwrap_or(""))
}

/// One fault: which call of a function fails how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault<'a> {
    pub(crate) function: &'a str,
    /// From 1 on.
    pub(crate) first: u64,
    /// Every one from there on fails.
    pub(crate) is_lasting: bool,
    pub(crate) errno: u32,
}

/// `FUNCTION=N:ERRNO` or `FUNCTION=N+:ERRNO`.
pub(crate) fn fault<'a>(function: &'a str, value: Option<&str>) -> Option<Fault<'a>> {
    let (which, errno) = value?.split_once(':')?;
    let (number, is_lasting) = match which.strip_suffix('+') {
        Some(number) => (number, true),
        None => (which, false),
    };
    let first = number.parse().ok().filter(|first| *first > 0)?;
    let errno = crate::errno::number(errno)?;
    Some(Fault { function, first, is_lasting, errno })
}
