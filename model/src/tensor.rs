//! Dense tensors: initializers, activations, calibration batches.

use std::sync::Arc;

use secateur_common::caps;

/// An element type, by ONNX's `TensorProto.DataType` code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DType(pub i32);

impl DType {
    /// 32-bit float.
    pub const F32: Self = Self(1);
    /// 64-bit signed integer.
    pub const I64: Self = Self(7);

    /// Bytes of one element; `None` for strings and types unknown or narrower than a byte.
    pub fn size(self) -> Option<usize> {
        match self.0 {
            2 | 3 | 9 => Some(1),        // u8, i8, bool
            4 | 5 | 10 | 16 => Some(2),  // u16, i16, f16, bf16
            1 | 6 | 12 => Some(4),       // f32, i32, u32
            7 | 11 | 13 | 14 => Some(8), // i64, f64, u64, complex64
            _ => None,
        }
    }
}

/// The elements of a tensor, row-major. Shared: a clone costs nothing, a write copies where it must.
#[derive(Clone, PartialEq, Debug)]
pub enum TensorData {
    /// 32-bit floats.
    F32(Arc<Vec<f32>>),
    /// 64-bit integers (shapes, axes, indices).
    I64(Arc<Vec<i64>>),
    /// Any other type, as little-endian bytes; carried, not computed with.
    Other(DType, Arc<Vec<u8>>),
}

/// A shape and as many elements as it asks for. The empty shape is a scalar.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    data: TensorData,
}

/// Why a shape and its elements make no tensor.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TensorError {
    #[error("shape {shape:?} asks for another number of elements than the {found} that are there")]
    WrongLength { shape: Vec<usize>, found: usize },
    #[error(
        "shape {shape:?} is over the limits of {} dimensions and {} elements",
        caps::TENSOR_RANK,
        caps::TENSOR_ELEMENTS
    )]
    TooLarge { shape: Vec<usize> },
    #[error("element type {0} is not supported")]
    UnsupportedType(i32),
}

/// The number of elements of `shape`, where it is within the caps: those of an empty shape hold for its other
/// dimensions, since code walks them one by one.
///
/// # Errors
/// [`TensorError::TooLarge`].
pub(crate) fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    let too_large =
        || TensorError::TooLarge { shape: shape.iter().take(caps::TENSOR_RANK).copied().collect() };
    if shape.len() > caps::TENSOR_RANK {
        return Err(too_large());
    }
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim.max(1)));
    let count = count.filter(|&count| count <= caps::TENSOR_ELEMENTS).ok_or_else(too_large)?;
    Ok(if shape.contains(&0) { 0 } else { count })
}

