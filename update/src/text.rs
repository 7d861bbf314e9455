//! Byte strings (the skeleton, names, elements that are no floats): bytes predicted by the one to four before them
//! and by what followed the last time that the same bytes were seen; in a text that both sides know, or in this one.

use crate::DecodeError;
use crate::mix::Mix;
use crate::range::{Coder, Decoder, Encoder, Position, Probability};

/// Hashed contexts of each order of a skeleton or a table.
pub(crate) const SLOTS: usize = 1 << 13;
/// The longest match that makes a difference.
const MATCH: usize = 15;
const SEEN: usize = 1 << 11;

/// `bytes` as a stream, coded after `prior`, which both sides know.
pub(crate) fn encode(prior: &[u8], bytes: &[u8]) -> Vec<u8> {
    run(Model::after(SLOTS, prior), bytes)
}

/// `bytes` as a stream, coded by a model of so many hashed contexts.
pub(crate) fn encode_with(slots: usize, bytes: &[u8]) -> Vec<u8> {
    run(Model::after(slots, &[]), bytes)
}

fn run(mut model: Model, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    bytes.iter().for_each(|&byte| {
        model.code(&mut encoder, byte);
    });
    encoder.finish()
}

/// The `length` bytes of a stream.
///
/// # Errors
/// Where the stream is not exactly that of so many bytes.
pub(crate) fn decode(prior: &[u8], stream: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
    let mut text = TextDecoder::new(SLOTS, prior, stream.len(), length);
    match text.run(stream)? {
        (_, Some(bytes)) => Ok(bytes),
        (_, None) => Err(DecodeError::StreamEnd),
    }
}

/// A text as its stream comes in.
pub(crate) struct TextDecoder {
    model: Model,
    prior: usize,
    length: usize,
    position: Option<Position>,
}

impl TextDecoder {
    /// Of `length` bytes, in a stream of `stored` bytes, after `prior`.
    pub(crate) fn new(slots: usize, prior: &[u8], stored: usize, length: usize) -> Self {
        let position = Some(Position::start(stored));
        Self { model: Model::after(slots, prior), prior: prior.len(), length, position }
    }

    /// Goes on with `bytes`: how many it took, and the text if it is complete.
    ///
    /// # Errors
    /// Where the stream is not exactly that of such a text.
    pub(crate) fn run(&mut self, bytes: &[u8]) -> Result<(usize, Option<Vec<u8>>), DecodeError> {
        let position = self.position.take().ok_or(DecodeError::StreamEnd)?;
        let mut decoder = Decoder::resume(position, bytes);
        while self.model.text.len() - self.prior < self.length {
            if !decoder.ready() {
                let (position, taken) = decoder.pause();
                self.position = Some(position);
                return Ok((taken, None));
            }
            self.model.code(&mut decoder, 0);
            decoder.check()?;
        }
        let taken = decoder.finish()?;
        Ok((taken, Some(self.model.text.split_off(self.prior))))
    }
}

struct Model {
    mix: Mix<6>,
    matcher: Matcher,
    text: Vec<u8>,
    slots: usize,
}

/// The side of a coder that only learns.
struct Learner;

impl Coder for Learner {
    fn bit(&mut self, bit: bool, _: Probability) -> bool {
        bit
    }

    fn ready(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

impl Model {
    /// A model of so many hashed contexts that has learnt `prior`.
    fn after(slots: usize, prior: &[u8]) -> Self {
        let mut model = Self {
            mix: Mix::new([256, slots, slots, slots, slots, 4 * (MATCH + 1)], MATCH + 1),
            matcher: Matcher { seen: vec![0; SEEN], at: 0, length: 0 },
            text: Vec::new(),
            slots,
        };
        for &byte in prior {
            model.code(&mut Learner, byte);
        }
        model
    }

    fn code<C: Coder>(&mut self, coder: &mut C, byte: u8) {
        self.matcher.find(&self.text);
        let mut node = 1usize;
        for shift in (0..8).rev() {
            let (set, guess) = self.matcher.guess(&self.text, node, shift);
            let slot = |order| slot(&self.text, order, node) % self.slots;
            let contexts = [node, slot(1), slot(2), slot(3), slot(5), guess];
            let bit = self.mix.code(coder, byte >> shift & 1 == 1, set, contexts);
            node = node << 1 | usize::from(bit);
        }
        self.text.push(node as u8);
    }
}

/// The hash of the last `order` bytes and the bits of the next one so far. Collisions cost bits, nothing else.
fn slot(text: &[u8], order: usize, node: usize) -> usize {
    hash(&text[text.len().saturating_sub(order)..], node as u32)
}

fn hash(bytes: &[u8], start: u32) -> usize {
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193).rotate_left(11);
    (bytes.iter().fold(start.wrapping_mul(0x9e37_79b1), mix) >> 7) as usize
}

/// Follows the last place where the latest four bytes were seen.
struct Matcher {
    /// One past the place, by hash; 0 is none.
    seen: Vec<u32>,
    at: usize,
    length: usize,
}

impl Matcher {
    fn find(&mut self, text: &[u8]) {
        if self.length > 0 {
            // After a wrong guess a long match goes on, less sure: often one byte was replaced.
            let right = text.last() == text.get(self.at);
            self.length = if right { (self.length + 1).min(MATCH) } else { self.length / 4 };
            self.at += 1;
        }
        let Some(latest) = text.last_chunk::<4>() else { return };
        let seen = &mut self.seen[hash(latest, 0) % SEEN];
        if self.length == 0 && *seen > 0 && text[..*seen as usize].ends_with(latest) {
            (self.at, self.length) = (*seen as usize, 4);
        }
        *seen = text.len() as u32;
    }

    /// How sure the match is, and with it the bit that would come next.
    fn guess(&self, text: &[u8], node: usize, shift: usize) -> (usize, usize) {
        let Some(byte) = text.get(self.at).filter(|_| self.length > 0) else { return (0, 0) };
        let expected = usize::from(*byte) | 256;
        if expected >> (shift + 1) != node {
            return (0, 1);
        }
        (self.length, self.length * 4 + 2 + (expected >> shift & 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            prior in prop::collection::vec(0u8..8, 0..200), bytes in prop::collection::vec(0u8..8, 0..600),
        ) {
            prop_assert_eq!(decode(&prior, &encode(&prior, &bytes), bytes.len()).unwrap(), bytes);
        }
    }

    #[test]
    fn repetition_is_nearly_free() {
        let text = "layers.0.conv1.weight, layers.1.conv1.weight, layers.2.conv1.weight, ".repeat(10);
        assert!(encode(&[], text.as_bytes()).len() < 80);
        assert!(encode(text.as_bytes(), text.as_bytes()).len() < 20);
    }
}
