//! Coded tensors being decoded: each job takes the bytes that are there, gives what they make, and waits for more.

use secateur_model::DType;

use crate::codec::{Known, Models, old_float, old_level};
use crate::entry::{Context, MapEntry};
use crate::floats::Recent;
use crate::gap::{BLOCK, Gaps, Plan};
use crate::gather::IndexSet;
use crate::grid::Grid;
use crate::manifest::contradiction;
use crate::old::OldReader;
use crate::range::{self, Coder};
use crate::sink::Sink;
use crate::state::State;
use crate::text::TextDecoder;
use crate::trace::Trace;
use crate::{ApplyError, DecodeError, ans, levels, refit};

/// Elements of a row that are decoded between two reads of the base.
const PIECE: usize = 1024;

/// The old values of a tensor, as its context.
type Old = Option<(Context, OldReader)>;

pub(crate) enum Job {
    Rows(Box<RowJob>),
    Gap(Box<GapJob>),
    Text(Box<TextDecoder>),
    Stored(StoredJob),
}

impl Job {
    /// Goes on with `bytes`: how many it took, and whether the tensor is complete.
    pub(crate) fn run<S: Sink>(
        &mut self,
        bytes: &[u8],
        state: &mut State<'_, S>,
    ) -> Result<(usize, bool), ApplyError> {
        match self {
            Self::Rows(job) => job.run(bytes, state),
            Self::Gap(job) => job.run(bytes, state),
            Self::Stored(job) => job.run(bytes, state),
            Self::Text(text) => match text.run(bytes)? {
                (taken, None) => Ok((taken, false)),
                (taken, Some(elements)) => state.output.bytes(&elements).map(|()| (taken, true)),
            },
        }
    }
}

/// Levels or floats under the mixing models, row by row.
pub(crate) struct RowJob {
    kind: Kind,
    known: Old,
    position: Option<range::Position>,
    trace: Trace,
    elements: usize,
    columns: usize,
    /// Where the row begins, and how far it is decoded.
    start: usize,
    column: usize,
    /// Old values of the piece of the row that holds `column`, if they were read already.
    old: Vec<f32>,
    values: Vec<f32>,
}

enum Kind {
    Levels(Grid),
    Floats(Recent),
}

impl RowJob {
    pub(crate) fn levels(grid: Grid, known: Old, extent: (usize, usize), stored: usize) -> Self {
        Self::new(Kind::Levels(grid), known, extent, stored)
    }

    pub(crate) fn floats(known: Old, extent: (usize, usize), stored: usize) -> Self {
        Self::new(Kind::Floats(Recent::default()), known, extent, stored)
    }

    fn new(kind: Kind, known: Old, (elements, columns): (usize, usize), stored: usize) -> Self {
        Self {
            kind,
            known,
            position: Some(range::Position::start(stored)),
            trace: Trace::new(columns.min(elements)),
            elements,
            columns,
            start: 0,
            column: 0,
            old: Vec::new(),
            values: Vec::with_capacity(PIECE),
        }
    }

    fn run<S: Sink>(&mut self, bytes: &[u8], state: &mut State<'_, S>) -> Result<(usize, bool), ApplyError> {
        let position = self.position.take().ok_or(contradiction("a tensor after its end"))?;
        let mut coder = range::Decoder::resume(position, bytes);
        while self.start < self.elements {
            let length = self.columns.min(self.elements - self.start);
            let done = self.row(&mut coder, length, state)?;
            if !done {
                let (position, taken) = coder.pause();
                self.position = Some(position);
                return Ok((taken, false));
            }
            coder.check()?;
            let row = self.trace.end_row();
            if let Kind::Levels(grid) = self.kind {
                for row in row[..length].chunks(PIECE) {
                    self.values.extend(row.iter().map(|&level| grid.value(level.into())));
                    if self.values.len() >= PIECE {
                        state.output.floats(&self.values)?;
                        self.values.clear();
                    }
                }
            }
            self.start += length;
            self.column = 0;
        }
        if !coder.ready() {
            let (position, taken) = coder.pause();
            self.position = Some(position);
            return Ok((taken, false));
        }
        state.output.floats(&self.values)?;
        Ok((coder.finish()?, true))
    }

    /// Decodes the row to its end, piece by piece; false where more bytes are needed.
    fn row<S: Sink>(
        &mut self,
        coder: &mut range::Decoder<'_>,
        length: usize,
        state: &mut State<'_, S>,
    ) -> Result<bool, ApplyError> {
        while self.column < length {
            let first = self.column / PIECE * PIECE;
            let end = length.min(first + PIECE);
            if let (Some((_, reader)), true) = (&mut self.known, self.old.is_empty()) {
                self.old.resize(end - first, 0.0);
                state.held.fill(reader, &mut self.old)?;
            }
            let known = self.known.as_ref().map(|(context, _)| Known { context: *context, old: &self.old });
            let extent = (&mut self.column, end);
            let done = match &mut self.kind {
                Kind::Levels(grid) => {
                    let strict = known.is_some_and(|known| known.context.strict);
                    let old = |column| old_level(*grid, known, column - first);
                    state.models.levels().row(coder, &mut self.trace, extent, strict, &[], old)
                }
                Kind::Floats(recent) => {
                    let old = |column| old_float(known, column - first);
                    let values = &mut self.values;
                    let take = |value| values.push(value);
                    state.models.floats().row(coder, &mut self.trace, recent, extent, &[], old, take)
                }
            };
            if !done {
                return Ok(false);
            }
            self.old.clear();
            if matches!(self.kind, Kind::Floats(_)) && self.values.len() >= PIECE {
                state.output.floats(&self.values)?;
                self.values.clear();
            }
        }
        Ok(true)
    }
}

