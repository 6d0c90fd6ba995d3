//! Windows's own words for what failed.

use std::io;

use brant_windows::{Code, Refused};

/// `what` failed, for the reason that Windows gave last on this thread.
pub(crate) fn last(code: Code, what: impl Into<String>) -> Refused {
    Refused::new(code, what).why(io::Error::last_os_error())
}
