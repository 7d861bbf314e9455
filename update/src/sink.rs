//! Where a decoded variant goes, piece by piece; and the sink that makes a graph of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_model::{DType, Graph, Tensor, TensorData, canonical};

use crate::ApplyError;
use crate::base::AccessError;
use crate::manifest::contradiction;

/// Takes a variant as it is decoded, in canonical order: the skeleton; then tensor by tensor, in the order of their
/// names, the head and all elements, row-major, in pieces of no particular size. None of it may be used before
/// [`Decoder::finish`](crate::Decoder::finish) says that the whole digest holds.
pub trait Sink {
    /// The skeleton, canonical bytes of a graph without its tensors.
    ///
    /// # Errors
    /// Where it cannot be taken; so for all others.
    fn skeleton(&mut self, skeleton: &[u8]) -> Result<(), AccessError>;

    /// The head of the next tensor. Its elements follow, by [`Sink::floats`] if its type is [`DType::F32`], else by
    /// [`Sink::bytes`].
    ///
    /// # Errors
    /// As above.
    fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), AccessError>;

    /// Offers to take the tensor that was begun last from the base's tensor of that name, which it equals. With `true`
    /// its elements do not follow.
    ///
    /// # Errors
    /// As above.
    fn keep(&mut self) -> Result<bool, AccessError> {
        Ok(false)
    }

    /// Further elements of a float tensor.
    ///
    /// # Errors
    /// As above.
    fn floats(&mut self, values: &[f32]) -> Result<(), AccessError>;

    /// Further elements of another tensor, little-endian; whole elements.
    ///
    /// # Errors
    /// As above.
    fn bytes(&mut self, elements: &[u8]) -> Result<(), AccessError>;
}

/// Collects a variant in memory. What it keeps of the base it shares with it.
#[derive(Debug, Default)]
pub struct Collector<'b> {
    base: Option<&'b Graph>,
    skeleton: Vec<u8>,
    tensors: BTreeMap<String, Tensor>,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    floats: Vec<f32>,
    bytes: Vec<u8>,
}

impl<'b> Collector<'b> {
    /// For a delta to `base`, or a full update.
    pub fn new(base: Option<&'b Graph>) -> Self {
        Self { base, ..Self::default() }
    }

    /// The graph of all that came.
    ///
    /// # Errors
    /// Where it makes none, or one of which the canonical form is another one.
    pub fn graph(mut self) -> Result<Graph, ApplyError> {
        self.end_tensor()?;
        let count = self.tensors.len();
        let graph = canonical::assemble(&self.skeleton, self.tensors)
            .map_err(|error| ApplyError::Graph(error.into()))?;
        // So its digest is that of the pieces.
        if graph.initializers.len() != count || canonical::skeleton(&graph) != self.skeleton {
            return Err(contradiction("a skeleton that is not canonical").into());
        }
        Ok(graph)
    }

    fn end_tensor(&mut self) -> Result<(), ApplyError> {
        let Some(last) = self.last.take() else { return Ok(()) };
        let data = match last.dtype {
            DType::F32 => TensorData::F32(Arc::new(last.floats)),
            dtype => tensor_data(dtype, last.bytes),
        };
        let tensor = Tensor::new(last.shape, data)
            .map_err(|source| ApplyError::Tensor { name: last.name.clone(), source })?;
        self.tensors.insert(last.name, tensor);
        Ok(())
    }

    fn last(&mut self) -> Result<&mut Last, AccessError> {
        self.last.as_mut().ok_or_else(|| "elements of no tensor".into())
    }
}

/// The elements of a tensor that is no float tensor, from their little-endian bytes.
pub(crate) fn tensor_data(dtype: DType, bytes: Vec<u8>) -> TensorData {
    match dtype {
        DType::I64 => {
            let (chunks, _) = bytes.as_chunks();
            TensorData::I64(Arc::new(chunks.iter().map(|&chunk| i64::from_le_bytes(chunk)).collect()))
        }
        dtype => TensorData::Other(dtype, Arc::new(bytes)),
    }
}

impl Sink for Collector<'_> {
    fn skeleton(&mut self, skeleton: &[u8]) -> Result<(), AccessError> {
        self.skeleton = skeleton.to_vec();
        Ok(())
    }

    fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), AccessError> {
        self.end_tensor()?;
        let (name, shape) = (name.to_owned(), shape.to_vec());
        // The vectors grow with what really comes.
        self.last = Some(Last { name, dtype, shape, floats: Vec::new(), bytes: Vec::new() });
        Ok(())
    }

    fn keep(&mut self) -> Result<bool, AccessError> {
        let Some(last) = self.last.take() else { return Ok(false) };
        match self.base.and_then(|base| base.initializers.get(&last.name)) {
            Some(held) => {
                self.tensors.insert(last.name, held.clone());
                Ok(true)
            }
            None => {
                self.last = Some(last);
                Ok(false)
            }
        }
    }

    fn floats(&mut self, values: &[f32]) -> Result<(), AccessError> {
        self.last()?.floats.extend_from_slice(values);
        Ok(())
    }

    fn bytes(&mut self, elements: &[u8]) -> Result<(), AccessError> {
        self.last()?.bytes.extend_from_slice(elements);
        Ok(())
    }
}
