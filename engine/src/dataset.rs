//! Inputs, with labels or without, as `.npz` holds them. Bytes from outside: lengths are checked before allocation.

use std::io::{Cursor, Read};
use std::ops::Range;

use secateur_common::caps;
use secateur_model::{Tensor, TensorError};

/// Inputs `x` `[N, …]` and, where there are some, labels `y` `[N]`.
#[derive(Clone, Debug)]
pub struct Dataset {
    inputs: Tensor,
    labels: Option<Vec<i64>>,
}

/// A header of an array, at most, in bytes.
const HEADER_BYTES: usize = 4096;

/// What is wrong with a `.npz`.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DatasetError {
    #[error("it is no .npz archive")]
    Archive(#[from] zip::result::ZipError),
    #[error("its array `{0}` is missing")]
    Missing(&'static str),
    #[error("its array `{name}` cannot be read: {problem}")]
    Bad { name: &'static str, problem: String },
    #[error("it decompresses to more than {0} bytes")]
    TooLarge(usize),
    #[error("it has {inputs} inputs and {labels} labels")]
    Unequal { inputs: usize, labels: usize },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl Dataset {
    /// Reads `x` (float32, or uint8 which is scaled by 1/255) and, where it is there, `y` (int64).
    ///
    /// # Errors
    /// Where it is no such archive or is over a cap.
    pub fn from_npz(bytes: &[u8]) -> Result<Self, DatasetError> {
        let x = entry(bytes, "x")?.ok_or(DatasetError::Missing("x"))?;
        let inputs = inputs(&x)?;
        let count = inputs.shape()[0];
        let labels = entry(bytes, "y")?.map(|y| labels(&y)).transpose()?;
        match &labels {
            Some(labels) if labels.len() != count => {
                Err(DatasetError::Unequal { inputs: count, labels: labels.len() })
            }
            _ => Ok(Self { inputs, labels }),
        }
    }

    /// All inputs, `[N, …]`.
    pub fn inputs(&self) -> Tensor {
        self.inputs.clone()
    }

    /// The labels, where there are some.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// How many inputs.
    pub fn len(&self) -> usize {
        self.inputs.shape()[0]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of one input, without the batch.
    pub fn sample_shape(&self) -> &[usize] {
        &self.inputs.shape()[1..]
    }

    /// One input.
    pub fn sample(&self, index: usize) -> &[f32] {
        let size: usize = self.sample_shape().iter().product();
        self.inputs.as_f32().and_then(|all| all.get(index * size..(index + 1) * size)).unwrap_or_default()
    }

    /// The inputs of `range`, with their labels.
    #[must_use]
    pub fn subset(&self, range: Range<usize>) -> Self {
        let keep: Vec<usize> = range.filter(|&index| index < self.len()).collect();
        let labels = self.labels.as_ref().map(|labels| keep.iter().map(|&index| labels[index]).collect());
        Self { inputs: self.inputs.gathered(0, &keep), labels }
    }

    /// The same inputs with other labels.
    ///
    /// # Panics
    /// Where there are not as many labels as inputs.
    #[must_use]
    pub fn labelled(self, labels: Vec<i64>) -> Self {
        assert_eq!(labels.len(), self.len(), "a label an input");
        Self { labels: Some(labels), ..self }
    }
}

fn entry(bytes: &[u8], name: &'static str) -> Result<Option<Vec<u8>>, DatasetError> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes))?;
    let file = match archive.by_name(&format!("{name}.npy")) {
        Ok(file) => file,
        Err(zip::result::ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut content = Vec::new();
    let bad = |error: std::io::Error| DatasetError::Bad { name, problem: error.to_string() };
    file.take(caps::DATASET_BYTES as u64 + 1).read_to_end(&mut content).map_err(bad)?;
    if content.len() > caps::DATASET_BYTES {
        return Err(DatasetError::TooLarge(caps::DATASET_BYTES));
    }
    Ok(Some(content))
}

fn open<'a>(
    npy: &'a [u8],
    name: &'static str,
) -> Result<(npyz::NpyFile<&'a [u8]>, Vec<usize>), DatasetError> {
    let bad = |problem: String| DatasetError::Bad { name, problem };
    // The header's own length is believed by the reader, so it is checked before.
    let length = match (npy.get(6), npy.get(8..12)) {
        (Some(1), Some(&[a, b, _, _])) => usize::from(u16::from_le_bytes([a, b])),
        (Some(2 | 3), Some(&[a, b, c, d])) => u32::from_le_bytes([a, b, c, d]) as usize,
        _ => return Err(bad("it is no .npy array".into())),
    };
    if length > HEADER_BYTES {
        return Err(bad(format!("its header has {length} bytes, over the limit of {HEADER_BYTES}")));
    }
    let file = npyz::NpyFile::new(npy).map_err(|error| bad(error.to_string()))?;
    if file.order() != npyz::Order::C {
        return Err(bad("its elements are in Fortran order".into()));
    }
    let shape: Vec<usize> = file.shape().iter().map(|&length| length as usize).collect();
    let elements = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
    if elements.is_none_or(|elements| elements > npy.len()) || shape.is_empty() {
        return Err(bad(format!("its shape {shape:?} is not what its bytes hold")));
    }
    Ok((file, shape))
}

fn inputs(npy: &[u8]) -> Result<Tensor, DatasetError> {
    let (file, shape) = open(npy, "x")?;
    let bad = |problem: String| DatasetError::Bad { name: "x", problem };
    let values = match file.dtype().descr().trim_matches('\'') {
        "|u1" => {
            let bytes: Vec<u8> = file.into_vec().map_err(|error| bad(error.to_string()))?;
            bytes.into_iter().map(|byte| f32::from(byte) / 255.0).collect()
        }
        "<f4" => file.into_vec::<f32>().map_err(|error| bad(error.to_string()))?,
        other => return Err(bad(format!("its elements are {other}, not float32 or uint8"))),
    };
    Ok(Tensor::f32(shape, values)?)
}

fn labels(npy: &[u8]) -> Result<Vec<i64>, DatasetError> {
    let (file, _) = open(npy, "y")?;
    file.into_vec().map_err(|error| DatasetError::Bad { name: "y", problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALIDATION: &[u8] = include_bytes!("../../examples/validation.npz");

    #[test]
    fn images_are_scaled_and_labelled() {
        let data = Dataset::from_npz(VALIDATION).unwrap();
        assert_eq!((data.len(), data.sample_shape()), (800, &[1, 28, 28][..]));
        assert!(data.inputs().as_f32().unwrap().iter().all(|value| (0.0..=1.0).contains(value)));
        let part = data.subset(10..20);
        assert_eq!(part.labels().unwrap(), &data.labels().unwrap()[10..20]);
        assert_eq!(part.sample(0), data.sample(10));
    }

    #[test]
    fn damaged_archives_are_an_error() {
        for length in (0..VALIDATION.len()).step_by(9973) {
            assert!(Dataset::from_npz(&VALIDATION[..length]).is_err(), "{length}");
        }
        for at in (0..VALIDATION.len()).step_by(49_999) {
            let mut bytes = VALIDATION.to_vec();
            bytes[at] ^= 0x10;
            // Whatever it says, it does not panic: a checksum catches most flips, others are in unused fields.
            let _ = Dataset::from_npz(&bytes);
        }
    }
}
