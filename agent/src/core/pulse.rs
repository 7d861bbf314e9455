//! The line's pulse, without I/O: when to say something, so that a NAT keeps the line, and when it is dead. It counts looks
//! of a second each, not a clock, so time that the agent itself spent at work is nobody's silence.

/// Looks without an answer, or without the next piece of a download, after which the line is dead.
const PATIENCE: u32 = 30;
/// Looks between heartbeats, at most: an hour.
const LONGEST: u64 = 3600;

/// What a look finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Felt {
    /// Nothing to do.
    Well,
    /// A heartbeat is due.
    Due,
    /// What should have come did not.
    Dead,
}

/// The state of the line.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    beat: u32,
    said: u32,
    heard: u32,
    awaited: bool,
}

impl Pulse {
    /// A line on which something is to be said every `beat_s` seconds.
    pub fn new(beat_s: u64) -> Self {
        Self { beat: beat_s.clamp(1, LONGEST) as u32, said: 0, heard: 0, awaited: false }
    }

    /// Something was said that is answered.
    pub fn said(&mut self) {
        self.said = 0;
        if !self.awaited {
            (self.awaited, self.heard) = (true, 0);
        }
    }

    /// Something came, or the wait for it begins.
    pub fn heard(&mut self) {
        (self.awaited, self.heard) = (false, 0);
    }

    /// A second went by; `downloading`: pieces are to come, said or not.
    pub fn look(&mut self, downloading: bool) -> Felt {
        (self.said, self.heard) = (self.said.saturating_add(1), self.heard.saturating_add(1));
        if (self.awaited || downloading) && self.heard > PATIENCE {
            Felt::Dead
        } else if self.said >= self.beat {
            Felt::Due
        } else {
            Felt::Well
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_at_rest_beats_and_one_that_does_not_answer_is_dead() {
        let mut pulse = Pulse::new(180);
        for _ in 0..10 {
            assert!((1..180).all(|_| pulse.look(false) == Felt::Well));
            assert_eq!(pulse.look(false), Felt::Due);
            pulse.said();
            pulse.heard();
        }
        pulse.said();
        assert!((0..PATIENCE).all(|_| pulse.look(false) == Felt::Well));
        pulse.said();
        assert_eq!(pulse.look(false), Felt::Dead, "saying more does not prolong the wait");
    }

    #[test]
    fn a_download_without_pieces_is_dead() {
        let mut pulse = Pulse::new(180);
        (0..100).for_each(|_| assert_eq!(pulse.look(false), Felt::Well));
        pulse.heard();
        (0..100).for_each(|_| {
            pulse.heard();
            assert_ne!(pulse.look(true), Felt::Dead);
        });
        assert!((0..PATIENCE).any(|_| pulse.look(true) == Felt::Dead));
    }

    #[test]
    fn beats_are_within_bounds() {
        assert_eq!(Pulse::new(0).look(false), Felt::Due);
        assert_eq!(Pulse::new(u64::MAX).beat, 3600);
    }
}
