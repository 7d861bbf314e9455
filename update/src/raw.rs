//! Elements that are no f32 (shapes, indices, halves): carried exactly. Few of them are coded as text; many are stored
//! as they are, so that a few bytes can never stand for many slow ones, nor ask for much memory.

use secateur_model::{Tensor, TensorData};

use crate::manifest::FORMAT;
use crate::text::{self, TextDecoder};

/// Whether a tensor of so many bytes is coded as text in a file of version `format`.
pub(crate) fn is_text(format: u8, bytes: usize) -> bool {
    bytes <= if format == 1 { 64 * 1024 } else { 16 * 1024 }
}

pub(crate) fn encode(tensor: &Tensor) -> Vec<u8> {
    let bytes: Vec<u8> = match tensor.data() {
        TensorData::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        TensorData::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        TensorData::Other(_, bytes) => bytes.to_vec(),
    };
    if is_text(FORMAT, bytes.len()) { text::encode_with(slots(FORMAT), &bytes) } else { bytes }
}

/// The decoder of a tensor of `length` bytes that is coded as text.
pub(crate) fn decoder(format: u8, stored: usize, length: usize) -> TextDecoder {
    TextDecoder::new(slots(format), &[], stored, length)
}

/// Hashed contexts of a text model; those of these small texts are few since version 2.
fn slots(format: u8) -> usize {
    if format == 1 { text::SLOTS } else { 1 << 10 }
}
