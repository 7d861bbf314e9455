//! The digest of a variant, taken while it is being decoded: that of `model::canonical::variant_id`, piece by piece.

use secateur_common::{Hasher, VariantId};
use secateur_model::DType;

/// Bytes that are hashed at once: whole subtrees of BLAKE3, several times faster than what comes piece by piece.
const BUFFER: usize = 16 * 1024;

/// A digest in the making. The pieces must come in canonical order: the skeleton, then the tensors by name.
pub(crate) struct Canonical {
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl Canonical {
    pub(crate) fn new(skeleton: &[u8]) -> Self {
        let hasher = Hasher::new("secateur 2026-11 variant");
        let mut digest = Self { hasher, buffer: Vec::with_capacity(BUFFER) };
        digest.bytes(&length(skeleton.len()));
        digest.bytes(skeleton);
        digest
    }

    /// Begins a tensor: its elements follow.
    pub(crate) fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) {
        self.bytes(&length(name.len()));
        self.bytes(name.as_bytes());
        self.bytes(&dtype.0.to_le_bytes());
        self.bytes(&length(shape.len()));
        shape.iter().for_each(|&dim| self.bytes(&length(dim)));
    }

    pub(crate) fn floats(&mut self, mut values: &[f32]) {
        while !values.is_empty() {
            let room = (BUFFER - self.buffer.len()) / 4;
            if room == 0 {
                // The heads of tensors need not be multiples of four.
                let (value, rest) = values.split_at(1);
                self.bytes(&value[0].to_le_bytes());
                values = rest;
                continue;
            }
            let (now, rest) = values.split_at(room.min(values.len()));
            let start = self.buffer.len();
            self.buffer.resize(start + now.len() * 4, 0);
            let (chunks, _) = self.buffer[start..].as_chunks_mut();
            for (chunk, value) in chunks.iter_mut().zip(now) {
                *chunk = value.to_le_bytes();
            }
            self.flush();
            values = rest;
        }
    }

    /// Little-endian elements.
    pub(crate) fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.flush();
            bytes = rest;
        }
    }

    fn flush(&mut self) {
        if self.buffer.len() == BUFFER {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
    }

    pub(crate) fn finish(mut self) -> VariantId {
        VariantId(self.hasher.update(&self.buffer).finish())
    }
}

fn length(value: usize) -> [u8; 8] {
    (value as u64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use secateur_model::{Graph, Tensor, canonical};

    use super::*;
    use crate::Base;

    #[test]
    fn it_is_the_digest_of_the_whole_graph() {
        let values: Vec<f32> = (0..9000u16).map(f32::from).collect();
        let tensors = [
            ("a".to_owned(), Tensor::f32([3, 3000], values).expect("a tensor")),
            ("b".to_owned(), Tensor::i64([2], vec![-1, 7]).expect("a tensor")),
            ("c".to_owned(), Tensor::f32([0], vec![]).expect("a tensor")),
        ];
        let graph = Graph { initializers: tensors.into_iter().collect(), ..Graph::default() };
        assert_eq!(Base::variant_id(&graph), canonical::variant_id(&graph));
        let mut digest = Canonical::new(&canonical::skeleton(&graph));
        for (name, tensor) in &graph.initializers {
            digest.tensor(name, tensor.dtype(), tensor.shape());
            match tensor.as_f32() {
                Some(values) => values.chunks(7).for_each(|chunk| digest.floats(chunk)),
                None => digest.bytes(&[-1i64, 7].map(i64::to_le_bytes).concat()),
            }
        }
        assert_eq!(digest.finish(), canonical::variant_id(&graph));
    }
}
