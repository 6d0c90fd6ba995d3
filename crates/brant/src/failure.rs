//! What a user sees when something went wrong: what happened, why, and the next command to type.

use std::fmt;

use brant_base::{Pid, Refusal, Refusals};
use serde_json::{Value, json};

/// Exit codes that every verb shares (docs: the command line's page).
pub(crate) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const UNSUPPORTED: u8 = 3;
    pub(crate) const NO_TARGET: u8 = 4;
    pub(crate) const INCOMPATIBLE: u8 = 5;
    pub(crate) const CORRUPT: u8 = 6;
    pub(crate) const STORE: u8 = 7;
    /// `migrate` gave up after it had reached the destination.
    pub(crate) const GAVE_UP: u8 = 8;
    /// The program that `run`, `attach` or `restore` had in the foreground was moved to another host.
    pub(crate) const MOVED: u8 = 76;
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
    /// Everything that stands in the way, where that is the reason.
    pub(crate) refusals: Vec<Refusal>,
}

impl Failure {
    /// A failure with nothing but what happened.
    pub(crate) fn new(code: &'static str, exit: u8, what: impl Into<String>) -> Failure {
        Failure {
            code,
            exit,
            what: what.into(),
            why: String::new(),
            next: String::new(),
            refusals: Vec::new(),
        }
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

    /// A failure of the engine: its message, and the messages of its causes.
    pub(crate) fn of_error(
        code: &'static str,
        what: impl Into<String>,
        error: &dyn std::error::Error,
    ) -> Failure {
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !why.contains(&text) {
                why.push_str(&format!("\nbecause: {text}"));
            }
            cause = error.source();
        }
        Failure::new(code, exit_of(code), what).why(why).next(format!("brant explain {code}"))
    }

    /// Things that stand in the way.
    pub(crate) fn refused(what: impl Into<String>, refusals: Refusals) -> Failure {
        let code = refusals.0.first().map_or("B-0300", |refusal| refusal.code);
        Failure { refusals: refusals.0, ..Failure::new(code, exit_of(code), what) }
    }

    /// Something does not fit to this host: says how many things.
    pub(crate) fn does_not_fit(what: impl std::fmt::Display, refusals: Refusals) -> Failure {
        let count = refusals.0.len();
        let things = if count == 1 { "one thing does".to_string() } else { format!("{count} things do") };
        Failure::refused(format!("{what}: {things} not fit"), refusals)
    }

    /// For another process of brant.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "code": self.code, "exit": self.exit, "what": self.what, "why": self.why, "next": self.next,
            "refusals": self.refusals.iter().map(refusal_json).collect::<Vec<Value>>(),
        })
    }

    /// What [`Failure::to_json`] made.
    pub(crate) fn from_json(value: &Value) -> Failure {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_string();
        let refusal = |value: &Value| Refusal {
            code: known_code(&text(value, "code")),
            pid: value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).map(Pid),
            resource: text(value, "resource"),
            why: text(value, "why"),
            hint: text(value, "hint"),
        };
        Failure {
            code: known_code(&text(value, "code")),
            exit: value["exit"].as_u64().and_then(|exit| u8::try_from(exit).ok()).unwrap_or(exit::FAILED),
            what: text(value, "what"),
            why: text(value, "why"),
            next: text(value, "next"),
            refusals: value["refusals"].as_array().into_iter().flatten().map(refusal).collect(),
        }
    }

    /// The same failure as one of a verb that passes a program's exit code on.
    pub(crate) fn into_own(mut self) -> Failure {
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

/// A refusal for machines.
pub(crate) fn refusal_json(refusal: &Refusal) -> Value {
    json!({
        "code": refusal.code, "pid": refusal.pid.map(|pid| pid.0), "resource": refusal.resource,
        "why": refusal.why, "hint": refusal.hint,
    })
}

/// The exit code that a family of error codes stands for.
pub(crate) fn exit_of(code: &str) -> u8 {
    match code.as_bytes().get(2..4) {
        Some(b"02") => exit::NO_TARGET,
        Some(b"03") => exit::UNSUPPORTED,
        Some(b"04") => exit::INCOMPATIBLE,
        Some(b"05") => exit::CORRUPT,
        Some(b"06" | b"09") => exit::STORE,
        Some(b"10") => exit::USAGE,
        Some(b"11") => match code {
            "B-1101" | "B-1102" | "B-1132" | "B-1150" => exit::USAGE,
            "B-1103" | "B-1104" | "B-1106" | "B-1107" | "B-1111" | "B-1117" | "B-1152" | "B-1153" => {
                exit::UNSUPPORTED
            }
            "B-1105" => exit::NO_TARGET,
            _ => exit::FAILED,
        },
        _ => exit::FAILED,
    }
}

/// A code that came as text.
pub(crate) fn known_code(code: &str) -> &'static str {
    crate::explain::find(code).map_or("B-0801", |entry| entry.code)
}
