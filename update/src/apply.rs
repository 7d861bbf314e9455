//! Applying updates: the base is checked before, the whole result after; nothing is given out before both hold.

use std::collections::BTreeMap;

use secateur_common::caps;
use secateur_model::{Graph, Tensor, canonical};

use crate::bytes::Reader;
use crate::codec::{Known, Models, nonzeros};
use crate::entry::{Context, Entry, Op, Shape, element_count};
use crate::gather::{self, IndexSet};
use crate::manifest::{Manifest, contradiction};
use crate::range::Decoder;
use crate::skeleton::Text;
use crate::{ApplyError, DecodeError, raw, text};

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
        let data = raw::decode(dtype, entry.elements, stream)?;
        return Tensor::new(shape, data).map_err(unsound);
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

#[cfg(test)]
mod tests {
    //! Bombs: small updates that promise much. Each is refused before much is allocated.

    use peak_alloc::PeakAlloc;
    use secateur_common::{Digest, Generation, VariantId};

    use super::*;
    use crate::entry::Change;
    use crate::grid::Grid;
    use crate::manifest::{SetsEntry, SkeletonEntry, check};

    #[global_allocator]
    static ALLOCATOR: PeakAlloc = PeakAlloc;

    /// All tests of this room run beside each other; none of them needs as much.
    const MEMORY_MB: f32 = 96.0;

    fn full() -> Manifest {
        let mut manifest = Manifest::new(None, VariantId(Digest::of(b"bomb")), Generation(1));
        manifest.skeleton = Some(SkeletonEntry { skeleton: 0, names: 0, stored: 0 });
        manifest
    }

    fn bomb(mut manifest: Manifest, payload: &[u8]) -> DecodeError {
        manifest.frames = payload.chunks(caps::FRAME_BYTES).map(check).collect();
        let bytes = [manifest.write().as_slice(), payload].concat();
        ALLOCATOR.reset_peak_usage();
        let error = apply(None, &bytes).expect_err("a bomb");
        assert!(ALLOCATOR.peak_usage_as_mb() < MEMORY_MB, "{} MB", ALLOCATOR.peak_usage_as_mb());
        match error {
            ApplyError::Decode(error) => error,
            other => panic!("{other}"),
        }
    }

    fn entry(op: Op, elements: usize, stored: usize) -> Entry {
        Entry { op, shape: Shape::Given(vec![elements]), elements, nonzeros: Change::default(), stored }
    }

    /// A full update of one tensor called `w`.
    fn one(entry: Entry, stream: &[u8]) -> (Manifest, Vec<u8>) {
        let text = text::encode(&[], b"\x01w");
        let mut manifest = full();
        manifest.skeleton = Some(SkeletonEntry { skeleton: 0, names: 2, stored: text.len() });
        manifest.tensors = vec![entry];
        (manifest, [text.as_slice(), stream].concat())
    }

    #[test]
    fn a_tensor_without_bytes() {
        let grid = Grid::new(1, 0).expect("a grid");
        for op in [Op::Sparse { grid, context: None }, Op::Dense { context: None }] {
            let (manifest, payload) = one(entry(op, caps::TENSOR_ELEMENTS, 3), &[0, 0, 0]);
            assert_eq!(bomb(manifest, &payload), DecodeError::StreamEnd);
        }
        let op = Op::Raw { dtype: secateur_model::DType(2) };
        let (manifest, payload) = one(entry(op, caps::TENSOR_ELEMENTS, 3), &[0, 0, 0]);
        assert_eq!(bomb(manifest, &payload), DecodeError::StreamEnd);
    }

    #[test]
    fn tensors_beyond_the_cap() {
        let mut manifest = full();
        manifest.tensors = vec![entry(Op::Dense { context: None }, caps::TENSOR_ELEMENTS, 1); 5];
        assert!(matches!(bomb(manifest, &[]), DecodeError::TooLarge { what: "decoded size", .. }));
        let mut manifest = full();
        manifest.tensors = vec![entry(Op::Dense { context: None }, caps::TENSOR_ELEMENTS + 1, 1)];
        assert!(matches!(bomb(manifest, &[]), DecodeError::TooLarge { .. }));
        let mut manifest = full();
        let shape = Shape::Given(vec![caps::TENSOR_ELEMENTS; 8]);
        manifest.tensors = vec![Entry { shape, ..entry(Op::Dense { context: None }, 1, 1) }];
        assert!(matches!(bomb(manifest, &[]), DecodeError::TooLarge { what: "tensor", .. }));
    }

    #[test]
    fn texts_and_sets_without_bytes() {
        let mut manifest = full();
        manifest.skeleton = Some(SkeletonEntry { skeleton: caps::SKELETON_BYTES, names: 0, stored: 2 });
        assert_eq!(bomb(manifest, &[0, 0]), DecodeError::StreamEnd);
        let mut manifest = full();
        manifest.skeleton = Some(SkeletonEntry { skeleton: usize::MAX / 2, names: 0, stored: 2 });
        assert!(matches!(bomb(manifest, &[0, 0]), DecodeError::TooLarge { what: "skeleton", .. }));
        for sizes in [vec![(1 << 18, 1 << 17)], vec![(1 << 18, 1 << 17); 5], vec![(1 << 30, 1)], vec![(2, 3)]]
        {
            let mut manifest = full();
            manifest.sets = SetsEntry { sizes, stored: 1 };
            bomb(manifest, &[7]);
        }
    }

    #[test]
    fn streams_longer_than_the_file() {
        for stored in [100, caps::UPDATE_BYTES, usize::MAX / 4] {
            let (manifest, payload) = one(entry(Op::Dense { context: None }, 4, stored), &[]);
            bomb(manifest, &payload);
        }
    }

    #[test]
    fn a_full_update_cannot_refer_to_a_base() {
        let grid = Grid::new(1, 0).expect("a grid");
        let context = Some(Context { threshold: None, strict: true });
        let entries = [
            Entry::kept(),
            Entry { shape: Shape::Same, ..entry(Op::Dense { context: None }, 4, 1) },
            entry(Op::Sparse { grid, context }, 4, 1),
        ];
        for entry in entries {
            let (manifest, payload) = one(entry, &[0]);
            assert!(matches!(bomb(manifest, &payload), DecodeError::Contradiction { .. }));
        }
    }
}
