//! Bytes of a target that must never reach a log or an error message.

use std::fmt;

/// Holds a value whose contents are a target's own: it prints as its type's name only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Redacted<T>(pub T);

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<redacted {}>", std::any::type_name::<T>())
    }
}
