//! The binary range coder: integers only, so that every processor decodes the same bits.
//!
//! Carry-less, with 64-bit bounds and 16-bit probabilities. Encoder and decoder are two sides of one trait, so
//! that a model of the data is written once and serves both.

use crate::DecodeError;

/// A probability that the next bit is 1, in 65,536ths; `1..=65_535`.
pub(crate) type Probability = u32;

/// One side of the coder.
pub(crate) trait Coder {
    /// Codes one bit that is 1 with probability `p`. An encoder writes `bit` and gives it back; a decoder ignores
    /// `bit` and gives what it read.
    fn bit(&mut self, bit: bool, p: Probability) -> bool;

    /// Codes the low `count` bits of `value` as they are, most significant first.
    fn raw(&mut self, value: u32, count: u32) -> u32 {
        (0..count)
            .rev()
            .fold(0, |read, shift| read << 1 | u32::from(self.bit(value >> shift & 1 == 1, 1 << 15)))
    }

    /// Whether a decoder has bytes enough for one more step of a model; until then it must [pause](Decoder::pause).
    fn ready(&self) -> bool;

    /// # Errors
    /// Where a decoder has been asked for more than its stream holds: then all further bits would be made up.
    fn check(&self) -> Result<(), DecodeError>;
}

/// The interval that both sides narrow bit by bit.
struct Interval {
    low: u64,
    high: u64,
}

impl Interval {
    const WHOLE: Self = Self { low: 0, high: u64::MAX };

    fn split(&self, p: Probability) -> u64 {
        self.low + ((self.high - self.low) >> 16) * u64::from(p)
    }

    fn narrow(&mut self, bit: bool, middle: u64) {
        if bit {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
    }

    /// Moves one byte out when both bounds agree on it.
    fn shift(&mut self) -> Option<u8> {
        let byte = (self.high >> 56) as u8;
        ((self.low ^ self.high) >> 56 == 0).then(|| {
            self.low <<= 8;
            self.high = self.high << 8 | 0xff;
            byte
        })
    }

    /// The last bytes: as few as name a number inside the interval, zeros following.
    fn tail(&self) -> (u64, usize) {
        let mut bytes = 0;
        loop {
            let kept = u64::MAX.checked_shl(64 - 8 * bytes).unwrap_or(0);
            let value = self.high & kept;
            if value >= self.low {
                return (value, bytes as usize);
            }
            bytes += 1;
        }
    }
}

/// The writing side.
pub(crate) struct Encoder {
    interval: Interval,
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { interval: Interval::WHOLE, bytes: Vec::new() }
    }

    /// Bytes that are certain so far.
    pub(crate) fn written(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let (value, count) = self.interval.tail();
        self.bytes.extend_from_slice(&value.to_be_bytes()[..count]);
        self.bytes
    }
}

impl Coder for Encoder {
    fn bit(&mut self, bit: bool, p: Probability) -> bool {
        let middle = self.interval.split(p);
        self.interval.narrow(bit, middle);
        while let Some(byte) = self.interval.shift() {
            self.bytes.push(byte);
        }
        bit
    }

    fn ready(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// Bytes that one step of a model (an element, a byte of text, an index) may take from a stream, at most: 40 decisions, 8
/// bytes each where bounds that differ in their top bytes had come closest, and the 8 that are read ahead.
pub(crate) const MARGIN: usize = 328;

/// Where a stream is being read: what a decoder keeps while it waits for more bytes.
pub(crate) struct Position {
    interval: Interval,
    value: u64,
    /// Bytes read so far, those read ahead and the zeros after the end included.
    taken: usize,
    length: usize,
}

impl Position {
    /// The start of a stream of `length` bytes.
    pub(crate) fn start(length: usize) -> Self {
        Self { interval: Interval::WHOLE, value: 0, taken: 0, length }
    }
}

/// The reading side. Past its end a stream reads as zeros, as [`Encoder::finish`] leaves them out.
pub(crate) struct Decoder<'a> {
    position: Position,
    bytes: &'a [u8],
    given: usize,
}

impl<'a> Decoder<'a> {
    /// Goes on at `position` with `bytes`, which begin there and may reach beyond the stream.
    pub(crate) fn resume(position: Position, bytes: &'a [u8]) -> Self {
        let left = position.length.saturating_sub(position.taken);
        let given = left.min(bytes.len());
        let mut decoder = Self { position, bytes: &bytes[..given], given };
        if decoder.position.taken == 0 && decoder.ready() {
            decoder.position.value = (0..8).fold(0, |value, _| value << 8 | u64::from(decoder.next()));
        }
        decoder
    }

    /// Stops for now; tells how many of the bytes given it took.
    pub(crate) fn pause(self) -> (Position, usize) {
        (self.position, self.given - self.bytes.len())
    }

    fn next(&mut self) -> u8 {
        self.position.taken += 1;
        match self.bytes.split_first() {
            Some((&first, rest)) => {
                self.bytes = rest;
                first
            }
            None => 0,
        }
    }

    /// Ends the stream; tells how many of the bytes given it took.
    ///
    /// # Errors
    /// Where the stream does not end exactly where and how an encoder would have ended it.
    pub(crate) fn finish(self) -> Result<usize, DecodeError> {
        let Position { interval, value, taken, length } = self.position;
        let (last, count) = interval.tail();
        if taken + count != length + 8 || last != value {
            return Err(DecodeError::StreamEnd);
        }
        Ok(self.given - self.bytes.len())
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, _: bool, p: Probability) -> bool {
        let middle = self.position.interval.split(p);
        let bit = self.position.value <= middle;
        self.position.interval.narrow(bit, middle);
        while self.position.interval.shift().is_some() {
            self.position.value = self.position.value << 8 | u64::from(self.next());
        }
        bit
    }

    fn ready(&self) -> bool {
        self.bytes.len() >= MARGIN || self.position.taken + self.bytes.len() >= self.position.length
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.position.taken > self.position.length + 8 { Err(DecodeError::StreamEnd) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(bits in prop::collection::vec((any::<bool>(), 1u32..65_536), 0..2_000)) {
            let mut encoder = Encoder::new();
            for &(bit, p) in &bits {
                encoder.bit(bit, p);
            }
            let bytes = encoder.finish();
            let mut decoder = Decoder::resume(Position::start(bytes.len()), &bytes);
            for &(bit, p) in &bits {
                prop_assert_eq!(decoder.bit(false, p), bit);
            }
            prop_assert!(decoder.check().is_ok());
            prop_assert!(decoder.finish().is_ok());
        }

        #[test]
        fn bits_have_one_stream(bits in prop::collection::vec(any::<bool>(), 1..200), extra in any::<u8>()) {
            let mut encoder = Encoder::new();
            bits.iter().for_each(|&bit| { encoder.bit(bit, 9_000); });
            let mut bytes = encoder.finish();
            bytes.push(extra);
            let mut decoder = Decoder::resume(Position::start(bytes.len()), &bytes);
            let read: Vec<_> = bits.iter().map(|_| decoder.bit(false, 9_000)).collect();
            prop_assert!(read != bits || decoder.finish().is_err());
        }
    }

    #[test]
    fn a_certain_bit_costs_next_to_nothing() {
        let mut encoder = Encoder::new();
        (0..100_000).for_each(|_| {
            encoder.bit(true, 65_535);
        });
        assert!(encoder.finish().len() < 8);
    }
}