/// The map of a refit, a row for each input that went.
pub(crate) struct MapJob {
    grid: Grid,
    position: Option<range::Position>,
    trace: Trace,
    rows: usize,
    columns: usize,
    column: usize,
    map: Vec<f32>,
}

impl MapJob {
    /// # Errors
    /// Where the map is too large to be held.
    pub(crate) fn new(set: &IndexSet, entry: MapEntry) -> Result<Self, DecodeError> {
        let (columns, rows) = (set.kept.len(), set.base - set.kept.len());
        if columns.saturating_mul(rows) > refit::MAP {
            return Err(DecodeError::TooLarge { what: "refit's map", limit: refit::MAP });
        }
        let position = Some(range::Position::start(entry.stored));
        Ok(Self {
            grid: entry.grid,
            position,
            trace: Trace::new(columns),
            rows,
            columns,
            column: 0,
            map: Vec::new(),
        })
    }

    /// Goes on with `bytes`: how many it took, and the map when it is complete.
    pub(crate) fn run(
        &mut self,
        bytes: &[u8],
        models: &mut Models,
    ) -> Result<(usize, Option<Vec<f32>>), DecodeError> {
        let position = self.position.take().ok_or(contradiction("a map after its end"))?;
        let mut coder = range::Decoder::resume(position, bytes);
        while self.map.len() < self.rows * self.columns {
            let extent = (&mut self.column, self.columns);
            let nothing = |_| levels::NOTHING;
            if !models.maps().row(&mut coder, &mut self.trace, extent, false, &[], nothing) {
                break;
            }
            coder.check()?;
            let row = self.trace.end_row();
            self.map.extend(row.iter().map(|&level| self.grid.value(level.into())));
            self.column = 0;
        }
        if self.map.len() == self.rows * self.columns && coder.ready() {
            return Ok((coder.finish()?, Some(std::mem::take(&mut self.map))));
        }
        let (position, taken) = coder.pause();
        self.position = Some(position);
        Ok((taken, None))
    }
}

/// Levels under the gap coder, block by block.
pub(crate) struct GapJob {
    gaps: Gaps,
    known: Option<OldReader>,
    position: Option<ans::Position>,
    begun: bool,
    elements: usize,
    /// Where the block begins, and how far it is decoded.
    start: usize,
    at: usize,
    old: Vec<f32>,
    values: Vec<f32>,
}

impl GapJob {
    pub(crate) fn new(grid: Grid, known: Old, elements: usize, stored: usize) -> Self {
        let context = known.as_ref().map(|(context, _)| *context);
        Self {
            gaps: Gaps::new(grid, context),
            known: known.map(|(_, reader)| reader),
            position: Some(ans::Position::start(stored)),
            begun: false,
            elements,
            start: 0,
            at: 0,
            old: Vec::new(),
            values: Vec::new(),
        }
    }

    fn run<S: Sink>(&mut self, bytes: &[u8], state: &mut State<'_, S>) -> Result<(usize, bool), ApplyError> {
        use ans::Symbols;
        let position = self.position.take().ok_or(contradiction("a tensor after its end"))?;
        let mut coder = ans::Decoder::resume(position, bytes);
        let mut plan = Plan::default();
        if !self.begun && coder.ready() {
            self.gaps.start(&mut coder, &mut plan);
            self.begun = true;
        }
        while self.begun && self.start < self.elements {
            if self.values.is_empty() {
                self.values.resize(BLOCK.min(self.elements - self.start), 0.0);
                if let Some(reader) = &mut self.known {
                    self.old.resize(self.values.len(), 0.0);
                    state.held.fill(reader, &mut self.old)?;
                }
            }
            let at = (self.start, &mut self.at);
            if !self.gaps.block(&mut coder, &mut plan, &self.old, at, &mut self.values)? {
                break;
            }
            coder.check()?;
            state.output.floats(&self.values)?;
            self.start += self.values.len();
            self.at = 0;
            self.values.clear();
        }
        if self.begun && self.start == self.elements && coder.ready() {
            self.gaps.finish()?;
            return Ok((coder.finish()?, true));
        }
        let (position, taken) = coder.pause();
        self.position = Some(position);
        Ok((taken, false))
    }
}

/// Elements that are stored as they are.
pub(crate) struct StoredJob {
    size: usize,
    left: usize,
}

impl StoredJob {
    /// Of `length` bytes.
    pub(crate) fn new(dtype: DType, length: usize) -> Self {
        Self { size: dtype.size().unwrap_or(1), left: length }
    }

    fn run<S: Sink>(&mut self, bytes: &[u8], state: &mut State<'_, S>) -> Result<(usize, bool), ApplyError> {
        let whole = bytes.len().min(self.left) / self.size * self.size;
        state.output.bytes(&bytes[..whole])?;
        self.left -= whole;
        Ok((whole, self.left == 0))
    }
}
