//! How long to wait before dialling again: doubling with jitter, and back to the shortest only after the line stayed up,
//! so that a coordinator that accepts and drops is not hammered. A large fleet, whose lines break together, dials again
//! over as long a time as its coordinator said.

use std::time::Duration;

/// The shortest wait.
const FIRST: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// A line that was up for this long was a good one.
const STAYED_UP: Duration = Duration::from_secs(10);
/// The longest spread that is believed.
const WIDEST: Duration = Duration::from_secs(300);

/// The state of the waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    next: Duration,
    spread: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST, spread: Duration::ZERO }
    }
}

impl Backoff {
    /// The coordinator said within what time its fleet is to come back.
    pub fn spread(&mut self, over: Duration) {
        self.spread = over.min(WIDEST);
    }

    /// The wait after a line that was up for `up`; `random` is from 0 to 1. Half of the wait is fixed, so that a fleet
    /// puts a floor under its own load, and half is random, so that it does not come back all at once; the first after a
    /// line that had stood is spread over the fleet's time.
    pub fn after(&mut self, up: Duration, random: f64) -> Duration {
        let mut range = self.next / 2;
        if up >= STAYED_UP {
            self.next = FIRST;
            range = (FIRST / 2).max(self.spread);
        }
        let wait = self.next / 2 + range.mul_f64(random.clamp(0.0, 1.0));
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

    #[test]
    fn a_fleet_whose_lines_break_comes_back_over_its_spread_and_no_later() {
        let mut backoff = Backoff::default();
        backoff.spread(Duration::from_secs(10));
        assert_eq!(backoff.after(STAYED_UP, 0.5), FIRST / 2 + Duration::from_secs(5));
        assert_eq!(backoff.after(Duration::ZERO, 1.0), FIRST * 2, "not there yet: as ever");
        backoff.spread(Duration::MAX);
        assert_eq!(backoff.after(STAYED_UP, 1.0), FIRST / 2 + WIDEST);
    }
}
