//! Bytes received from the coordinator in a day (UTC), by cause, and what a daily cap leaves of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ByteCount;

/// Why bytes came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Pieces of an update.
    Update,
    /// Heartbeats, assignments, the connection itself.
    Control,
    /// Acknowledgements of reports.
    Report,
}

/// One day's bytes. The clock is an argument and may jump: a day's bytes are forgotten only when a later day has begun, so
/// setting a clock back gives nothing; where it stays back, a new day begins with the next midnight that it shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Days since the Unix epoch.
    pub day: u64,
    /// Bytes of updates.
    pub update: u64,
    /// Bytes of the connection.
    pub control: u64,
    /// Bytes of acknowledgements.
    pub report: u64,
    /// The day that the clock showed when it was first seen to be behind.
    #[serde(default)]
    pub behind: Option<u64>,
}

/// Seconds of a day.
const DAY: u64 = 86_400;

impl Ledger {
    /// A ledger as a peer tells it.
    pub fn of(day: u64, update: u64, control: u64, report: u64) -> Self {
        Self { day, update, control, report, behind: None }
    }

    /// Looks at the clock: begins a new day where one has begun.
    pub fn look(&mut self, unix_s: u64) {
        let shown = unix_s / DAY;
        if shown > self.day || self.behind.is_some_and(|behind| shown > behind && shown < self.day) {
            *self = Self::of(shown, 0, 0, 0);
        } else if shown < self.day {
            self.behind = Some(self.behind.map_or(shown, |behind| behind.min(shown)));
        } else {
            self.behind = None;
        }
    }

    /// Counts bytes that came.
    pub fn add(&mut self, cause: Cause, bytes: u64) {
        let sum = self.sum(cause);
        *sum = sum.saturating_add(bytes);
    }

    /// Takes back bytes that were counted and did not come.
    pub fn refund(&mut self, cause: Cause, bytes: u64) {
        let sum = self.sum(cause);
        *sum = sum.saturating_sub(bytes);
    }

    fn sum(&mut self, cause: Cause) -> &mut u64 {
        match cause {
            Cause::Update => &mut self.update,
            Cause::Control => &mut self.control,
            Cause::Report => &mut self.report,
        }
    }

    /// All bytes of the day.
    pub fn total(&self) -> u64 {
        self.update.saturating_add(self.control).saturating_add(self.report)
    }

    /// What `cap` leaves for the rest of the day; all there is without a cap.
    pub fn left(&self, cap: Option<u64>) -> u64 {
        cap.map_or(u64::MAX, |cap| cap.saturating_sub(self.total()))
    }

    /// Update bytes that may be asked for now, so that they, cut in pieces and framed, and what keeps the session alive
    /// meanwhile, stay under `cap`. None where there is no cap.
    pub fn grant(&self, cap: Option<u64>) -> Option<u64> {
        let cap = cap?;
        let left = self.left(Some(cap)).saturating_sub(SESSION_BYTES);
        Some((left / (PIECE_BYTES + PIECE_FRAMING) * PIECE_BYTES).min(GRANT_BYTES))
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [total, update, report, control] =
            [self.total(), self.update, self.report, self.control].map(ByteCount);
        write!(f, "{total}: updates {update}, acknowledgements {report}, the connection {control}")
    }
}

/// Update bytes in a message.
pub const PIECE_BYTES: u64 = 4 * 1024;
/// What such a message costs above them, at most: its fields, gRPC's and HTTP/2's heads, flow control.
pub const PIECE_FRAMING: u64 = 128;
/// Update bytes that are asked for at once under a cap.
const GRANT_BYTES: u64 = 64 * PIECE_BYTES;
/// What a session needs to begin, with an assignment and a call: with less left, nobody dials or asks for an update.
pub const SESSION_BYTES: u64 = 8 * 1024;
/// With less left a session is ended: what may be on its way fits.
pub const LAST_BYTES: u64 = 4 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Event {
        Clock(u64),
        Ask,
        Heartbeat,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![(0u64..30 * DAY).prop_map(Event::Clock), Just(Event::Ask), Just(Event::Heartbeat),]
    }

    proptest! {
        /// Whatever the order of grants, heartbeats and days of a clock that never goes back: no day exceeds the cap.
        #[test]
        fn no_day_exceeds_the_cap(mut events in prop::collection::vec(event(), 0..200), cap in 0u64..2_000_000) {
            let mut now = 0;
            let mut days = std::collections::BTreeMap::<u64, u64>::new();
            let mut ledger = Ledger::default();
            for event in &mut events {
                ledger.look(now);
                let came = match event {
                    Event::Clock(by) => {
                        now += *by / 20;
                        continue;
                    }
                    Event::Ask => {
                        let bytes = ledger.grant(Some(cap)).unwrap();
                        let came = bytes + bytes.div_ceil(PIECE_BYTES) * PIECE_FRAMING;
                        ledger.add(Cause::Update, came);
                        came
                    }
                    Event::Heartbeat if ledger.left(Some(cap)) > LAST_BYTES => {
                        ledger.add(Cause::Control, 20);
                        20
                    }
                    Event::Heartbeat => 0,
                };
                *days.entry(now / DAY).or_default() += came;
                prop_assert!(days[&(now / DAY)] <= cap);
                prop_assert_eq!(ledger.total(), days[&(now / DAY)]);
            }
        }

        /// A clock that jumps: bytes are forgotten only when it shows a later day than the ledger's, or a midnight after it
        /// stayed back; and it never starves: two midnights on, there is a new day.
        #[test]
        fn jumps_give_nothing_and_starve_nobody(jumps in prop::collection::vec(0u64..1000, 1..50)) {
            let mut ledger = Ledger::default();
            for &day in &jumps {
                let before = ledger;
                ledger.look(day * DAY);
                if ledger.total() < before.total() {
                    prop_assert!(day > before.day || before.behind.is_some_and(|behind| day > behind));
                }
                ledger.add(Cause::Control, 1);
            }
            let last = *jumps.last().unwrap();
            ledger.look((last + 1) * DAY);
            ledger.look((last + 2) * DAY);
            prop_assert_eq!((ledger.day, ledger.total()), (last + 2, 0));
        }
    }

    #[test]
    fn a_clock_set_back_gives_nothing_until_its_next_midnight() {
        let mut ledger = Ledger::default();
        ledger.look(100 * DAY);
        ledger.add(Cause::Update, 50);
        ledger.look(90 * DAY);
        assert_eq!(ledger.total(), 50);
        ledger.look(90 * DAY + 5);
        assert_eq!(ledger.total(), 50);
        ledger.look(91 * DAY);
        assert_eq!((ledger.day, ledger.total()), (91, 0));
    }
}
