//! How long to wait before dialling again: doubling with jitter, and back to the shortest only after the line stayed up,
//! so that a coordinator that accepts and drops is not hammered.

use std::time::Duration;

/// The shortest wait.
const FIRST: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// A line that was up for this long was a good one.
const STAYED_UP: Duration = Duration::from_secs(10);

/// The state of the waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The wait after a line that was up for `up`; `random` is from 0 to 1. Half of the wait is fixed, so that a fleet
    /// puts a floor under its own load, and half is random, so that it does not come back all at once.
    pub(crate) fn after(&mut self, up: Duration, random: f64) -> Duration {
        if up >= STAYED_UP {
            *self = Self::default();
        }
        let wait = self.next / 2 + self.next.mul_f64(random.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_start_again_after_a_good_line() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.after(Duration::ZERO, 1.0)).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[11], LONGEST);
        assert_eq!(backoff.after(Duration::from_secs(9), 1.0), LONGEST, "too short a line resets nothing");
        assert_eq!(backoff.after(STAYED_UP, 0.0), FIRST / 2);
    }

    #[test]
    fn jitter_stays_within_half_and_whole() {
        for random in [0.0, 0.3, 1.0, 7.0, -1.0] {
            let wait = Backoff::default().after(Duration::ZERO, random);
            assert!((FIRST / 2..=FIRST).contains(&wait));
        }
    }
}
