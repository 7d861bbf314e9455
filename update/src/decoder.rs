//! The streaming decoder: frames go in as they come, a variant comes out piece by piece, in memory bounded whatever the
//! model's size. Nothing of what came out may be used before [`Decoder::finish`] has seen the whole digest hold.

use secateur_common::caps;
use secateur_model::DType;

use crate::base::Base;
use crate::codec::{Models, columns};
use crate::digest::Canonical;
use crate::entry::{Context, Entry, Op, Shape, element_count};
use crate::gap::BLOCK;
use crate::gather::IndexSet;
use crate::job::{GapJob, Job, MapJob, RowJob, StoredJob};
use crate::manifest::{Manifest, contradiction};
use crate::old::{OldReader, nonzeros};
use crate::range::{self, Coder, MARGIN};
use crate::refit;
use crate::sink::Sink;
use crate::skeleton::{Names, Text};
use crate::state::{Held, Output, State};
use crate::text::{self, TextDecoder};
use crate::{ApplyError, DecodeError, raw};

/// Decodes one update. Give it all frames in order, then finish it. Memory beside the manifest, the skeleton, the names
/// and the index sets: at most 256 KiB.
pub struct Decoder<'b, S> {
    manifest: Manifest,
    base: Option<&'b dyn Base>,
    stage: Stage,
    frames: usize,
    /// What the last frame left over: too few bytes for a step.
    carry: Vec<u8>,
    state: State<'b, S>,
    names: Names,
    decoded: usize,
}

enum Stage {
    Text(Box<TextDecoder>),
    Sets {
        position: range::Position,
        next: usize,
    },
    /// Tensor of that number is to begin.
    Tensor(usize),
    /// The map of that tensor's refit.
    Map(usize, Box<MapJob>),
    Coded(usize, Job),
    Done,
    Failed,
}

/// What a stage comes to: more bytes are needed, or another stage follows.
enum Step {
    Wait(Stage),
    Go(Stage),
}

impl<'b, S: Sink> Decoder<'b, S> {
    /// Begins. A full update needs no base and ignores one.
    ///
    /// # Errors
    /// Where the base is missing or another one.
    pub fn new(manifest: Manifest, base: Option<&'b dyn Base>, mut sink: S) -> Result<Self, ApplyError> {
        let base = match manifest.base {
            None => None,
            Some(expected) => {
                let base = base.ok_or(ApplyError::BaseMissing { expected })?;
                let found = base.variant_id();
                if found != expected {
                    return Err(ApplyError::WrongBase { expected, found });
                }
                Some(base)
            }
        };
        let held = base.map(Text::of);
        let mut names = Names::new(Vec::new());
        let mut digest = Canonical::new(&[]);
        let stage = match (manifest.skeleton, held) {
            (None, None) => return Err(contradiction("a full update without a skeleton").into()),
            (None, Some(held)) => {
                sink.skeleton(&held.skeleton).map_err(ApplyError::Sink)?;
                digest = Canonical::new(&held.skeleton);
                names = Names::new(held.names);
                Self::sets(&manifest)
            }
            (Some(entry), held) => {
                let prior = held.map(|held| held.joined()).unwrap_or_default();
                let length = entry.skeleton + entry.names;
                Stage::Text(Box::new(TextDecoder::new(text::SLOTS, &prior, entry.stored, length)))
            }
        };
        let held = Held { base, name: String::new(), sets: Vec::new(), nonzeros: 0 };
        let output = Output { sink, digest, nonzeros: 0 };
        let state = State { held, models: Models::default(), output };
        Ok(Self { manifest, base, stage, frames: 0, carry: Vec::new(), state, names, decoded: 0 })
    }

    fn sets(manifest: &Manifest) -> Stage {
        Stage::Sets { position: range::Position::start(manifest.sets.stored), next: 0 }
    }

    /// Takes the next frame and decodes as far as it goes.
    ///
    /// # Errors
    /// Where the frame is not the one expected, or the update unsound. The decoder is of no use then.
    pub fn frame(&mut self, frame: &[u8]) -> Result<(), ApplyError> {
        if matches!(self.stage, Stage::Failed) {
            return Err(contradiction("a frame after an error").into());
        }
        let checked = self.manifest.check_frame(self.frames, frame).map_err(ApplyError::from);
        let fed = checked.and_then(|()| self.feed(frame));
        self.frames += 1;
        if fed.is_err() {
            self.stage = Stage::Failed;
        }
        fed
    }

