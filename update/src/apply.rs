//! Applying updates: the base is checked before, the whole result after; nothing is given out before both hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_common::caps;
use secateur_model::{DType, Graph, Tensor, TensorData, canonical};

use crate::bytes::Reader;
use crate::codec::{Known, Models, nonzeros};
use crate::entry::{Context, Entry, Op, Shape, element_count};
use crate::gather::{self, IndexSet};
use crate::manifest::{Manifest, contradiction};
use crate::range::Decoder;
use crate::skeleton::Text;
use crate::{ApplyError, DecodeError, text};

/// What an update made.
#[derive(Debug)]
pub struct Applied {
    /// The target, bit for bit.
    pub graph: Graph,
    /// What the update said of itself.
    pub manifest: Manifest,
}

/// Turns `base` into the update's target. A full update needs no base and ignores one.
///
/// # Errors
/// Where the bytes are no sound update, the base is missing or another one, or the result is not what was promised.
/// The agent checks the generation.
pub fn apply(base: Option<&Graph>, bytes: &[u8]) -> Result<Applied, ApplyError> {
    let manifest = Manifest::read(bytes)?;
    let payload = payload(&manifest, bytes)?;
    let base = match manifest.base {
        None => None,
        Some(expected) => {
            let base = base.ok_or(ApplyError::BaseMissing { expected })?;
            let found = canonical::variant_id(base);
            if found != expected {
                return Err(ApplyError::WrongBase { expected, found });
            }
            Some(base)
        }
    };
    let graph = decode(&manifest, base, payload)?;
    let found = canonical::variant_id(&graph);
    if found != manifest.target {
        return Err(ApplyError::WrongResult { expected: manifest.target, found });
    }
    Ok(Applied { graph, manifest })
}

/// The frames' bytes, all of them checked.
fn payload<'a>(manifest: &Manifest, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let payload = bytes.get(manifest.header_bytes()..).ok_or(DecodeError::Truncated)?;
    match payload.len().checked_sub(manifest.payload_bytes()) {
        None => return Err(DecodeError::Truncated),
        Some(0) => {}
        Some(extra) => return Err(DecodeError::Trailing { extra }),
    }
    for (index, frame) in payload.chunks(caps::FRAME_BYTES).enumerate() {
        manifest.check_frame(index, frame)?;
    }
    Ok(payload)
}

fn decode(manifest: &Manifest, base: Option<&Graph>, payload: &[u8]) -> Result<Graph, ApplyError> {
    let mut streams = Reader(payload);
    let held = base.map(Text::of);
    let text = match (manifest.skeleton, held) {
        (None, Some(held)) => held,
        (None, None) => return Err(contradiction("a full update without a skeleton").into()),
        (Some(entry), held) => {
            let prior = held.map(|held| held.joined()).unwrap_or_default();
            let stream = streams.take(entry.stored)?;
            Text::split(text::decode(&prior, stream, entry.skeleton + entry.names)?, entry.skeleton)
        }
    };
    let names = text.read_names()?;
    if names.len() != manifest.tensors.len() {
        return Err(contradiction("the number of tensors").into());
    }
    let sets = read_sets(manifest, streams.take(manifest.sets.stored)?)?;

    let mut models = Models::new();
    let mut tensors = BTreeMap::new();
    let mut decoded = 0usize;
    for (name, entry) in names.into_iter().zip(&manifest.tensors) {
        let old = base.and_then(|base| base.initializers.get(&name));
        let stream = streams.take(entry.stored)?;
        let tensor = tensor(&mut models, entry, &name, old, &sets, stream)?;
        decoded = decoded.saturating_add(tensor.byte_len());
        if decoded > caps::MODEL_BYTES {
            return Err(DecodeError::TooLarge { what: "decoded size", limit: caps::MODEL_BYTES }.into());
        }
        tensors.insert(name, tensor);
    }
    canonical::assemble(&text.skeleton, tensors).map_err(|error| ApplyError::Graph(error.into()))
}

