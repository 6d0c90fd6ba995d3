//! What a user sees when something went wrong: what happened, why, and the next command to type.

use std::fmt;

/// Exit codes that every verb shares (docs: the command line's page).
pub(crate) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const NO_TARGET: u8 = 4;
    /// `run`'s and `restore`'s own failures, so that the program's codes stay its own.
    pub(crate) const OWN: u8 = 125;
    pub(crate) const CANNOT_EXECUTE: u8 = 126;
    pub(crate) const NOT_FOUND: u8 = 127;
}

/// An error on its way to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Stable; `brant explain` expands it.
    pub(crate) code: &'static str,
    /// The exit code of the whole program.
    pub(crate) exit: u8,
    /// What happened, without a full stop.
    pub(crate) what: String,
    /// Why; may have several lines, may be empty.
    pub(crate) why: String,
    /// The next command to type, or what to do; may be empty.
    pub(crate) next: String,
}

impl Failure {
    /// A failure with nothing but what happened.
    pub(crate) fn new(code: &'static str, exit: u8, what: impl Into<String>) -> Failure {
        Failure { code, exit, what: what.into(), why: String::new(), next: String::new() }
    }

    /// Adds the reason.
    pub(crate) fn why(mut self, why: impl fmt::Display) -> Failure {
        self.why = why.to_string();
        self
    }

    /// Adds the next step.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Failure {
        self.next = next.into();
        self
    }

    /// The same failure as one of a verb that passes a program's exit code on.
    pub(crate) fn as_own(mut self) -> Failure {
        if self.exit == exit::FAILED {
            self.exit = exit::OWN;
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.what)
    }
}