impl Tensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// Where `data` has not as many elements as `shape` asks for, or the shape is over a cap.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Result<Self, TensorError> {
        let found = match &data {
            TensorData::F32(values) => values.len(),
            TensorData::I64(values) => values.len(),
            TensorData::Other(dtype, bytes) => {
                let size = dtype.size().ok_or(TensorError::UnsupportedType(dtype.0))?;
                if bytes.len() % size != 0 {
                    return Err(TensorError::WrongLength { shape, found: bytes.len() });
                }
                bytes.len() / size
            }
        };
        if element_count(&shape)? != found {
            return Err(TensorError::WrongLength { shape, found });
        }
        Ok(Self { shape, data })
    }

    /// A float tensor.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Result<Self, TensorError> {
        Self::new(shape.into(), TensorData::F32(Arc::new(values)))
    }

    /// An integer tensor.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn i64(shape: impl Into<Vec<usize>>, values: Vec<i64>) -> Result<Self, TensorError> {
        Self::new(shape.into(), TensorData::I64(Arc::new(values)))
    }

    /// The lengths of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match &self.data {
            TensorData::F32(_) => DType::F32,
            TensorData::I64(_) => DType::I64,
            TensorData::Other(dtype, _) => *dtype,
        }
    }

    /// The floats, if that is what it holds.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(values) => Some(values),
            _ => None,
        }
    }

    /// The floats for writing; copies them first if they are shared.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        match &mut self.data {
            TensorData::F32(values) => Some(Arc::make_mut(values).as_mut_slice()),
            _ => None,
        }
    }

    /// The integers, if that is what it holds.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.data {
            TensorData::I64(values) => Some(values),
            _ => None,
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// Where the shape asks for another number of elements.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Result<Self, TensorError> {
        Self::new(shape.into(), self.data.clone())
    }

    /// Bytes of the elements.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            TensorData::F32(values) => values.len() * 4,
            TensorData::I64(values) => values.len() * 8,
            TensorData::Other(_, bytes) => bytes.len(),
        }
    }

    /// `parts` joined along `axis`; their other axes are equal.
    ///
    /// # Errors
    /// Where the parts do not fit each other, or the result is over a cap.
    pub fn concatenated(parts: &[&Self], axis: usize) -> Result<Self, TensorError> {
        let first = parts.first().ok_or(TensorError::TooLarge { shape: Vec::new() })?;
        let mut shape = first.shape.clone();
        shape[axis] = parts.iter().map(|part| part.shape[axis]).fold(0, usize::saturating_add);
        element_count(&shape)?;
        let outer: usize = shape[..axis].iter().product();
        fn join<T: Copy>(outer: usize, parts: &[&[T]]) -> Vec<T> {
            let mut joined = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
            for o in 0..outer {
                for part in parts {
                    let length = part.len() / outer;
                    joined.extend_from_slice(&part[o * length..(o + 1) * length]);
                }
            }
            joined
        }
        let mismatch = || TensorError::WrongLength { shape: shape.clone(), found: 0 };
        let data = match &first.data {
            TensorData::F32(_) => {
                let slices: Option<Vec<_>> = parts.iter().map(|part| part.as_f32()).collect();
                TensorData::F32(Arc::new(join(outer, &slices.ok_or_else(mismatch)?)))
            }
            TensorData::I64(_) => {
                let slices: Option<Vec<_>> = parts.iter().map(|part| part.as_i64()).collect();
                TensorData::I64(Arc::new(join(outer, &slices.ok_or_else(mismatch)?)))
            }
            TensorData::Other(dtype, _) => {
                let bytes = |part: &&Self| match &part.data {
                    TensorData::Other(other, bytes) if other == dtype => Some(bytes.clone()),
                    _ => None,
                };
                let owned: Vec<_> = parts.iter().map(bytes).collect::<Option<_>>().ok_or_else(mismatch)?;
                let slices: Vec<&[u8]> = owned.iter().map(|bytes| bytes.as_slice()).collect();
                TensorData::Other(*dtype, Arc::new(join(outer, &slices)))
            }
        };
        Self::new(shape, data)
    }

    /// The elements at `indices` (into the row-major order), under a new shape.
    ///
    /// # Panics
    /// Where an index is out of range, or there are not as many as the shape asks for.
    #[must_use]
    pub fn picked(&self, shape: Vec<usize>, indices: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), indices.len(), "as many indices as the shape asks for");
        let data = match &self.data {
            TensorData::F32(values) => {
                TensorData::F32(Arc::new(indices.iter().map(|&i| values[i]).collect()))
            }
            TensorData::I64(values) => {
                TensorData::I64(Arc::new(indices.iter().map(|&i| values[i]).collect()))
            }
            TensorData::Other(dtype, bytes) => {
                let size = dtype.size().unwrap_or(1);
                let element = |&i: &usize| &bytes[i * size..(i + 1) * size];
                TensorData::Other(*dtype, Arc::new(indices.iter().flat_map(element).copied().collect()))
            }
        };
        Self { shape, data }
    }

    /// The indices `keep` along `axis`, in that order (ONNX `Gather` with a constant index).
    ///
    /// # Panics
    /// Where `axis` or an index is out of range.
    #[must_use]
    pub fn gathered(&self, axis: usize, keep: &[usize]) -> Self {
        let outer: usize = self.shape[..axis].iter().product();
        let inner: usize = self.shape[axis + 1..].iter().product();
        let length = self.shape[axis];
        assert!(keep.iter().all(|&index| index < length), "index out of range");
        fn pick<T: Clone>(
            values: &[T],
            outer: usize,
            length: usize,
            inner: usize,
            keep: &[usize],
        ) -> Arc<Vec<T>> {
            let mut picked = Vec::with_capacity(outer * keep.len() * inner);
            for o in 0..outer {
                for &k in keep {
                    let start = (o * length + k) * inner;
                    picked.extend_from_slice(&values[start..start + inner]);
                }
            }
            Arc::new(picked)
        }
        let data = match &self.data {
            TensorData::F32(values) => TensorData::F32(pick(values, outer, length, inner, keep)),
            TensorData::I64(values) => TensorData::I64(pick(values, outer, length, inner, keep)),
            TensorData::Other(dtype, bytes) => {
                let size = dtype.size().unwrap_or(1);
                TensorData::Other(*dtype, pick(bytes, outer, length, inner * size, keep))
            }
        };
        let mut shape = self.shape.clone();
        shape[axis] = keep.len();
        Self { shape, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_fit_its_elements() {
        assert!(Tensor::f32([2, 3], vec![0.0; 6]).is_ok());
        assert!(Tensor::f32([2, 3], vec![0.0; 5]).is_err());
        assert!(Tensor::f32([usize::MAX, 2], vec![]).is_err());
        assert!(Tensor::f32([1; 9], vec![0.0]).is_err());
        assert!(Tensor::f32([1 << 40, 0], vec![]).is_err(), "empty, but as long as no tensor may be");
        assert!(Tensor::f32([3, 0], vec![]).is_ok());
        assert_eq!(Tensor::f32([], vec![1.0]).unwrap().len(), 1);
    }

    #[test]
    fn gathering_picks_along_an_axis() {
        let tensor = Tensor::i64([2, 3, 2], (0..12).collect()).unwrap();
        let picked = tensor.gathered(1, &[2, 0]);
        assert_eq!(picked.shape(), [2, 2, 2]);
        assert_eq!(picked.as_i64().unwrap(), [4, 5, 0, 1, 10, 11, 6, 7]);
    }
}
