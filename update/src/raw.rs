//! Elements that are no f32 (shapes, indices, halves): carried exactly. Few of them are coded as text; many are stored
//! as they are, so that a few bytes can never stand for many slow ones.

use std::sync::Arc;

use secateur_model::{DType, Tensor, TensorData};

use crate::manifest::contradiction;
use crate::{DecodeError, text};

/// The longest tensor that is coded as text, in bytes.
const TEXT_BYTES: usize = 64 * 1024;

pub(crate) fn encode(tensor: &Tensor) -> Vec<u8> {
    let bytes = match tensor.data() {
        TensorData::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        TensorData::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        TensorData::Other(_, bytes) => bytes.to_vec(),
    };
    if bytes.len() > TEXT_BYTES { bytes } else { text::encode(&[], &bytes) }
}

/// The elements of a tensor of `count` elements.
///
/// # Errors
/// Where the stream is not exactly that of such a tensor.
pub(crate) fn decode(dtype: DType, count: usize, stream: &[u8]) -> Result<TensorData, DecodeError> {
    let length = dtype.size().and_then(|size| size.checked_mul(count));
    let bytes = match length {
        None => return Err(contradiction("an element type")),
        Some(length) if length <= TEXT_BYTES => text::decode(&[], stream, length)?,
        Some(length) if length == stream.len() => stream.to_vec(),
        Some(_) => return Err(DecodeError::StreamEnd),
    };
    match dtype {
        DType::F32 => Err(contradiction("an element type")),
        DType::I64 => {
            let (chunks, _) = bytes.as_chunks();
            Ok(TensorData::I64(Arc::new(chunks.iter().map(|&chunk| i64::from_le_bytes(chunk)).collect())))
        }
        _ => Ok(TensorData::Other(dtype, Arc::new(bytes))),
    }
}
