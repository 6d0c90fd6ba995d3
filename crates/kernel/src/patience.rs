//! Limits of waits on a machine that is busy, or stands still for a while.
//!
//! A limit is there for what hangs. Time alone does not tell that: where the machine, or brant itself, got no processor for seconds
//! (a virtual machine that was moved, a group with a quota, Ctrl-Z), what is waited for has had no chance either, and may be there at the
//! next look. So the time between two looks counts up to [`LOOK_MAX`] only: who could not look was not kept waiting.

use std::time::{Duration, Instant};

/// What counts of the time between two looks at most; loops look more often where they get a processor.
const LOOK_MAX: Duration = Duration::from_millis(50);

/// How long something is waited for yet.
#[derive(Debug, Clone)]
pub struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    pub fn new(limit: Duration) -> Patience {
        Patience { left: limit, looked: Instant::now() }
    }

    /// Asked after each look that found nothing: whether there was the last.
    pub fn is_over(&mut self) -> bool {
        self.is_over_at(Instant::now())
    }

    fn is_over_at(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.looked).min(LOOK_MAX);
        self.looked = now;
        self.left = self.left.saturating_sub(passed);
        self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_counts_as_one_look() {
        let begin = Instant::now();
        let mut patience = Patience { left: Duration::from_secs(1), looked: begin };
        assert!(!patience.is_over_at(begin + Duration::from_secs(60)));
        let looks = (1..100).find(|n| patience.is_over_at(begin + Duration::from_secs(60) + LOOK_MAX * *n));
        assert_eq!(looks, Some(19));
    }

    #[test]
    fn time_counts_where_looks_are_frequent() {
        let begin = Instant::now();
        let mut patience = Patience { left: Duration::from_millis(100), looked: begin };
        let over = (1..1000).find(|n| patience.is_over_at(begin + Duration::from_millis(*n)));
        assert_eq!(over, Some(100));
    }
}
