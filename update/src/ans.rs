//! The fast entropy coder: asymmetric numeral systems (Duda 2009) over adaptive tables, in integers only. A symbol costs a
//! look-up and a multiplication whatever its size, where the binary coder pays for every bit.
//!
//! The state is a number of 32 bits; streams are made of little-endian 16-bit words and begin with the state. As the
//! last symbol coded is the first one decoded, an encoder collects its symbols and codes them from the end.

use crate::DecodeError;
use crate::range::MARGIN;

/// Frequencies of a table sum to 2 to this power.
const SCALE: u32 = 14;
/// States are at least this.
const LOWEST: u32 = 1 << 16;
/// Bits that are coded as they are at once, at most.
const RAW_BITS: u32 = 12;
/// What a symbol seen adds to its count, where each begins with 1.
const STEP: u32 = 16;
/// The counts' sum at which they are halved.
const FULL: u32 = 1 << 18;
/// The longest time from one rebuilding of a table to the next, in symbols.
const PERIOD: u32 = 1024;

/// How often each of `N` symbols was seen, and the frequencies that follow.
pub(crate) struct Table<const N: usize> {
    counts: [u32; N],
    parts: [Part; N],
    /// The first symbol of each 256th of the scale.
    first: [u8; 256],
    /// Symbols until the next rebuilding, and from that one to the one after.
    left: u32,
    period: u32,
}

/// A symbol's part of the scale.
#[derive(Clone, Copy, Default)]
struct Part {
    start: u16,
    frequency: u16,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new() -> Self {
        let parts = [Part::default(); N];
        let mut table = Self { counts: [1; N], parts, first: [0; 256], left: 8, period: 8 };
        table.rebuild();
        table
    }

    /// Sets the frequencies: one, and a share of the rest by its count; what rounding leaves goes to the first symbol
    /// of those most seen.
    fn rebuild(&mut self) {
        let total: u32 = self.counts.iter().sum();
        let share = (u64::from((1 << SCALE) - N as u32) << 32) / u64::from(total);
        let frequency = |count: u32| 1 + ((u64::from(count) * share) >> 32) as u32;
        let sum: u32 = self.counts.iter().map(|&count| frequency(count)).sum();
        let mut most = 0;
        for symbol in 1..N {
            if self.counts[symbol] > self.counts[most] {
                most = symbol;
            }
        }
        let (mut start, mut filled) = (0, 0);
        for symbol in 0..N {
            let more = if symbol == most { (1 << SCALE) - sum } else { 0 };
            let frequency = frequency(self.counts[symbol]) + more;
            self.parts[symbol] = Part { start: start as u16, frequency: frequency as u16 };
            start += frequency;
            // The 256ths of the scale that begin in this part.
            let end = start.div_ceil(1 << (SCALE - 8)) as usize;
            self.first[filled..end].fill(symbol as u8);
            filled = end;
        }
    }

    /// The symbol whose part of the scale holds `slot`, and the part.
    fn at(&self, slot: u32) -> (usize, Part) {
        let mut symbol = usize::from(self.first[(slot >> (SCALE - 8)) as usize & 255]);
        loop {
            let part = self.parts[symbol];
            if slot < u32::from(part.start) + u32::from(part.frequency) || symbol + 1 == N {
                return (symbol, part);
            }
            symbol += 1;
        }
    }

    fn learn(&mut self, symbol: usize) {
        self.counts[symbol] += STEP;
        self.left -= 1;
        if self.left == 0 {
            if self.counts.iter().sum::<u32>() > FULL {
                self.counts.iter_mut().for_each(|count| *count -= *count / 2);
            }
            self.rebuild();
            self.period = (2 * self.period).min(PERIOD);
            self.left = self.period;
        }
    }
}

/// One side of the coder.
pub(crate) trait Symbols {
    /// Codes a symbol. An encoder writes `symbol` and gives it back; a decoder ignores it and gives what it read.
    fn symbol<const N: usize>(&mut self, table: &mut Table<N>, symbol: usize) -> usize;

    /// Codes the low `count` bits of `value` as they are, at most [`RAW_BITS`].
    fn few(&mut self, value: u32, count: u32) -> u32;

    /// Codes the low `count` bits of `value`, at most 24.
    fn raw(&mut self, value: u32, count: u32) -> u32 {
        if count <= RAW_BITS {
            return self.few(value, count);
        }
        let low = self.few(value, RAW_BITS);
        self.few(value >> RAW_BITS, count - RAW_BITS) << RAW_BITS | low
    }

    /// Whether a decoder has bytes enough for one more step of a model.
    fn ready(&self) -> bool;
}

/// The writing side: what was coded so far.
#[derive(Default)]
pub(crate) struct Encoder {
    coded: Vec<Coded>,
}

/// A part of the scale `1 << bits`, from `start` on.
struct Coded {
    start: u16,
    frequency: u16,
    bits: u8,
}

impl Encoder {
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut state = LOWEST;
        let mut words: Vec<u16> = Vec::new();
        for coded in self.coded.iter().rev() {
            let frequency = u32::from(coded.frequency);
            if u64::from(state) >= u64::from(frequency) << (32 - coded.bits) {
                words.push(state as u16);
                state >>= 16;
            }
            state = ((state / frequency) << coded.bits) + state % frequency + u32::from(coded.start);
        }
        let mut bytes = state.to_le_bytes().to_vec();
        bytes.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
        bytes
    }
}

