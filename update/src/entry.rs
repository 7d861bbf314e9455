//! A tensor's entry in the manifest: by what operation it comes to be, from what, how large it is.

use secateur_common::caps;
use secateur_model::DType;

use crate::DecodeError;
use crate::bytes::{Reader, put, put_signed};
use crate::grid::Grid;
use crate::manifest::contradiction;

/// How one tensor of the target comes to be. Tensors are in the order of their names.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Entry {
    pub(crate) op: Op,
    pub(crate) shape: Shape,
    pub(crate) elements: usize,
    pub(crate) nonzeros: Change,
    pub(crate) stored: usize,
}

/// Nonzeros of a float tensor. Of other types none are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// In the base's tensor of that name.
    pub before: u64,
    /// In the target's.
    pub after: u64,
}

/// Where a tensor's shape comes from.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Shape {
    /// The base's.
    Same,
    /// The base's, its axes cut to index sets: for each axis 0, or one more than the number of a set.
    Gathered(Vec<usize>),
    /// The base's, cut as with `Gathered`; and the inputs that went are made up for by a map.
    Refitted(Vec<usize>, MapEntry),
    /// Told here.
    Given(Vec<usize>),
}

/// The map of a refit: its grid, and the bytes of its stream, which comes before the tensor's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct MapEntry {
    pub(crate) grid: Grid,
    pub(crate) stored: usize,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Op {
    Keep,
    Rule { threshold: Threshold },
    Sparse { grid: Grid, context: Option<Context> },
    Gap { grid: Grid, context: Option<Context> },
    Dense { context: Option<Context> },
    Raw { dtype: DType },
}

/// How the old tensor serves as context.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Context {
    /// Old values of at least this magnitude are likely kept; without it, all that are not zero.
    pub(crate) threshold: Option<Threshold>,
    /// Whether no others are.
    pub(crate) strict: bool,
}

impl Context {
    /// Whether the mask rule keeps an element.
    pub(crate) fn keeps(self, old: f32) -> bool {
        old != 0.0 && self.threshold.is_none_or(|threshold| threshold.keeps(old))
    }
}

/// A magnitude; its sign bit tells whether a rule's zeros keep the sign of what they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Threshold(pub(crate) u32);

impl Threshold {
    pub(crate) fn keeps(self, old: f32) -> bool {
        old.abs() >= f32::from_bits(self.0 & !(1 << 31))
    }

    /// The rule on many values at once.
    pub(crate) fn apply(self, values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = self.rule(*value));
    }

    pub(crate) fn rule(self, old: f32) -> f32 {
        match (self.keeps(old), self.0 >> 31) {
            (true, _) => old,
            (false, 0) => 0.0,
            (false, _) => f32::from_bits(old.to_bits() & 1 << 31),
        }
    }
}

impl Op {
    /// How the old tensor serves as context, if it does.
    pub(crate) fn context(self) -> Option<Context> {
        match self {
            Self::Sparse { context, .. } | Self::Gap { context, .. } | Self::Dense { context } => context,
            Self::Keep | Self::Rule { .. } | Self::Raw { .. } => None,
        }
    }
}

pub(crate) const KEPT_RUN: u8 = 0;
const KEEP: u8 = 1;
const RULE: u8 = 2;
const SPARSE: u8 = 3;
const DENSE: u8 = 4;
const RAW: u8 = 5;
const GAP: u8 = 6;
pub(crate) const OP: u8 = 7;
const GATHERED: u8 = 1 << 3;
const GIVEN: u8 = 1 << 4;
const REFITTED: u8 = GATHERED | GIVEN;
const CONTEXT: u8 = 1 << 5;
const THRESHOLD: u8 = 1 << 6;
const STRICT: u8 = 1 << 7;

impl Entry {
    /// A tensor that stays as it is.
    pub(crate) fn kept() -> Self {
        Self { op: Op::Keep, shape: Shape::Same, elements: 0, nonzeros: Change::default(), stored: 0 }
    }

    /// Bytes of this entry in the manifest.
    pub(crate) fn written_bytes(&self) -> usize {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes.len()
    }

