//! What a lossy line does to a TCP connection, as its two ends see it: nothing is missing, but all that follows a lost
//! segment waits until that one was sent again; and the connection breaks now and then. Pure: the dice have a seed.

use std::time::Duration;

use secateur_common::{ByteCount, Share};

/// Bytes that travel, and are lost, together: TCP's segment on an Ethernet.
const SEGMENT_BYTES: u64 = 1460;
/// A lost segment is sent again after a round trip and at least this, twice as long each time that it is lost again
/// (Linux's shortest retransmission timeout; RFC 6298 doubles it).
const SENT_AGAIN: Duration = Duration::from_millis(200);
/// A segment that was lost so often in a row breaks the connection: 51 s at least.
const TRIES: u32 = 8;

/// How bad a line is.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Loss {
    /// Of the segments.
    pub share: Option<Share>,
    /// A connection breaks after about this many bytes of a direction.
    pub cut: Option<ByteCount>,
}

/// What becomes of data on its way.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Fate {
    /// It arrives after this time.
    Late(Duration),
    /// The connection breaks.
    Cut,
}

/// One direction of one connection.
#[derive(Debug)]
pub(super) struct Line {
    dice: Dice,
    passed: u64,
    /// How far this connection gets, in means: half to one and a half, drawn once. A longer transfer is sure to break.
    reach: f64,
}

impl Line {
    /// A direction with dice of its own.
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let reach = 0.5 + dice.share();
        Self { dice, passed: 0, reach }
    }

    /// `bytes` more are sent over a line with this loss and round trip.
    pub(super) fn send(&mut self, bytes: u64, loss: Loss, round_trip: Duration) -> Fate {
        let before = self.passed.div_ceil(SEGMENT_BYTES);
        self.passed += bytes;
        if loss.cut.is_some_and(|mean| self.passed as f64 > self.reach * mean.get() as f64) {
            return Fate::Cut;
        }
        let Some(share) = loss.share else { return Fate::Late(Duration::ZERO) };
        let mut late = Duration::ZERO;
        for _ in before..self.passed.div_ceil(SEGMENT_BYTES) {
            let mut again = SENT_AGAIN.max(round_trip);
            let mut tries = 0;
            while self.dice.share() < share.get() {
                tries += 1;
                if tries == TRIES {
                    return Fate::Cut;
                }
                late += again;
                again *= 2;
            }
        }
        Fate::Late(late)
    }
}

/// Reproducible numbers (SplitMix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// From 0 to below 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(100);

    fn loss(share: &str, cut: Option<u64>) -> Loss {
        Loss { share: Some(share.parse().unwrap()), cut: cut.map(ByteCount) }
    }

    /// The fates of 1,000 segments.
    fn fates(seed: u64, loss: Loss) -> Vec<Fate> {
        let mut line = Line::new(seed);
        (0..1000).map(|_| line.send(SEGMENT_BYTES, loss, ROUND_TRIP)).collect()
    }

    #[test]
    fn a_seed_tells_which_segments_are_late() {
        let some = fates(1, loss("5%", None));
        assert_eq!(some, fates(1, loss("5%", None)));
        assert_ne!(some, fates(2, loss("5%", None)));
        let late = some.iter().filter(|fate| **fate != Fate::Late(Duration::ZERO)).count();
        assert!((30..=70).contains(&late), "{late} of 1,000 at 5 %");
        assert!(some.contains(&Fate::Late(SENT_AGAIN)), "a segment that was lost once");
    }

    #[test]
    fn without_loss_nothing_is_late() {
        assert!(fates(1, Loss::default()).iter().all(|fate| *fate == Fate::Late(Duration::ZERO)));
    }

    #[test]
    fn small_pieces_are_lost_no_more_often_than_large_ones() {
        let mut line = Line::new(1);
        let late = |_: &u64| line.send(73, loss("5%", None), ROUND_TRIP) != Fate::Late(Duration::ZERO);
        let late = (0..20_000).filter(late).count();
        assert!((30..=70).contains(&late), "{late} of 1,000 segments in 20,000 pieces");
    }

    #[test]
    fn connections_break_after_about_so_many_bytes() {
        let lengths = (0..1000).map(|seed| {
            let whole = fates(seed, Loss { share: None, cut: Some(ByteCount(100_000)) });
            whole.iter().position(|fate| *fate == Fate::Cut).unwrap_or(whole.len()) as u64 * SEGMENT_BYTES
        });
        let lengths: Vec<u64> = lengths.collect();
        let mean = lengths.iter().sum::<u64>() / 1000;
        assert!((90_000..=110_000).contains(&mean), "{mean}");
        assert!(lengths.iter().all(|length| (48_000..=150_000).contains(length)));
    }

    #[test]
    fn a_line_that_loses_all_breaks() {
        assert_eq!(fates(1, loss("100%", None))[0], Fate::Cut);
    }
}