    /// Checks the whole: all frames were there, and the digest is the one promised.
    ///
    /// # Errors
    /// Where it is not so: what went to the sink must be dropped.
    pub fn finish(mut self) -> Result<(Manifest, S), ApplyError> {
        if self.frames == 0 && self.manifest.frames() == 0 {
            self.advance(&[])?;
        }
        if !matches!(self.stage, Stage::Done) {
            return Err(DecodeError::Truncated.into());
        }
        let Output { sink, digest, .. } = self.state.output;
        let (found, expected) = (digest.finish(), self.manifest.target);
        if found != expected {
            return Err(ApplyError::WrongResult { expected, found });
        }
        Ok((self.manifest, sink))
    }

    /// Decodes the next bytes of the payload, however many.
    fn feed(&mut self, frame: &[u8]) -> Result<(), ApplyError> {
        let mut rest = frame;
        if !self.carry.is_empty() {
            // What was left over, with enough to get past it.
            let mut joined = std::mem::take(&mut self.carry);
            let carried = joined.len();
            joined.extend_from_slice(&frame[..frame.len().min(2 * MARGIN)]);
            let taken = self.advance(&joined)?;
            match taken.checked_sub(carried) {
                Some(taken) => rest = &frame[taken..],
                None => {
                    joined.drain(..taken);
                    self.carry = joined;
                    return Ok(());
                }
            }
        }
        let taken = self.advance(rest)?;
        self.carry = rest[taken..].to_vec();
        Ok(())
    }

    /// Decodes as far as `bytes` go; tells how many it took.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, ApplyError> {
        let mut at = 0;
        loop {
            let (taken, step) = self.step(&bytes[at..])?;
            at += taken;
            match step {
                Step::Go(stage) => self.stage = stage,
                Step::Wait(stage) => {
                    self.stage = stage;
                    return Ok(at);
                }
            }
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<(usize, Step), ApplyError> {
        match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Text(mut text) => match text.run(bytes)? {
                (taken, None) => Ok((taken, Step::Wait(Stage::Text(text)))),
                (taken, Some(text)) => {
                    self.text(text)?;
                    Ok((taken, Step::Go(Self::sets(&self.manifest))))
                }
            },
            Stage::Sets { position, next } => Ok(self.index_sets(position, next, bytes)?),
            Stage::Tensor(index) if index == self.manifest.tensors.len() => match self.names.next()? {
                None => Ok((0, Step::Go(Stage::Done))),
                Some(_) => Err(contradiction("the number of tensors").into()),
            },
            Stage::Tensor(index) => Ok((0, Step::Go(self.begin(index)?))),
            Stage::Map(index, mut job) => match job.run(bytes, &mut self.state.models)? {
                (taken, None) => Ok((taken, Step::Wait(Stage::Map(index, job)))),
                (taken, Some(map)) => Ok((taken, Step::Go(self.make(index, map)?))),
            },
            Stage::Coded(index, mut job) => match job.run(bytes, &mut self.state)? {
                (taken, false) => Ok((taken, Step::Wait(Stage::Coded(index, job)))),
                (taken, true) => {
                    self.end(index)?;
                    Ok((taken, Step::Go(Stage::Tensor(index + 1))))
                }
            },
            Stage::Done => Ok((0, Step::Wait(Stage::Done))),
            Stage::Failed => Err(contradiction("a frame after an error").into()),
        }
    }

    /// The skeleton and the names are there.
    fn text(&mut self, text: Vec<u8>) -> Result<(), ApplyError> {
        let text = Text::split(text, self.manifest.skeleton.map_or(0, |entry| entry.skeleton));
        self.state.output.digest = Canonical::new(&text.skeleton);
        self.names = Names::new(text.names);
        self.state.output.sink.skeleton(&text.skeleton).map_err(ApplyError::Sink)
    }