fn read_sets(manifest: &Manifest, stream: &[u8]) -> Result<Vec<IndexSet>, DecodeError> {
    let mut decoder = Decoder::new(stream);
    let sets = manifest.sets.sizes.iter().map(|&size| IndexSet::code(&mut decoder, size, &[]));
    let sets = sets.collect::<Result<_, _>>()?;
    decoder.finish()?;
    Ok(sets)
}

/// One tensor of the target. `old` is the base's of that name.
fn tensor(
    models: &mut Models,
    entry: &Entry,
    name: &str,
    old: Option<&Tensor>,
    sets: &[IndexSet],
    stream: &[u8],
) -> Result<Tensor, ApplyError> {
    let base = || old.ok_or(contradiction("a tensor that the base does not have"));
    if *entry == Entry::kept() {
        return Ok(base()?.clone());
    }
    let cut = match &entry.shape {
        Shape::Same => Some(base()?.clone()),
        Shape::Given(_) => None,
        Shape::Gathered(axes) => Some(cut(base()?, axes, sets)?),
    };
    let shape = match (&entry.shape, &cut) {
        (Shape::Given(shape), _) => shape.clone(),
        (_, Some(cut)) => cut.shape().to_vec(),
        (_, None) => return Err(contradiction("a tensor's shape").into()),
    };
    if element_count(&shape) != Some(entry.elements) {
        return Err(contradiction("a tensor's number of elements").into());
    }
    let unsound = |source| ApplyError::Tensor { name: name.to_owned(), source };
    if let Op::Raw { dtype } = entry.op {
        return raw_tensor(shape, dtype, stream)?.map_err(unsound);
    }
    let floats = cut.as_ref().and_then(Tensor::as_f32);
    let with = |context: Option<Context>| match (context, floats) {
        (None, _) => Ok(None),
        (Some(context), Some(old)) => Ok(Some(Known { context, old })),
        (Some(_), None) => Err(contradiction("a context that is no floats")),
    };
    let needed = floats.ok_or(contradiction("an old tensor that is no floats"));
    let values = match entry.op {
        Op::Keep => needed?.to_vec(),
        Op::Rule { threshold } => needed?.iter().map(|&old| threshold.rule(old)).collect(),
        Op::Sparse { grid, context } => models.decode_levels(&shape, grid, with(context)?, stream)?,
        Op::Dense { context } => models.decode_floats(&shape, with(context)?, stream)?,
        Op::Raw { .. } => return Err(contradiction("a tensor's operation").into()),
    };
    let tensor = Tensor::f32(shape, values).map_err(unsound)?;
    if entry.nonzeros.before != old.map_or(0, nonzeros) || entry.nonzeros.after != nonzeros(&tensor) {
        return Err(contradiction("a tensor's number of nonzeros").into());
    }
    Ok(tensor)
}

fn cut(old: &Tensor, axes: &[usize], sets: &[IndexSet]) -> Result<Tensor, DecodeError> {
    gather::cut(old, axes, sets).ok_or(contradiction("a gather that does not fit the base"))
}

type RawTensor = Result<Tensor, secateur_model::TensorError>;

fn raw_tensor(shape: Vec<usize>, dtype: DType, stream: &[u8]) -> Result<RawTensor, DecodeError> {
    let size = dtype.size().ok_or(contradiction("an element type"))?;
    let count: usize = shape.iter().product();
    let length = count.checked_mul(size).filter(|&length| length <= caps::MODEL_BYTES);
    let length = length.ok_or(DecodeError::TooLarge { what: "tensor", limit: caps::MODEL_BYTES })?;
    let bytes = text::decode(&[], stream, length)?;
    let data = match dtype {
        DType::F32 => return Err(contradiction("an element type")),
        DType::I64 => {
            let (chunks, _) = bytes.as_chunks();
            TensorData::I64(Arc::new(chunks.iter().map(|&chunk| i64::from_le_bytes(chunk)).collect()))
        }
        _ => TensorData::Other(dtype, Arc::new(bytes)),
    };
    Ok(Tensor::new(shape, data))
}
