//! What a delta starts from, read at random: a graph in memory, or variants kept in another form.

use secateur_common::VariantId;
use secateur_model::{DType, Graph, TensorData, canonical};

use crate::digest::Canonical;

/// Why a base cannot be read, or a sink cannot take more.
pub type AccessError = Box<dyn std::error::Error + Send + Sync>;

/// A variant that is held, read in any order.
pub trait Base {
    /// Its digest, known beforehand or taken now.
    fn variant_id(&self) -> VariantId;

    /// Its skeleton, as `model::canonical::skeleton` gives it.
    fn skeleton(&self) -> Vec<u8>;

    /// The names of its tensors, ascending.
    fn names(&self) -> Vec<&str>;

    /// The element type and shape of a tensor; none where there is no such tensor.
    fn tensor(&self, name: &str) -> Option<(DType, &[usize])>;

    /// Reads the elements of a float tensor from `first` on. Never called for elements that it does not have.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn floats(&self, name: &str, first: usize, values: &mut [f32]) -> Result<(), AccessError>;

    /// Reads the little-endian elements of a tensor that is no float tensor, from byte `first` on.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn bytes(&self, name: &str, first: usize, elements: &mut [u8]) -> Result<(), AccessError>;
}

impl Base for Graph {
    fn variant_id(&self) -> VariantId {
        // As `canonical::variant_id`, without a copy of each tensor.
        let mut digest = Canonical::new(&canonical::skeleton(self));
        for (name, tensor) in &self.initializers {
            digest.tensor(name, tensor.dtype(), tensor.shape());
            match tensor.data() {
                TensorData::F32(values) => digest.floats(values),
                TensorData::I64(values) => values.iter().for_each(|value| digest.bytes(&value.to_le_bytes())),
                TensorData::Other(_, elements) => digest.bytes(elements),
            }
        }
        digest.finish()
    }

    fn skeleton(&self) -> Vec<u8> {
        canonical::skeleton(self)
    }

    fn names(&self) -> Vec<&str> {
        self.initializers.keys().map(String::as_str).collect()
    }

    fn tensor(&self, name: &str) -> Option<(DType, &[usize])> {
        self.initializers.get(name).map(|tensor| (tensor.dtype(), tensor.shape()))
    }

    fn floats(&self, name: &str, first: usize, values: &mut [f32]) -> Result<(), AccessError> {
        let held = self.initializers.get(name).and_then(|tensor| tensor.as_f32());
        let held = held.and_then(|held| held.get(first..)?.get(..values.len()));
        values.copy_from_slice(held.ok_or_else(|| missing(name))?);
        Ok(())
    }

    fn bytes(&self, name: &str, first: usize, elements: &mut [u8]) -> Result<(), AccessError> {
        let tensor = self.initializers.get(name).ok_or_else(|| missing(name))?;
        let end = first + elements.len();
        match tensor.data() {
            TensorData::Other(_, bytes) => {
                elements.copy_from_slice(bytes.get(first..end).ok_or_else(|| missing(name))?);
            }
            TensorData::I64(values) => {
                let values = values.get(first / 8..end.div_ceil(8)).ok_or_else(|| missing(name))?;
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).skip(first % 8);
                elements.iter_mut().zip(bytes).for_each(|(element, byte)| *element = byte);
            }
            TensorData::F32(_) => return Err(missing(name)),
        }
        Ok(())
    }
}

fn missing(name: &str) -> AccessError {
    format!("the base does not hold these elements of `{name}`").into()
}