    fn index_sets(
        &mut self,
        position: range::Position,
        mut next: usize,
        bytes: &[u8],
    ) -> Result<(usize, Step), DecodeError> {
        let mut decoder = range::Decoder::resume(position, bytes);
        let sets = &mut self.state.held.sets;
        let done = sets.len().saturating_sub(1);
        for (index, &(base, count)) in self.manifest.sets.sizes.iter().enumerate().skip(done) {
            if index == sets.len() {
                sets.push(IndexSet::new(base));
                next = 0;
            }
            if !sets[index].code(&mut decoder, &mut next, count, &[]) {
                let (position, taken) = decoder.pause();
                return Ok((taken, Step::Wait(Stage::Sets { position, next })));
            }
            decoder.check()?;
        }
        if !decoder.ready() {
            let (position, taken) = decoder.pause();
            return Ok((taken, Step::Wait(Stage::Sets { position, next })));
        }
        Ok((decoder.finish()?, Step::Go(Stage::Tensor(0))))
    }

    /// Begins a tensor, and makes it at once where nothing is coded for it.
    fn begin(&mut self, index: usize) -> Result<Stage, ApplyError> {
        let name = self.names.next()?.ok_or(contradiction("the number of tensors"))?;
        self.state.held.name = name;
        match &self.manifest.tensors[index] {
            entry if *entry == Entry::kept() => {
                self.kept()?;
                Ok(Stage::Tensor(index + 1))
            }
            Entry { shape: Shape::Refitted(axes, map), .. } => {
                let set = refit::inputs(axes).and_then(|set| self.state.held.sets.get(set));
                let set = set.ok_or(contradiction("a refit that does not fit the base"))?;
                Ok(Stage::Map(index, Box::new(MapJob::new(set, *map)?)))
            }
            _ => self.make(index, Vec::new()),
        }
    }

    /// Makes a tensor at once where nothing is coded for it, else begins to. `map` is that of a refit.
    fn make(&mut self, index: usize, map: Vec<f32>) -> Result<Stage, ApplyError> {
        let entry = self.manifest.tensors[index].clone();
        let (shape, old) = self.shape(&entry, map)?;
        if element_count(&shape) != Some(entry.elements) {
            return Err(contradiction("a tensor's number of elements").into());
        }
        self.count(entry.elements.saturating_mul(entry.element_bytes()))?;
        let (name, output) = (&self.state.held.name, &mut self.state.output);
        if let Op::Raw { dtype } = entry.op {
            let length = dtype.size().and_then(|size| size.checked_mul(entry.elements));
            let length = length.filter(|_| dtype != DType::F32).ok_or(contradiction("an element type"))?;
            output.tensor(name, dtype, &shape)?;
            return Ok(Stage::Coded(
                index,
                match raw::is_text(self.manifest.format, length) {
                    true => Job::Text(Box::new(raw::decoder(self.manifest.format, entry.stored, length))),
                    false if length == entry.stored => Job::Stored(StoredJob::new(dtype, length)),
                    false => return Err(DecodeError::StreamEnd.into()),
                },
            ));
        }
        self.state.held.nonzeros = match self.base {
            Some(base) if !entry.reads_whole_base() => nonzeros(base, name)?,
            _ => 0, // or counted as it is read
        };
        output.tensor(name, DType::F32, &shape)?;
        let extent = (entry.elements, columns(self.manifest.format, &shape));
        let job = match entry.op {
            Op::Sparse { grid, context } => {
                Job::Rows(Box::new(RowJob::levels(grid, with(context, old)?, extent, entry.stored)))
            }
            Op::Dense { context } => {
                Job::Rows(Box::new(RowJob::floats(with(context, old)?, extent, entry.stored)))
            }
            Op::Gap { grid, context } => {
                Job::Gap(Box::new(GapJob::new(grid, with(context, old)?, entry.elements, entry.stored)))
            }
            Op::Keep | Op::Rule { .. } => {
                let old = old.ok_or(contradiction("an old tensor that is no floats"))?;
                self.derive(&entry, old)?;
                self.end(index)?;
                return Ok(Stage::Tensor(index + 1));
            }
            Op::Raw { .. } => return Err(contradiction("a tensor's operation").into()),
        };
        Ok(Stage::Coded(index, job))
    }