impl Symbols for Encoder {
    fn symbol<const N: usize>(&mut self, table: &mut Table<N>, symbol: usize) -> usize {
        let Part { start, frequency } = table.parts[symbol];
        self.coded.push(Coded { start, frequency, bits: SCALE as u8 });
        table.learn(symbol);
        symbol
    }

    fn few(&mut self, value: u32, count: u32) -> u32 {
        let value = value & ((1 << count) - 1);
        self.coded.push(Coded { start: value as u16, frequency: 1, bits: count as u8 });
        value
    }

    fn ready(&self) -> bool {
        true
    }
}

/// Where a stream is being read: what a decoder keeps while it waits for more bytes.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    state: u32,
    /// Bytes read so far; more than there are where the stream ended early.
    taken: usize,
    length: usize,
}

impl Position {
    /// The start of a stream of `length` bytes.
    pub(crate) fn start(length: usize) -> Self {
        Self { state: 0, taken: 0, length }
    }
}

/// The reading side.
pub(crate) struct Decoder<'a> {
    position: Position,
    bytes: &'a [u8],
    /// Bytes read of those given; more than there are where the stream ended early.
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Goes on at `position` with `bytes`, which begin there and may reach beyond the stream.
    pub(crate) fn resume(position: Position, bytes: &'a [u8]) -> Self {
        let given = position.length.saturating_sub(position.taken).min(bytes.len());
        let mut decoder = Self { position, bytes: &bytes[..given], at: 0 };
        if decoder.position.taken == 0 && decoder.ready() {
            decoder.position.state = decoder.word() | decoder.bytes.get(2..4).map_or(0, word) << 16;
            decoder.at = 4;
        }
        decoder
    }

    /// Stops for now; tells how many of the bytes given it took.
    pub(crate) fn pause(self) -> (Position, usize) {
        let taken = self.position.taken + self.at;
        (Position { taken, ..self.position }, self.at.min(self.bytes.len()))
    }

    /// Ends the stream; tells how many of the bytes given it took.
    ///
    /// # Errors
    /// Where the stream does not end exactly where an encoder would have ended it.
    pub(crate) fn finish(self) -> Result<usize, DecodeError> {
        let Position { state, taken, length } = self.position;
        if taken + self.at != length || state != LOWEST {
            return Err(DecodeError::StreamEnd);
        }
        Ok(self.at)
    }

    /// # Errors
    /// Where it has been asked for more than the stream holds: then all further symbols would be made up.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        if self.at > self.bytes.len() { Err(DecodeError::StreamEnd) } else { Ok(()) }
    }

    /// The word that comes next.
    fn word(&self) -> u32 {
        self.bytes.get(self.at..self.at + 2).map_or(0, word)
    }

    /// Goes on with `state`. Whether a word is needed is as good as random: without a branch.
    fn renew(&mut self, state: u32) {
        let low = state < LOWEST;
        let longer = state << 16 | self.word();
        self.position.state = if low { longer } else { state };
        self.at += 2 * usize::from(low);
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

impl Symbols for Decoder<'_> {
    #[inline]
    fn symbol<const N: usize>(&mut self, table: &mut Table<N>, _: usize) -> usize {
        let slot = self.position.state & ((1 << SCALE) - 1);
        let (symbol, Part { start, frequency }) = table.at(slot);
        let state = u32::from(frequency) * (self.position.state >> SCALE) + slot - u32::from(start);
        self.renew(state);
        table.learn(symbol);
        symbol
    }

    #[inline]
    fn few(&mut self, _: u32, count: u32) -> u32 {
        let value = self.position.state & ((1 << count) - 1);
        self.renew(self.position.state >> count);
        value
    }

    #[inline]
    fn ready(&self) -> bool {
        self.bytes.len() >= self.at + MARGIN || self.position.taken + self.bytes.len() >= self.position.length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code<C: Symbols>(coder: &mut C, symbols: &[(usize, u32, u32)]) -> Vec<(usize, u32)> {
        let mut table = Table::<37>::new();
        let mut read = Vec::new();
        for &(symbol, value, bits) in symbols {
            read.push((coder.symbol(&mut table, symbol), coder.raw(value, bits)));
        }
        read
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            symbols in prop::collection::vec((0usize..37, 0u32..1 << 24, 0u32..=24), 0..3_000), skew in 1usize..37,
        ) {
            let symbols: Vec<_> = symbols.into_iter().map(|(s, v, bits)| (s % skew, v & ((1 << bits) - 1), bits)).collect();
            let mut encoder = Encoder::default();
            let written = code(&mut encoder, &symbols);
            let bytes = encoder.finish();
            let mut decoder = Decoder::resume(Position::start(bytes.len()), &bytes);
            prop_assert_eq!(code(&mut decoder, &symbols), written);
            prop_assert_eq!(decoder.finish(), Ok(bytes.len()));
        }
    }

    #[test]
    fn symbols_cost_their_entropy() {
        let mut encoder = Encoder::default();
        let mut table = Table::<37>::new();
        (0..100_000).for_each(|at| {
            encoder.symbol(&mut table, if at % 16 == 0 { 9 } else { 3 });
        });
        let entropy = 100_000.0 * (0.0625 * 4.0 + 0.9375 * (16.0f64 / 15.0).log2()) / 8.0;
        assert!((encoder.finish().len() as f64) < 1.03 * entropy);
    }
}