    /// Whether the base's tensor is read from beginning to end as it is made.
    pub(crate) fn reads_whole_base(&self) -> bool {
        let reads = matches!(self.op, Op::Rule { .. }) || self.op.context().is_some();
        self.shape == Shape::Same && reads
    }

    /// Bytes of its streams in the payload.
    pub(crate) fn payload_bytes(&self) -> usize {
        match &self.shape {
            Shape::Refitted(_, map) => self.stored.saturating_add(map.stored),
            _ => self.stored,
        }
    }

    pub(crate) fn element_bytes(&self) -> usize {
        match self.op {
            Op::Raw { dtype } => dtype.size().unwrap_or(usize::MAX),
            _ => 4,
        }
    }

    /// Reads an entry of a file of version `format`, its first byte read already.
    pub(crate) fn read(
        head: u8,
        reader: &mut Reader<'_>,
        (format, has_base): (u8, bool),
        sets: usize,
    ) -> Result<Self, DecodeError> {
        let shape = match head & (GATHERED | GIVEN) {
            0 => Shape::Same,
            GATHERED => Shape::Gathered(read_axes(reader, sets)?),
            GIVEN => Shape::Given(read_shape(reader)?),
            REFITTED if format > 2 => Shape::Refitted(read_axes(reader, sets)?, read_map(reader)?),
            _ => return Err(contradiction("a tensor's shape")),
        };
        let elements = reader.count("number of elements", caps::TENSOR_ELEMENTS)?;
        let needs_base = !matches!(shape, Shape::Given(_));
        let context = read_context(head, reader, matches!(head & OP, SPARSE | DENSE | GAP))?;
        let op = match head & OP {
            KEEP if matches!(shape, Shape::Gathered(_)) => Op::Keep,
            RULE if matches!(shape, Shape::Same | Shape::Gathered(_)) => {
                Op::Rule { threshold: Threshold(u32::from_le_bytes(reader.array()?)) }
            }
            SPARSE => Op::Sparse { grid: read_grid(reader)?, context },
            GAP if format > 1 => Op::Gap { grid: read_grid(reader)?, context },
            DENSE => Op::Dense { context },
            RAW if matches!(shape, Shape::Same | Shape::Given(_)) => {
                Op::Raw { dtype: DType(i32::from(reader.byte()?)) }
            }
            _ => return Err(contradiction("a tensor's operation")),
        };
        if matches!(op, Op::Dense { context: Some(Context { strict: true, .. }) }) {
            return Err(contradiction("a tensor's context"));
        }
        if (needs_base || context.is_some()) && !has_base || context.is_some() && !needs_base {
            return Err(contradiction("an operation that needs a base"));
        }
        if matches!(shape, Shape::Refitted(..)) && context.is_none() {
            return Err(contradiction("a refit that serves nothing"));
        }
        if matches!(&shape, Shape::Given(shape) if element_count(shape) != Some(elements)) {
            return Err(contradiction("a tensor's number of elements"));
        }
        let nonzeros = match op {
            Op::Raw { .. } => Change::default(),
            _ => Change { before: reader.number()?, after: reader.number()? },
        };
        let stored = match op {
            Op::Keep | Op::Rule { .. } => 0,
            _ => reader.count("stream", caps::UPDATE_BYTES)?,
        };
        if matches!(op, Op::Gap { .. }) && elements > max_gap_elements(stored) {
            return Err(DecodeError::TooLarge {
                what: "number of elements",
                limit: max_gap_elements(stored),
            });
        }
        Ok(Self { op, shape, elements, nonzeros, stored })
    }

    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        let code = match self.op {
            Op::Keep => KEEP,
            Op::Rule { .. } => RULE,
            Op::Sparse { .. } => SPARSE,
            Op::Gap { .. } => GAP,
            Op::Dense { .. } => DENSE,
            Op::Raw { .. } => RAW,
        };
        let context = self.op.context();
        let mut head = code;
        if let Some(context) = context {
            head |= CONTEXT;
            head |= if context.threshold.is_some() { THRESHOLD } else { 0 };
            head |= if context.strict { STRICT } else { 0 };
        }
        match &self.shape {
            Shape::Same => bytes.push(head),
            Shape::Gathered(axes) => {
                bytes.push(head | GATHERED);
                put_list(bytes, axes);
            }
            Shape::Refitted(axes, map) => {
                bytes.push(head | REFITTED);
                put_list(bytes, axes);
                put_grid(bytes, map.grid);
                put(bytes, map.stored as u64);
            }
            Shape::Given(shape) => {
                bytes.push(head | GIVEN);
                put_list(bytes, shape);
            }
        }
        put(bytes, self.elements as u64);
        if let Some(Threshold(bits)) = context.and_then(|context| context.threshold) {
            bytes.extend_from_slice(&bits.to_le_bytes());
        }
        match self.op {
            Op::Rule { threshold } => bytes.extend_from_slice(&threshold.0.to_le_bytes()),
            Op::Sparse { grid, .. } | Op::Gap { grid, .. } => put_grid(bytes, grid),
            Op::Raw { dtype } => bytes.push(dtype.0 as u8),
            Op::Keep | Op::Dense { .. } => {}
        }
        if !matches!(self.op, Op::Raw { .. }) {
            put(bytes, self.nonzeros.before);
            put(bytes, self.nonzeros.after);
        }
        if !matches!(self.op, Op::Keep | Op::Rule { .. }) {
            put(bytes, self.stored as u64);
        }
    }
}

