//! What is refused or has failed, with its stable code.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)+) => {
        /// A stable code. [`crate::EXPLANATIONS`] has what stands behind each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* $name,)+ }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$name,)+];

            pub fn text(self) -> &'static str {
                match self { $(Code::$name => $code,)+ }
            }
        }
    };
}

codes! {
    /// Something failed that should not have.
    Failed = "B-1300",
    /// No definition of this name or path.
    NoDefinition = "B-1301",
    /// A file defines several wrappers, and none is called as it.
    SeveralWrappers = "B-1302",
    /// The definition asks for what there is not on Windows.
    NotHere = "B-1303",
    /// No such process, or not ours to open.
    NoProcess = "B-1304",
    /// A program for another processor.
    OtherMachine = "B-1305",
    /// A program that does not start.
    NoStart = "B-1306",
    /// The agent cannot be loaded.
    NoAgent = "B-1307",
    /// The agent in the process is of another build.
    OtherAgent = "B-1308",
    /// The agent does not answer in time.
    Slow = "B-1309",
    /// The implementation cannot be loaded.
    NoImplementation = "B-1310",
    /// The implementation exports no such mediator.
    NoMediator = "B-1311",
    /// Functions that no jump can be written into.
    Unhookable = "B-1312",
    AlreadyWrapped = "B-1313",
    NotWrapped = "B-1314",
    /// The implementation declined.
    Declined = "B-1315",
    /// The implementation takes no options.
    NoOptions = "B-1316",
    /// A command line that cannot be read.
    Usage = "B-1317",
    /// A process without a record.
    NotRecorded = "B-1318",
    /// Threads that do not stop, or stand where they may not.
    Threads = "B-1319",
    /// The debug log cannot be written.
    Log = "B-1320",
    /// A wrapper that the program needs from now on.
    Held = "B-1321",
    /// A program that cannot be captured.
    NotCarried = "B-1330",
    /// A file that is no image of a Windows program, or is damaged.
    NotAnImage = "B-1331",
    /// An image that could not be written.
    NotWritten = "B-1332",
    /// An image that cannot be brought back here.
    NotRestored = "B-1333",
    /// Threads that do not come to a stand.
    Moving = "B-1334",
    /// Heaps of the system that are not where they were.
    HeapsElsewhere = "B-1335",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What happened, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub code: Code,
    /// The code of a definition's first error, where that is the reason.
    pub of_definition: Option<String>,
    /// What happened, without a full stop.
    pub what: String,
    /// Why; may have several lines, may be empty.
    pub why: String,
    /// What to do; may be empty.
    pub next: String,
}

impl Refused {
    pub fn new(code: Code, what: impl Into<String>) -> Refused {
        Refused { code, of_definition: None, what: what.into(), why: String::new(), next: String::new() }
    }

    #[must_use]
    pub fn why(mut self, why: impl fmt::Display) -> Refused {
        self.why = why.to_string();
        self
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Refused {
        self.next = next.into();
        self
    }

    /// The code that is shown.
    pub fn code(&self) -> &str {
        self.of_definition.as_deref().unwrap_or(self.code.text())
    }

    /// The number of the code: 1313 for B-1313.
    pub fn number(&self) -> i32 {
        self.code()[2..].parse().unwrap_or(1300)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.what)?;
        for line in self.why.lines() {
            write!(f, "\n  {line}")?;
        }
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_order() {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.text()).collect();
        let explained: Vec<&str> = crate::EXPLANATIONS.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, explained);
        assert!(codes.is_sorted());
    }

    #[test]
    fn a_refusal_says_what_why_and_what_next() {
        let refused = Refused::new(Code::NotWrapped, "process 4 has no wrapper \"x\"")
            .why("it has:\ny")
            .next("brant.exe wrappers 4");
        assert_eq!(
            refused.to_string(),
            "B-1314: process 4 has no wrapper \"x\"\n  it has:\n  y\n  next: brant.exe wrappers 4"
        );
        assert_eq!(refused.number(), 1314);
    }
}
