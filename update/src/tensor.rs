//! One tensor's way into an update: every operation that gives it exactly, and of them the cheapest.

use std::borrow::Cow;

use secateur_model::{Graph, Tensor};

use crate::codec::{Known, Models, nonzeros};
use crate::entry::{Change, Context, Entry, Op, Shape, max_gap_elements};
use crate::gather::{self, Gathers};
use crate::grid::Grid;
use crate::refit::{self, Refitted};
use crate::{gap, raw, threshold};

/// The base's tensor of a name.
pub(crate) struct Old<'a> {
    nonzeros: u64,
    /// Where the new shape can be had from it: how, and the tensor so cut.
    cut: Option<(Shape, Tensor)>,
    /// What was gathered from what.
    gathered: Option<(&'a Gathers, &'a Tensor)>,
}

impl<'a> Old<'a> {
    pub(crate) fn of(base: Option<&'a Graph>, gathers: &'a Gathers, name: &str, new: &Tensor) -> Self {
        let Some(old) = base.and_then(|base| base.initializers.get(name)) else {
            return Self { nonzeros: 0, cut: None, gathered: None };
        };
        let cut = match gathers.axes.get(name) {
            _ if old.shape() == new.shape() => Some((Shape::Same, old.clone())),
            None => None,
            Some(axes) => {
                gather::cut(old, axes, &gathers.sets).map(|cut| (Shape::Gathered(axes.clone()), cut))
            }
        };
        Self { nonzeros: nonzeros(old), cut, gathered: Some((gathers, old)) }
    }

    fn floats(&self) -> Option<(&Shape, &[f32])> {
        self.cut.as_ref().and_then(|(shape, cut)| Some((shape, cut.as_f32()?)))
    }

    /// What the old tensor comes to under the best map from what went to what stays, if that is near to `new`.
    fn refitted(&self, new: &Tensor, grid: &Grid) -> Option<Refitted> {
        let (Some((Shape::Gathered(axes), _)), Some((gathers, old))) = (&self.cut, self.gathered) else {
            return None;
        };
        refit::find(gathers, axes, old, new, grid.step())
    }
}

/// The entry of `new` and its stream. The models learn what the decoder's will.
pub(crate) fn cheapest(models: &mut Models, old: &Old<'_>, new: &Tensor) -> (Entry, Vec<u8>) {
    if let Some(entry) = derived(old, new) {
        return (entry, Vec::new());
    }
    let given = match &old.cut {
        Some((Shape::Same, _)) => Shape::Same,
        _ => Shape::Given(new.shape().to_vec()),
    };
    let Some(values) = new.as_f32() else {
        let stream = raw::encode(new);
        return (entry(Op::Raw { dtype: new.dtype() }, given, old, new, stream.len()), stream);
    };
    let grid = Grid::of(values);
    let refitted = grid.as_ref().and_then(|(grid, _)| old.refitted(new, grid));
    let known = |old| Some(Known { context: threshold::context(old, values), old });
    let mut starts = vec![Start::new(models, given, None)];
    starts.extend(old.floats().map(|(shape, old)| Start::new(models, shape.clone(), known(old))));
    starts.extend(refitted.as_ref().map(|refitted| {
        Start::new(models, refitted.shape.clone(), known(&refitted.values)).with_map(refitted)
    }));
    let mut best: Option<(Entry, Vec<u8>, Models)> = None;
    let bytes = |entry: &Entry, stream: &[u8]| entry.written_bytes() + stream.len();
    for Start { shape, known, map, models } in starts.into_iter().rev() {
        let limit = best.as_ref().map_or(usize::MAX, |best| bytes(&best.0, &best.1));
        for (op, stream, learnt) in coded(&models, (new.shape(), values), grid.as_ref(), known, limit) {
            let entry = entry(op, shape.clone(), old, new, stream.len());
            let stream = [&map[..], &stream].concat();
            // Of two that cost the same, the one without a context.
            let cost = |entry: &Entry, stream: &[u8]| (bytes(entry, stream), entry.op.context().is_some());
            if best.as_ref().is_none_or(|best| cost(&entry, &stream) < cost(&best.0, &best.1)) {
                best = Some((entry, stream, learnt));
            }
        }
    }
    let (entry, stream, learnt) = best.expect("without a limit `coded` gives at least one way");
    *models = learnt;
    (entry, stream)
}

