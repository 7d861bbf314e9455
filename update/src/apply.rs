//! Applying an update that is all in memory to a graph that is.

use secateur_common::caps;
use secateur_model::Graph;

use crate::base::Base;
use crate::manifest::Manifest;
use crate::sink::Collector;
use crate::{ApplyError, DecodeError, Decoder};

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
    let payload = bytes.get(manifest.header_bytes()..).ok_or(DecodeError::Truncated)?;
    match payload.len().checked_sub(manifest.payload_bytes()) {
        None => return Err(DecodeError::Truncated.into()),
        Some(0) => {}
        Some(extra) => return Err(DecodeError::Trailing { extra }.into()),
    }
    let held = base.map(|base| base as &dyn Base);
    let mut decoder = Decoder::new(manifest, held, Collector::new(base))?;
    for frame in payload.chunks(caps::FRAME_BYTES) {
        decoder.frame(frame)?;
    }
    let (manifest, collector) = decoder.finish()?;
    Ok(Applied { graph: collector.graph()?, manifest })
}

#[cfg(test)]
mod tests {
    //! Bombs: small updates that promise much. Each is refused before much is allocated.

    use peak_alloc::PeakAlloc;
    use secateur_common::{Digest, Generation, VariantId};

    use super::*;
    use crate::entry::{Change, Context, Entry, Op, Shape};
    use crate::grid::Grid;
    use crate::manifest::{SetsEntry, SkeletonEntry, check};
    use crate::{gap, text};

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

    #[test]
    fn gaps_that_claim_too_much() {
        let grid = Grid::new(1, 0).expect("a grid");
        let op = Op::Gap { grid, context: None };
        for elements in [caps::TENSOR_ELEMENTS, 100 * (1 << 14) + 1] {
            let (manifest, payload) = one(entry(op, elements, 100), &[0; 100]);
            assert!(matches!(
                bomb(manifest, &payload),
                DecodeError::TooLarge { what: "number of elements", .. }
            ));
        }
        // As many as may be, in streams that no encoder makes.
        for byte in 0..=255 {
            let (manifest, payload) = one(entry(op, 100 << 14, 100), &[byte; 100]);
            bomb(manifest, &payload);
        }
    }

    #[test]
    fn a_gap_beyond_the_end() {
        let grid = Grid::new(1, 0).expect("a grid");
        let levels = [0, 3, 0, 0, -5, 0, 0, 0];
        let stream = gap::encode(grid, &levels, None);
        let op = Op::Gap { grid, context: None };
        let of = |elements: usize| Entry {
            nonzeros: Change { before: 0, after: 2 },
            ..entry(op, elements, stream.len())
        };
        for elements in [5, 6, 7, 9, 100] {
            let (manifest, payload) = one(of(elements), &stream);
            bomb(manifest, &payload);
        }
        // The right number is sound: only the promised digest is missing.
        let (mut manifest, payload) = one(of(levels.len()), &stream);
        manifest.frames = vec![check(&payload)];
        let bytes = [manifest.write().as_slice(), &payload].concat();
        assert!(matches!(apply(None, &bytes), Err(ApplyError::WrongResult { .. })));
    }

    #[test]
    fn a_first_file_has_no_gaps() {
        let op = Op::Gap { grid: Grid::new(1, 0).expect("a grid"), context: None };
        let (mut manifest, payload) = one(entry(op, 4, 4), &[0; 4]);
        manifest.format = 1;
        assert!(matches!(bomb(manifest, &payload), DecodeError::Contradiction { .. }));
    }
}
