//! Making updates: for each tensor every operation that gives it exactly is tried, and the cheapest is kept.

use secateur_common::{Generation, caps};
use secateur_model::{DType, Graph, Tensor, TensorData, canonical};

use crate::base::Base;
use crate::codec::Models;
use crate::entry::element_count;
use crate::gather::{self, Gathers, IndexSet};
use crate::manifest::{Manifest, SkeletonEntry, check};
use crate::range::Encoder;
use crate::sink::tensor_data;
use crate::skeleton::Text;
use crate::tensor::{Old, cheapest};
use crate::{AccessError, DecodeError, EncodeError, StoreError, text};

/// The update that turns `base` into `target`, exactly; without a base, the full one. It is small where `target` is
/// [published](crate::publish) and resembles `base`.
///
/// # Errors
/// Where `target` is over a limit that decoders enforce.
pub fn encode(base: Option<&Graph>, target: &Graph, generation: Generation) -> Result<Vec<u8>, EncodeError> {
    check_limits(target)?;
    let mut manifest =
        Manifest::new(base.map(canonical::variant_id), canonical::variant_id(target), generation);
    let mut bytes = Vec::new();
    let mut payload = Payload::new(|frame: &[u8]| {
        bytes.extend_from_slice(frame);
        Ok(())
    });
    let text = Text::of(target);
    let held = base.map(|base| Text::of(base));
    if held.as_ref() != Some(&text) {
        let (entry, stream) = text_entry(&held.map(|held| held.joined()).unwrap_or_default(), &text)?;
        manifest.skeleton = Some(entry);
        payload.push(&stream).map_err(in_memory)?;
    }

    let gathers = base.map(|base| gather::find(base, target)).unwrap_or_default();
    let sets = coded_sets(&gathers.sets);
    manifest.sets.sizes = gathers.sets.iter().map(|set| (set.base, set.kept.len())).collect();
    manifest.sets.stored = sets.len();
    payload.push(&sets).map_err(in_memory)?;

    let mut models = Models::default();
    for (name, tensor) in &target.initializers {
        let (entry, stream) = cheapest(&mut models, &Old::of(base, &gathers, name, tensor), tensor);
        manifest.tensors.push(entry);
        payload.push(&stream).map_err(in_memory)?;
    }
    manifest.frames = payload.finish().map_err(in_memory)?;
    let mut update = manifest.write();
    update.extend(bytes);
    Ok(update)
}

/// The same update for another generation.
///
/// # Errors
/// Where the bytes are no update.
pub fn with_generation(update: &[u8], generation: Generation) -> Result<Vec<u8>, DecodeError> {
    let mut manifest = Manifest::read(update)?;
    let payload = &update[manifest.header_bytes()..];
    manifest.generation = generation;
    Ok([&manifest.write(), payload].concat())
}

/// The full update of a variant that is read tensor by tensor, as a device stores it: the same bytes as
/// [`encode`] makes of it without a base. `frame` is given the frames in order; the manifest, which comes before them in
/// a file, is known last and is the result. Memory: one tensor, what it becomes, and the manifest.
///
/// # Errors
/// Where the variant is over a limit, cannot be read, or a frame not be taken.
pub fn store(
    target: &dyn Base,
    generation: Generation,
    frame: impl FnMut(&[u8]) -> Result<(), AccessError>,
) -> Result<Vec<u8>, StoreError> {
    let mut manifest = Manifest::new(None, target.variant_id(), generation);
    let mut payload = Payload::new(frame);
    let text = Text::of(target);
    let (entry, stream) = text_entry(&[], &text)?;
    manifest.skeleton = Some(entry);
    payload.push(&stream)?;
    manifest.sets.stored = coded_sets(&[]).len();
    payload.push(&coded_sets(&[]))?;
    let names = target.names();
    limit("number of tensors", names.len(), caps::GRAPH_TENSORS)?;
    let (mut models, mut decoded) = (Models::default(), 0usize);
    for name in names {
        let tensor = read(target, name)?;
        decoded = decoded.saturating_add(tensor.byte_len());
        limit("decoded size", decoded, caps::MODEL_BYTES)?;
        let (entry, stream) =
            cheapest(&mut models, &Old::of(None, &Gathers::default(), name, &tensor), &tensor);
        manifest.tensors.push(entry);
        payload.push(&stream)?;
    }
    manifest.frames = payload.finish()?;
    Ok(manifest.write())
}

