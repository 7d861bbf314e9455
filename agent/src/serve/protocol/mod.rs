//! The Open Inference Protocol v2, without I/O: what a request may say of a model, its tensors, its refusals.
//!
//! A model has one input and one output, of 32-bit floats, the batch first. Any float is an input, NaN and infinities too;
//! as JSON, which has no words for them, they are `null`.

mod json;

use secateur_common::caps;
use serde::Serialize;

pub use json::{Flat, read, read_label, write};

/// The element type of every tensor.
pub const DATATYPE: &str = "FP32";
/// Bytes of an element.
const ELEMENT_BYTES: usize = 4;

/// Why a request gets no answer. The text is for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refused {
    #[error("{0}")]
    Invalid(String),
    #[error("{0} is not served here")]
    NotFound(String),
    #[error("no model is in force yet")]
    NotReady,
    #[error("too many requests wait: try again later")]
    Busy,
    #[error("the request is over {0} bytes")]
    TooLarge(usize),
    #[error("the request took too long to arrive")]
    Slow,
    #[error("{0}")]
    Failed(String),
}

/// A tensor's name and the shape of one sample, without the batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The name in the graph.
    pub name: String,
    /// The axes after the batch's.
    pub shape: Vec<usize>,
}

/// What goes in and what comes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// The input.
    pub input: Sample,
    /// The output.
    pub output: Sample,
}

/// A tensor as a peer sent it.
pub struct Sent<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type, such as `FP32`.
    pub datatype: &'a str,
    /// Its axes.
    pub shape: &'a [i64],
    /// Its elements.
    pub data: Data<'a>,
}

/// The elements of a tensor.
pub enum Data<'a> {
    /// As numbers.
    Values(Vec<f32>),
    /// As little-endian bytes.
    Bytes(&'a [u8]),
}

/// A request that the model can answer.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Inference {
    /// The request's id; empty where it has none.
    pub id: String,
    /// Samples, one after another.
    pub rows: usize,
    /// Their values.
    pub values: Vec<f32>,
    /// Whether the output is wanted as bytes.
    pub binary_output: bool,
}

/// What a request is answered with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answer<'a> {
    /// The model.
    pub model: &'a str,
    /// The variant that answered.
    pub version: &'a str,
    /// The request's id.
    pub id: &'a str,
    /// The output.
    pub output: &'a Sample,
    /// Samples.
    pub rows: usize,
    /// Their outputs, one after another.
    pub values: &'a [f32],
}

/// A tensor in a model's metadata.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Its type.
    pub datatype: &'static str,
    /// Its axes; -1 is the batch.
    pub shape: Vec<i64>,
}

impl Refused {
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > caps::TEXT_BYTES {
            text = text.chars().take(caps::TEXT_BYTES / 4).collect();
        }
        Self::Invalid(text)
    }
}

impl Sample {
    /// Elements of one sample.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape of `rows` samples.
    pub fn batch(&self, rows: i64) -> Vec<i64> {
        std::iter::once(rows).chain(self.shape.iter().map(|&length| length as i64)).collect()
    }

    /// What a peer is told.
    pub fn metadata(&self) -> TensorMetadata {
        TensorMetadata { name: self.name.clone(), datatype: DATATYPE, shape: self.batch(-1) }
    }
}

impl Signature {
    /// The samples and values of the one input.
    ///
    /// # Errors
    /// Where there is not one tensor, of the input's name, type and shape, with as many elements as its shape says.
    pub fn input(&self, sent: Vec<Sent<'_>>) -> Result<(usize, Vec<f32>), Refused> {
        let count = sent.len();
        let Ok([sent]) = <[Sent<'_>; 1]>::try_from(sent) else {
            return Err(Refused::invalid(format!("the request has {count} inputs, the model takes 1")));
        };
        let name = &self.input.name;
        if sent.name != name {
            let text = format!("the model has no input `{}`, its input is `{name}`", shown(sent.name));
            return Err(Refused::invalid(text));
        }
        if sent.datatype != DATATYPE {
            let text = format!("input `{name}` is {DATATYPE}, not `{}`", shown(sent.datatype));
            return Err(Refused::invalid(text));
        }
        let rows = self.rows(sent.shape)?;
        let expected = rows * self.input.elements();
        let length = |found: usize, expected: usize, what: &str| match found == expected {
            true => Ok(()),
            false => Err(Refused::invalid(format!(
                "input `{name}` has {found} {what}, its shape asks for {expected}"
            ))),
        };
        let values = match sent.data {
            Data::Values(values) => {
                length(values.len(), expected, "elements")?;
                values
            }
            Data::Bytes(bytes) => {
                length(bytes.len(), expected * ELEMENT_BYTES, "bytes")?;
                floats(bytes)
            }
        };
        Ok((rows, values))
    }

    /// Whether `name` can be asked for.
    ///
    /// # Errors
    /// Where the model has no such output.
    pub fn output(&self, name: &str) -> Result<(), Refused> {
        if name == self.output.name {
            return Ok(());
        }
        let known = &self.output.name;
        let text = format!("the model has no output `{}`, its output is `{known}`", shown(name));
        Err(Refused::invalid(text))
    }

    fn rows(&self, shape: &[i64]) -> Result<usize, Refused> {
        let largest = self.input.elements().max(self.output.elements()).max(1);
        let most = (caps::SERVE_BODY_BYTES / ELEMENT_BYTES / largest).clamp(1, caps::SERVE_ROWS);
        match shape.split_first() {
            Some((&rows, sample)) if self.is_sample(sample) => match usize::try_from(rows) {
                Ok(rows) if (1..=most).contains(&rows) => Ok(rows),
                _ => Err(Refused::invalid(format!("a batch of {rows} is not 1 to {most}"))),
            },
            _ => {
                let shape: Vec<_> = shape.iter().take(caps::TENSOR_RANK).collect();
                let (name, expected) = (&self.input.name, self.input.batch(-1));
                Err(Refused::invalid(format!("input `{name}` has shape {expected:?}, not {shape:?}")))
            }
        }
    }

    fn is_sample(&self, shape: &[i64]) -> bool {
        let expected = &self.input.shape;
        shape.len() == expected.len()
            && shape.iter().zip(expected).all(|(&found, &length)| usize::try_from(found) == Ok(length))
    }
}

/// The request's id, if it is one that can be kept.
///
/// # Errors
/// Where it is longer than a name may be.
pub fn checked_id(id: &str) -> Result<(), Refused> {
    match id.len() > caps::NAME_BYTES {
        true => Err(Refused::invalid(format!("the id is over {} bytes", caps::NAME_BYTES))),
        false => Ok(()),
    }
}

/// Floats as little-endian bytes.
pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Floats from little-endian bytes; what is less than one at the end is left out.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(ELEMENT_BYTES).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// What a peer sent, short enough for a refusal.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