    /// The shape of a tensor; and its old values, where there are any of that shape.
    fn shape(&self, entry: &Entry, map: Vec<f32>) -> Result<(Vec<usize>, Option<OldReader>), DecodeError> {
        let old = self.base.and_then(|base| base.tensor(&self.state.held.name));
        let missing = contradiction("a tensor that the base does not have");
        match &entry.shape {
            Shape::Given(shape) => Ok((shape.clone(), None)),
            Shape::Same => {
                let (dtype, shape) = old.ok_or(missing)?;
                Ok((shape.to_vec(), (dtype == DType::F32).then_some(OldReader::Whole { next: 0 })))
            }
            Shape::Gathered(axes) | Shape::Refitted(axes, _) => {
                let ((dtype, shape), sets) = (old.ok_or(missing)?, &self.state.held.sets);
                let (reader, shape) = match entry.shape {
                    Shape::Refitted(..) => OldReader::refit(shape, axes, sets, map)?,
                    _ => OldReader::cut(shape, axes, sets)?,
                };
                Ok((shape, (dtype == DType::F32).then_some(reader)))
            }
        }
    }

    /// Counts decoded bytes.
    fn count(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.decoded = self.decoded.saturating_add(bytes);
        match self.decoded > caps::MODEL_BYTES {
            true => Err(DecodeError::TooLarge { what: "decoded size", limit: caps::MODEL_BYTES }),
            false => Ok(()),
        }
    }

    /// Old values, cut or under a threshold or both.
    fn derive(&mut self, entry: &Entry, mut old: OldReader) -> Result<(), ApplyError> {
        let mut block = vec![0.0; BLOCK.min(entry.elements)];
        for first in (0..entry.elements).step_by(BLOCK) {
            let values = &mut block[..BLOCK.min(entry.elements - first)];
            self.state.held.fill(&mut old, values)?;
            if let Op::Rule { threshold } = entry.op {
                threshold.apply(values);
            }
            self.state.output.floats(values)?;
        }
        Ok(())
    }

    /// The base's tensor, whatever its type. The sink may have it already; the digest wants it all.
    fn kept(&mut self) -> Result<(), ApplyError> {
        let name = &self.state.held.name;
        let missing = contradiction("a tensor that the base does not have");
        let base = self.base.ok_or(missing.clone())?;
        let (dtype, shape) = base.tensor(name).ok_or(missing)?;
        let size = dtype.size().ok_or(contradiction("an element type"))?;
        let elements = element_count(shape).ok_or(contradiction("a tensor's number of elements"))?;
        self.decoded = self.decoded.saturating_add(size * elements);
        if self.decoded > caps::MODEL_BYTES {
            return Err(DecodeError::TooLarge { what: "decoded size", limit: caps::MODEL_BYTES }.into());
        }
        let output = &mut self.state.output;
        output.tensor(name, dtype, shape)?;
        let taken = output.sink.keep().map_err(ApplyError::Sink)?;
        let (mut floats, mut bytes) = (Vec::new(), Vec::new());
        for first in (0..elements).step_by(BLOCK) {
            let count = BLOCK.min(elements - first);
            if dtype == DType::F32 {
                floats.resize(count, 0.0);
                base.floats(name, first, &mut floats).map_err(ApplyError::Base)?;
                output.digest.floats(&floats);
                if !taken {
                    output.sink.floats(&floats).map_err(ApplyError::Sink)?;
                }
            } else {
                bytes.resize(count * size, 0);
                base.bytes(name, first * size, &mut bytes).map_err(ApplyError::Base)?;
                output.digest.bytes(&bytes);
                if !taken {
                    output.sink.bytes(&bytes).map_err(ApplyError::Sink)?;
                }
            }
        }
        Ok(())
    }

    /// A tensor is complete.
    fn end(&self, index: usize) -> Result<(), DecodeError> {
        let entry = &self.manifest.tensors[index];
        match entry.op {
            Op::Raw { .. } => Ok(()),
            _ if entry.nonzeros.after == self.state.output.nonzeros
                && entry.nonzeros.before == self.state.held.nonzeros =>
            {
                Ok(())
            }
            _ => Err(contradiction("a tensor's number of nonzeros")),
        }
    }
}

/// A context with its old values.
fn with(
    context: Option<Context>,
    old: Option<OldReader>,
) -> Result<Option<(Context, OldReader)>, DecodeError> {
    match (context, old) {
        (None, _) => Ok(None),
        (Some(context), Some(old)) => Ok(Some((context, old))),
        (Some(_), None) => Err(contradiction("a context that is no floats")),
    }
}

#[cfg(test)]
mod tests;
