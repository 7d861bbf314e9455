//! A family as bytes, so that nothing is taken twice: what was observed, the traces, the curves. What follows from the
//! model and the calibration data alone is not in it.
//!
//! Bytes from outside: a length is checked against what is left before anything is allocated for it, and what does not
//! fit the model, or is of another version, is none.

use secateur_common::{Digest, caps};
use secateur_model::groups::Group;
use secateur_model::{Graph, Tensor};

use crate::channels::{Family, grouped, takes_in};
use crate::curves::points_of;
use crate::moments::Moments;
use crate::observe::{Observed, Seen, observe, sampled, unseen};
use crate::trace::Trace;
use crate::{Method, PruneError};

/// What the bytes begin with: a mark and the version of all that decides what a family is.
const MARK: &[u8; 8] = b"secfam\x00\x03";

impl Family {
    /// The family as at most `cap` bytes; `None` where it takes more. What the refit aims at is left out where it does
    /// not fit: one forward pass of the dense net takes it again.
    pub fn to_bytes(&self, cap: usize) -> Option<Vec<u8>> {
        let small = self.observed.as_ref().is_none_or(|observed| target_bytes(observed) <= cap);
        let whole = small.then(|| self.written(true)).filter(|bytes| bytes.len() <= cap);
        whole.or_else(|| Some(self.written(false)).filter(|bytes| bytes.len() <= cap))
    }

    /// As bytes, `whole` or without what the refit aims at.
    fn written(&self, whole: bool) -> Vec<u8> {
        let mut body = Writer::default();
        body.length(self.method as usize);
        body.length(self.traces.len());
        for trace in &self.traces {
            body.length(trace.order.len());
            trace.order.iter().for_each(|&channel| body.length(channel));
            body.doubles(trace.lost.iter().copied());
        }
        body.length(self.curves.as_ref().map_or(0, Vec::len));
        self.curves.iter().flatten().for_each(|curve| body.doubles(curve.iter().copied()));
        body.length(usize::from(self.observed.is_some()) + usize::from(self.observed.is_some() && whole));
        if let Some(observed) = &self.observed {
            write_observed(&mut body, observed, whole);
        }
        let digest = Digest::of(&body.0);
        [MARK, digest.as_bytes().as_slice(), &body.0].concat()
    }

    /// The family that `bytes` hold, of the same model, method, seed and calibration data as it was made from; `None`
    /// where they are damaged, of another version or of another model.
    ///
    /// # Errors
    /// [`PruneError`]: as [`Family::new`].
    pub fn from_bytes(
        bytes: &[u8],
        dense: &Graph,
        method: Method,
        seed: u64,
        calibration: Option<&Tensor>,
    ) -> Result<Option<Self>, PruneError> {
        crate::check(dense, calibration, method)?;
        let (graph, groups) = grouped(dense, method)?;
        let Some(mut body) = opened(bytes) else { return Ok(None) };
        let Some((traces, curves)) = read_traces(&mut body, method, &groups.groups) else { return Ok(None) };
        let observed = match (body.length(), calibration) {
            (Some(0), _) => None,
            (Some(parts @ 1..=2), Some(data)) => {
                let inputs = sampled(&graph, data)?;
                let images = inputs.shape()[0];
                let mut layers = unseen(&graph, images, takes_in(&groups))?;
                let output = read_observed(&mut body, &mut layers, images, parts == 2);
                let Some(output) = output else { return Ok(None) };
                let mut observed = Observed { inputs, layers, output };
                if parts == 1 {
                    aim(&graph, &mut observed)?;
                }
                Some(observed)
            }
            _ => return Ok(None),
        };
        let complete = body.0.is_empty() && observed.is_some() == (method == Method::Obs);
        Ok(complete.then_some(Self { method, seed, graph, groups, traces, observed, curves }))
    }
}

/// What lies behind mark and digest, where both are right.
fn opened(bytes: &[u8]) -> Option<Reader<'_>> {
    let (head, body) = bytes.split_at_checked(MARK.len() + 32)?;
    let right = bytes.len() <= caps::FAMILY_BYTES
        && head.starts_with(MARK)
        && head[MARK.len()..] == *Digest::of(body).as_bytes();
    right.then_some(Reader(body))
}

type Choices = (Vec<Trace>, Option<Vec<Vec<f64>>>);

