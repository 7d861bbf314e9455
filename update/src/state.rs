//! What the decoding of a tensor works with: what is held, the models, and where the result goes.

use secateur_model::DType;

use crate::ApplyError;
use crate::base::Base;
use crate::codec::Models;
use crate::digest::Canonical;
use crate::gather::IndexSet;
use crate::manifest::contradiction;
use crate::old::{OldReader, count_nonzeros};
use crate::sink::Sink;

/// What the decoding of a tensor works with.
pub(crate) struct State<'b, S> {
    pub(crate) held: Held<'b>,
    pub(crate) models: Models,
    pub(crate) output: Output<S>,
}

/// The base's tensor of the current name, and the index sets by which it may be cut.
pub(crate) struct Held<'b> {
    pub(crate) base: Option<&'b dyn Base>,
    pub(crate) name: String,
    pub(crate) sets: Vec<IndexSet>,
    /// Nonzeros of the base's tensor, where it was read as a whole.
    pub(crate) nonzeros: u64,
}

impl Held<'_> {
    /// The next old values.
    pub(crate) fn fill(&mut self, reader: &mut OldReader, values: &mut [f32]) -> Result<(), ApplyError> {
        let base = self.base.ok_or(contradiction("an old tensor without a base"))?;
        reader.fill(base, &self.name, &self.sets, values)?;
        if matches!(reader, OldReader::Whole { .. }) {
            self.nonzeros += count_nonzeros(values);
        }
        Ok(())
    }
}

/// The sink, and what is known of all that went there.
pub(crate) struct Output<S> {
    pub(crate) sink: S,
    pub(crate) digest: Canonical,
    pub(crate) nonzeros: u64,
}

impl<S: Sink> Output<S> {
    pub(crate) fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), ApplyError> {
        self.nonzeros = 0;
        self.digest.tensor(name, dtype, shape);
        self.sink.tensor(name, dtype, shape).map_err(ApplyError::Sink)
    }

    pub(crate) fn floats(&mut self, values: &[f32]) -> Result<(), ApplyError> {
        self.nonzeros += count_nonzeros(values);
        self.digest.floats(values);
        self.sink.floats(values).map_err(ApplyError::Sink)
    }

    pub(crate) fn bytes(&mut self, elements: &[u8]) -> Result<(), ApplyError> {
        self.digest.bytes(elements);
        self.sink.bytes(elements).map_err(ApplyError::Sink)
    }
}