/// How many there are, and each.
fn put_list(bytes: &mut Vec<u8>, list: &[usize]) {
    put(bytes, list.len() as u64);
    list.iter().for_each(|&item| put(bytes, item as u64));
}

fn put_grid(bytes: &mut Vec<u8>, grid: Grid) {
    put(bytes, grid.multiple().into());
    put_signed(bytes, grid.exponent());
}

fn read_map(reader: &mut Reader<'_>) -> Result<MapEntry, DecodeError> {
    let grid = read_grid(reader)?;
    Ok(MapEntry { grid, stored: reader.count("stream", caps::UPDATE_BYTES)? })
}

fn read_axes(reader: &mut Reader<'_>, sets: usize) -> Result<Vec<usize>, DecodeError> {
    let rank = reader.count("rank", caps::TENSOR_RANK)?;
    let axes: Vec<_> =
        (0..rank).map(|_| reader.count("index set's number", sets)).collect::<Result<_, _>>()?;
    match axes.iter().any(|&axis| axis > 0) {
        true => Ok(axes),
        false => Err(contradiction("a gather of nothing")),
    }
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Vec<usize>, DecodeError> {
    let rank = reader.count("rank", caps::TENSOR_RANK)?;
    let shape: Vec<_> =
        (0..rank).map(|_| reader.count("dimension", caps::TENSOR_ELEMENTS)).collect::<Result<_, _>>()?;
    match element_count(&shape) {
        Some(_) => Ok(shape),
        None => Err(DecodeError::TooLarge { what: "tensor", limit: caps::TENSOR_ELEMENTS }),
    }
}

/// Elements that a stream of the gap coder may tell of: as many for a byte as the binary coder can at most, so that a few
/// bytes never stand for a large tensor.
pub(crate) fn max_gap_elements(stored: usize) -> usize {
    stored.saturating_mul(1 << 14)
}

/// The elements of a shape, where they are within the cap.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))?;
    (count <= caps::TENSOR_ELEMENTS).then_some(count)
}

fn read_context(head: u8, reader: &mut Reader<'_>, allowed: bool) -> Result<Option<Context>, DecodeError> {
    if head & CONTEXT == 0 || !allowed {
        return match head & (CONTEXT | THRESHOLD | STRICT) {
            0 => Ok(None),
            _ => Err(contradiction("a tensor's context")),
        };
    }
    let threshold = match head & THRESHOLD {
        0 => None,
        _ => Some(Threshold(u32::from_le_bytes(reader.array()?))),
    };
    Ok(Some(Context { threshold, strict: head & STRICT != 0 }))
}

fn read_grid(reader: &mut Reader<'_>) -> Result<Grid, DecodeError> {
    let multiple = reader.number()?;
    let exponent = reader.signed()?;
    let grid = u32::try_from(multiple).ok().and_then(|multiple| Grid::new(multiple, exponent));
    grid.ok_or(contradiction("a tensor's grid"))
}