/// What a tensor may be coded from: the shape and what is known with it, what is told beforehand, and the models then.
struct Start<'a> {
    shape: Shape,
    known: Option<Known<'a>>,
    map: Vec<u8>,
    models: Cow<'a, Models>,
}

impl<'a> Start<'a> {
    fn new(models: &'a Models, shape: Shape, known: Option<Known<'a>>) -> Self {
        Self { shape, known, map: Vec::new(), models: Cow::Borrowed(models) }
    }

    /// Tells the map of a refit first.
    fn with_map(mut self, refitted: &Refitted) -> Self {
        if let Shape::Refitted(_, map) = &mut self.shape {
            self.map = self.models.to_mut().encode_map(&refitted.levels, refitted.columns);
            map.stored = self.map.len();
        }
        self
    }
}

/// The tensor as it is held already, cut or under a threshold, where that gives it bit for bit.
fn derived(old: &Old<'_>, new: &Tensor) -> Option<Entry> {
    let (shape, cut) = old.cut.as_ref()?;
    if same_bits(cut, new) {
        return Some(match shape {
            Shape::Same => Entry::kept(),
            _ => entry(Op::Keep, shape.clone(), old, new, 0),
        });
    }
    let threshold = threshold::rule(cut.as_f32()?, new.as_f32()?)?;
    Some(entry(Op::Rule { threshold }, shape.clone(), old, new, 0))
}

/// Levels of tensors of more elements than this are coded by the gap coder: some percent more bytes, many times the speed.
const GAP_ELEMENTS: usize = 1 << 20;
/// Tensors up to this size are tried as exact floats even if they lie on a grid.
const SMALL: usize = 64;

/// The values as levels of a grid, if they lie on one, and as exact floats; what comes to more than `limit` bytes is
/// given up on the way.
fn coded(
    models: &Models,
    (shape, values): (&[usize], &[f32]),
    grid: Option<&(Grid, Vec<i32>)>,
    known: Option<Known<'_>>,
    limit: usize,
) -> Vec<(Op, Vec<u8>, Models)> {
    let mut ways = Vec::new();
    if let Some(way) = grid.and_then(|(grid, levels)| gap_coded(*grid, levels, known)) {
        return vec![(way.0, way.1, models.clone())];
    }
    if let Some((grid, levels)) = grid {
        let mut models = models.clone();
        let stream = models.encode_levels(shape, (*grid, levels), known, limit);
        let op = Op::Sparse { grid: *grid, context: known.map(|known| known.context) };
        ways.extend(stream.map(|stream| (op, stream, models)));
    }
    if grid.is_none() || values.len() <= SMALL {
        let known = known.map(|known| Known { context: Context { strict: false, ..known.context }, ..known });
        let mut models = models.clone();
        let stream = models.encode_floats(shape, values, known, limit);
        let op = Op::Dense { context: known.map(|known| known.context) };
        ways.extend(stream.map(|stream| (op, stream, models)));
    }
    ways
}

/// The levels of a large tensor by the gap coder, if its stream is as long as it must be.
fn gap_coded(grid: Grid, levels: &[i32], known: Option<Known<'_>>) -> Option<(Op, Vec<u8>)> {
    if levels.len() <= GAP_ELEMENTS {
        return None;
    }
    let context = known.map(|known| known.context);
    let stream = gap::encode(grid, levels, known);
    (levels.len() <= max_gap_elements(stream.len())).then_some((Op::Gap { grid, context }, stream))
}

fn entry(op: Op, shape: Shape, old: &Old<'_>, new: &Tensor, stored: usize) -> Entry {
    let nonzeros = match op {
        Op::Raw { .. } => Change::default(),
        _ => Change { before: old.nonzeros, after: nonzeros(new) },
    };
    Entry { op, shape, elements: new.len(), nonzeros, stored }
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    match (a.as_f32(), b.as_f32()) {
        (Some(x), Some(y)) => x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits()),
        _ => a == b,
    }
}