/// A whole tensor of a variant.
fn read(variant: &dyn Base, name: &str) -> Result<Tensor, StoreError> {
    let unreadable = |what: &str| StoreError::Read(format!("tensor `{name}` {what}").into());
    let (dtype, shape) = variant.tensor(name).ok_or_else(|| unreadable("is not there"))?;
    let elements = element_count(shape).ok_or_else(|| unreadable("is too large"))?;
    let data = if dtype == DType::F32 {
        let mut values = vec![0.0; elements];
        variant.floats(name, 0, &mut values).map_err(StoreError::Read)?;
        TensorData::F32(values.into())
    } else {
        let size = dtype.size().ok_or_else(|| unreadable("is of an unknown type"))?;
        let mut bytes = vec![0; elements * size];
        variant.bytes(name, 0, &mut bytes).map_err(StoreError::Read)?;
        tensor_data(dtype, bytes)
    };
    Tensor::new(shape.to_vec(), data).map_err(|error| StoreError::Read(error.into()))
}

/// The payload in frames, each given away as soon as it is whole.
struct Payload<F> {
    frame: F,
    pending: Vec<u8>,
    bytes: usize,
    checks: Vec<[u8; 8]>,
}

impl<F: FnMut(&[u8]) -> Result<(), AccessError>> Payload<F> {
    fn new(frame: F) -> Self {
        Self { frame, pending: Vec::new(), bytes: 0, checks: Vec::new() }
    }

    fn push(&mut self, mut stream: &[u8]) -> Result<(), StoreError> {
        self.bytes += stream.len();
        limit("payload", self.bytes, caps::UPDATE_BYTES)?;
        while !stream.is_empty() {
            let (now, rest) = stream.split_at(stream.len().min(caps::FRAME_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            stream = rest;
            if self.pending.len() == caps::FRAME_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.checks.push(check(&self.pending));
        (self.frame)(&self.pending).map_err(StoreError::Write)?;
        self.pending.clear();
        Ok(())
    }

    /// The checks of all frames.
    fn finish(mut self) -> Result<Vec<[u8; 8]>, StoreError> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        Ok(self.checks)
    }
}

/// Memory takes every frame: only limits are left.
fn in_memory(error: StoreError) -> EncodeError {
    match error {
        StoreError::Encode(error) => error,
        StoreError::Read(_) | StoreError::Write(_) => unreachable!("a graph in memory is read and written"),
    }
}

/// The carried text after `prior`, and its stream.
fn text_entry(prior: &[u8], text: &Text) -> Result<(SkeletonEntry, Vec<u8>), EncodeError> {
    limit("skeleton", text.skeleton.len(), caps::SKELETON_BYTES)?;
    limit("name table", text.names.len(), caps::SKELETON_BYTES)?;
    let stream = text::encode(prior, &text.joined());
    let entry =
        SkeletonEntry { skeleton: text.skeleton.len(), names: text.names.len(), stored: stream.len() };
    Ok((entry, stream))
}

fn check_limits(target: &Graph) -> Result<(), EncodeError> {
    limit("number of tensors", target.initializers.len(), caps::GRAPH_TENSORS)?;
    limit("decoded size", target.initializers.values().map(Tensor::byte_len).sum(), caps::MODEL_BYTES)
}

fn limit(what: &'static str, value: usize, limit: usize) -> Result<(), EncodeError> {
    if value > limit { Err(EncodeError::TooLarge { what, limit }) } else { Ok(()) }
}

fn coded_sets(sets: &[IndexSet]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    for set in sets {
        IndexSet::new(set.base).code(&mut encoder, &mut 0, set.kept.len(), &set.kept);
    }
    encoder.finish()
}