fn read_traces(body: &mut Reader<'_>, method: Method, groups: &[Group]) -> Option<Choices> {
    (body.length()? == method as usize && body.length()? == groups.len()).then_some(())?;
    let mut traces = Vec::with_capacity(groups.len());
    for channels in groups.iter().map(|group| group.channels) {
        (body.length()? == channels).then_some(())?;
        let order = (0..channels).map(|_| body.length()).collect::<Option<Vec<_>>>()?;
        let mut sorted = order.clone();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..channels).then_some(())?;
        traces.push(Trace { order, lost: body.doubles(channels + 1)? });
    }
    let curves = match body.length()? {
        0 => None,
        count if count == groups.len() => {
            Some(groups.iter().map(|group| body.doubles(points_of(group))).collect::<Option<_>>()?)
        }
        _ => return None,
    };
    Some((traces, curves))
}

fn target_bytes(observed: &Observed) -> usize {
    observed.layers.iter().map(|seen| 4 * (seen.targets.len() + seen.own.len())).sum()
}

fn write_observed(body: &mut Writer, observed: &Observed, whole: bool) {
    body.length(observed.output.shape().len());
    observed.output.shape().iter().for_each(|&length| body.length(length));
    body.floats(observed.output.as_f32().unwrap_or_default());
    body.length(observed.layers.len());
    for seen in &observed.layers {
        body.length(seen.layer.node);
        for moments in &seen.moments {
            let (rows, sums) = moments.parts();
            body.length(rows as usize);
            body.doubles(sums);
        }
        body.length(usize::from(!seen.own.is_empty()));
        if whole {
            body.floats(&seen.targets);
            body.floats(&seen.own);
        }
    }
}

/// Fills `layers`, leaving out those that were not kept, and gives the output.
fn read_observed(
    body: &mut Reader<'_>,
    layers: &mut Vec<Seen>,
    images: usize,
    whole: bool,
) -> Option<Tensor> {
    let rank = body.length()?;
    let shape = (0..rank.min(16)).map(|_| body.length()).collect::<Option<Vec<_>>>()?;
    (shape.first() == Some(&images)).then_some(())?;
    let count = shape.iter().try_fold(1usize, |count, &length| count.checked_mul(length))?;
    let output = Tensor::f32(shape, body.floats(count)?).ok()?;
    let mut left = std::mem::take(layers).into_iter();
    for _ in 0..body.length()? {
        let node = body.length()?;
        let mut seen = left.find(|seen| seen.layer.node == node)?;
        for moments in &mut seen.moments {
            let (rows, columns) = (body.length()? as u64, moments.columns());
            *moments = Moments::from_parts(columns, rows, &body.doubles(columns * (columns + 1) / 2)?);
        }
        let has_own = body.length()? == 1;
        if whole {
            let count = images * seen.sampling.each * seen.layer.outputs;
            seen.targets = body.floats(count)?;
            seen.own = body.floats(if has_own { count } else { 0 })?;
        }
        layers.push(seen);
    }
    Some(output)
}

/// Takes the targets again, by one pass of the dense net.
fn aim(graph: &Graph, observed: &mut Observed) -> Result<(), PruneError> {
    let again = observe(graph, observed.inputs.clone(), |_| false, &mut |_| ())?;
    for seen in again.layers {
        if let Some(known) = observed.layers.iter_mut().find(|known| known.layer.node == seen.layer.node) {
            (known.targets, known.own) = (seen.targets, seen.own);
        }
    }
    observed.layers.retain(|seen| !seen.targets.is_empty());
    Ok(())
}

/// Little-endian numbers, one after the other.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn length(&mut self, value: usize) {
        self.0.extend((value as u64).to_le_bytes());
    }

    fn doubles(&mut self, values: impl Iterator<Item = f64>) {
        values.for_each(|value| self.0.extend(value.to_le_bytes()));
    }

    fn floats(&mut self, values: &[f32]) {
        self.0.reserve(4 * values.len());
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, size: usize) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let (taken, left) = self.0.split_at_checked(count.checked_mul(size)?)?;
        self.0 = left;
        Some(taken.chunks_exact(size))
    }

    fn length(&mut self) -> Option<usize> {
        let value = self.take(1, 8)?.next()?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(value)).ok()
    }

    fn doubles(&mut self, count: usize) -> Option<Vec<f64>> {
        let values = self.take(count, 8)?;
        Some(values.filter_map(|value| value.try_into().ok()).map(f64::from_le_bytes).collect())
    }

    fn floats(&mut self, count: usize) -> Option<Vec<f32>> {
        let values = self.take(count, 4)?;
        Some(values.filter_map(|value| value.try_into().ok()).map(f32::from_le_bytes).collect())
    }
}
