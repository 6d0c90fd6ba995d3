//! Process and thread numbers. Identity over time is a pidfd, never one of these alone.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub i32);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A process: the number of its thread group. Whether it counts in the host's pid namespace or
    /// in the job's own is said where it is stored; images hold the job's own numbers only.
    Pid
);
number!(
    /// A thread. The first thread of a process has the process's number.
    Tid
);

impl From<Pid> for Tid {
    /// The first thread of a process.
    fn from(pid: Pid) -> Tid {
        Tid(pid.0)
    }
}
