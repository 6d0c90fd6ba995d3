//! What cannot be carried over, said before anything is touched.

use std::fmt;

use crate::Pid;

/// One thing that stands in the way, with its reason and a remedy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// A stable code that `brant explain` expands, such as `B-0301`.
    pub code: &'static str,
    /// The process it was found in, by the number its user sees on this host.
    pub pid: Option<Pid>,
    /// What was found: "descriptor 7: an established TCP connection to 10.0.0.1:22".
    pub resource: String,
    /// Why it cannot be carried.
    pub why: String,
    /// What the user can do about it.
    pub hint: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.code)?;
        if let Some(pid) = self.pid {
            write!(f, "process {pid}: ")?;
        }
        write!(f, "{}: {} ({})", self.resource, self.why, self.hint)
    }
}

/// Every refusal of one preflight or plan: never empty where it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals(pub Vec<Refusal>);

impl Refusals {
    /// Adds one, unless the very same was found before.
    pub fn push(&mut self, refusal: Refusal) {
        if !self.0.contains(&refusal) {
            self.0.push(refusal);
        }
    }

    /// Whether nothing stands in the way.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` where nothing stands in the way, else every refusal.
    pub fn into_result<T>(self, value: T) -> Result<T, Refusals> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{refusal}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}
