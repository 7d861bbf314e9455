//! Scores of channels: for each group the order in which its channels go, and what is lost on the way.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use secateur_model::Graph;
use secateur_model::groups::{Group, Role};

use crate::Method;
use crate::moments::{Moments, inverse, part, solved};
use crate::observe::{Observed, Seen};
use crate::random::Random;

/// Damping of the second moments, as a share of their mean diagonal.
const DAMPING: f64 = 1e-3;
/// Steps of a trace, at most: of wide groups several channels go at once.
const STEPS: usize = 160;

/// The channels of one group in the order in which they go.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Trace {
    pub(crate) order: Vec<usize>,
    /// What is lost once the first 0, 1, … channels of the order are gone: rises.
    pub(crate) lost: Vec<f64>,
}

impl Trace {
    fn by_score(scores: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        let mut lost = vec![0.0];
        lost.extend(order.iter().scan(0.0, |sum, &channel| {
            *sum += scores[channel];
            Some(*sum)
        }));
        Self { order, lost }
    }

    /// The channels that stay when `gone` have gone, ascending.
    pub(crate) fn kept(&self, gone: usize) -> Vec<usize> {
        let mut kept = self.order[gone..].to_vec();
        kept.sort_unstable();
        kept
    }
}

/// How the channels of one group rank.
pub(crate) trait Score {
    /// The order of `group`'s channels and what each point of it loses.
    fn trace(&mut self, graph: &Graph, group: &Group) -> Trace;
}

/// The score of `method`; `observed` is asked of those that need calibration data.
pub(crate) fn score<'a>(method: Method, seed: u64, observed: Option<&'a Observed>) -> Box<dyn Score + 'a> {
    match (method, observed) {
        (Method::Random, _) => Box::new(Drawn(Random::new(seed))),
        (Method::Obs, Some(observed)) => Box::new(Obs(observed)),
        (Method::Activation, Some(observed)) => Box::new(Activation(observed)),
        _ => Box::new(Magnitude { relative: method != Method::Threshold }),
    }
}

/// Drawn at random; the i-th of n loses i / n, so that every group goes at the same rate.
struct Drawn(Random);

impl Score for Drawn {
    fn trace(&mut self, _: &Graph, group: &Group) -> Trace {
        let mut order: Vec<usize> = (0..group.channels).collect();
        self.0.shuffle(&mut order);
        let lost = (0..=group.channels).scan(0.0, |lost, gone| {
            let now = *lost;
            *lost += gone as f64 / group.channels as f64;
            Some(now)
        });
        let lost = lost.collect();
        Trace { order, lost }
    }
}

/// The root mean square of the weights that make a channel; `relative` to the group's mean.
struct Magnitude {
    relative: bool,
}

impl Score for Magnitude {
    fn trace(&mut self, graph: &Graph, group: &Group) -> Trace {
        let sizes = rms(graph, group);
        let mean = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
        let unit = if self.relative { mean.max(f64::MIN_POSITIVE) } else { 1.0 };
        Trace::by_score(&sizes.iter().map(|size| size / unit).collect::<Vec<_>>())
    }
}

/// `|W| · ‖X‖` where a channel is taken in (Wanda, Sun et al. 2023, summed over a channel's weights), as a share of
/// the group's sum.
struct Activation<'a>(&'a Observed);

impl Score for Activation<'_> {
    fn trace(&mut self, graph: &Graph, group: &Group) -> Trace {
        let mut scores = vec![0.0; group.channels];
        for consumer in consumers(graph, group, self.0) {
            let mean = consumer.mean;
            for (channel, columns) in consumer.columns.iter().enumerate() {
                for &i in columns {
                    let row: f64 =
                        (0..consumer.weights.ncols()).map(|o| consumer.weights[(i, o)].powi(2)).sum();
                    scores[channel] += row * mean[(i, i)] / consumer.energy;
                }
            }
        }
        if scores.iter().all(|&score| score == 0.0) {
            return Magnitude { relative: true }.trace(graph, group);
        }
        let sum: f64 = scores.iter().sum();
        Trace::by_score(&scores.iter().map(|score| score / sum).collect::<Vec<_>>())
    }
}

/// Optimal brain surgeon over channels: the one goes whose loss the others' best new weights at the consumers leave
/// smallest (Hassibi 1993; ZipLM, Kurtic 2023, section 3.1), then the next.
struct Obs<'a>(&'a Observed);

impl Score for Obs<'_> {
    fn trace(&mut self, graph: &Graph, group: &Group) -> Trace {
        let mut consumers: Vec<Elimination> =
            consumers(graph, group, self.0).into_iter().filter_map(Elimination::new).collect();
        if consumers.is_empty() {
            return Magnitude { relative: true }.trace(graph, group);
        }
        let at_once = group.channels.div_ceil(STEPS);
        let mut left: Vec<usize> = (0..group.channels).collect();
        let mut trace = Trace { order: Vec::new(), lost: vec![0.0] };
        while !left.is_empty() {
            let mut scored: Vec<(f64, usize)> = left
                .iter()
                .map(|&channel| (consumers.iter().map(|consumer| consumer.loss(channel)).sum(), channel))
                .collect();
            scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            for &(loss, channel) in scored.iter().take(at_once) {
                consumers.iter_mut().for_each(|consumer| consumer.remove(channel));
                trace.order.push(channel);
                trace.lost.push(trace.lost[trace.lost.len() - 1] + loss.max(0.0));
                left.retain(|&other| other != channel);
            }
        }
        trace
    }
}

/// A layer that takes a group's channels in.
struct Consumer {
    /// Damped second moments.
    mean: Mat<f64>,
    /// As many rows as `mean`.
    weights: Mat<f64>,
    /// The rows of each channel.
    columns: Vec<Vec<usize>>,
    /// The variance of its outputs.
    energy: f64,
}

/// The consumers of `group` whose moments were taken.
fn consumers(graph: &Graph, group: &Group, observed: &Observed) -> Vec<Consumer> {
    let sites = group.sites.iter().filter(|site| site.role == Role::Consumer);
    sites
        .filter_map(|site| {
            let seen = observed.layers.iter().find(|seen| seen.layer.node == site.node)?;
            let mean = only(seen)?.mean(DAMPING);
            let (weights, per_input) = folded(graph, seen)?;
            let mut columns = vec![Vec::new(); group.channels];
            for (input, channel) in site.channels.iter().enumerate() {
                if let Some(channel) = *channel {
                    columns[channel].extend(input * per_input..(input + 1) * per_input);
                }
            }
            let energy = variance(&mean, &weights);
            (energy > 0.0).then_some(Consumer { mean, weights, columns, energy })
        })
        .collect()
}

/// The moments of a layer of one block.
pub(crate) fn only(seen: &Seen) -> Option<&Moments> {
    seen.moments.first().filter(|_| seen.layer.blocks == 1)
}

/// A layer's weights with as many rows as its moments have, and the rows of one input. Where moments are of channels,
/// the taps of a channel lie side by side as if they were outputs.
fn folded(graph: &Graph, seen: &Seen) -> Option<(Mat<f64>, usize)> {
    let weights = seen.layer.matrix(graph, 0)?;
    let (rows, taps) = (only(seen)?.columns(), seen.layer.taps);
    if rows == weights.nrows() {
        return Some((weights, taps));
    }
    let outputs = weights.ncols();
    let at = |row: usize, column: usize| {
        if row + 1 < rows { weights[(row * taps + column / outputs, column % outputs)] } else { 0.0 }
    };
    Some((Mat::from_fn(rows, taps * outputs, at), 1))
}

/// The variance of `weights`' outputs, all together: the constant does not vary.
fn variance(mean: &Mat<f64>, weights: &Mat<f64>) -> f64 {
    let last = mean.nrows() - 1;
    let centred = Mat::from_fn(last, last, |i, j| mean[(i, j)] - mean[(i, last)] * mean[(last, j)]);
    let top = weights.as_ref().subrows(0, last);
    let product = &centred * top;
    (0..top.ncols()).map(|o| (0..last).map(|i| top[(i, o)] * product[(i, o)]).sum::<f64>()).sum()
}

/// A consumer while channels go: what is left of the inverse of its moments, and its weights refitted.
struct Elimination {
    inverse: Mat<f64>,
    weights: Mat<f64>,
    columns: Vec<Vec<usize>>,
    energy: f64,
}

impl Elimination {
    fn new(consumer: Consumer) -> Option<Self> {
        let Consumer { mean, weights, columns, energy } = consumer;
        Some(Self { inverse: inverse(&mean)?, weights, columns, energy })
    }

    /// `tr(W_iᵀ (H⁻¹_ii)⁻¹ W_i)`, as a share of the variance of the outputs.
    fn loss(&self, channel: usize) -> f64 {
        let rows = &self.columns[channel];
        if rows.is_empty() {
            return 0.0;
        }
        let block = part(&self.inverse, rows, rows);
        let weights = Mat::from_fn(rows.len(), self.weights.ncols(), |i, o| self.weights[(rows[i], o)]);
        let Some(scaled) = solved(&block, &weights) else { return f64::MAX };
        let product = |o: usize| (0..rows.len()).map(|i| weights[(i, o)] * scaled[(i, o)]).sum::<f64>();
        (0..weights.ncols()).map(product).sum::<f64>() / self.energy
    }

    /// Takes a channel out: the others make good what they can.
    fn remove(&mut self, channel: usize) {
        let rows = self.columns[channel].clone();
        let all: Vec<usize> = (0..self.inverse.nrows()).collect();
        let (block, across) = (part(&self.inverse, &rows, &rows), part(&self.inverse, &rows, &all));
        let gone = Mat::from_fn(rows.len(), self.weights.ncols(), |i, o| self.weights[(rows[i], o)]);
        let (Some(by_weights), Some(by_inverse)) = (solved(&block, &gone), solved(&block, &across)) else {
            return;
        };
        matmul(
            self.weights.as_mut(),
            Accum::Add,
            across.transpose(),
            by_weights.as_ref(),
            -1.0,
            Par::rayon(0),
        );
        matmul(
            self.inverse.as_mut(),
            Accum::Add,
            across.transpose(),
            by_inverse.as_ref(),
            -1.0,
            Par::rayon(0),
        );
    }
}

/// The root mean square of the weights that make each channel.
fn rms(graph: &Graph, group: &Group) -> Vec<f64> {
    let mut sums = vec![(0.0, 0usize); group.channels];
    for site in group.sites.iter().filter(|site| site.role == Role::Producer) {
        let Some(tensor) = graph.initializers.get(&site.tensor).filter(|tensor| tensor.shape().len() > 1)
        else {
            continue;
        };
        let inner: usize = tensor.shape()[site.axis + 1..].iter().product();
        for (index, &value) in tensor.as_f32().into_iter().flatten().enumerate() {
            if let Some(channel) = site.channels[index / inner % site.channels.len()] {
                sums[channel].0 += f64::from(value) * f64::from(value);
                sums[channel].1 += 1;
            }
        }
    }
    sums.into_iter().map(|(sum, count)| (sum / count.max(1) as f64).sqrt()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Path;

    #[test]
    fn random_takes_every_group_at_the_same_rate() {
        let groups = [20, 50, 500].map(|channels| Group { channels, ..Group::default() });
        let mut drawn = Drawn(Random::new(3));
        let traces: Vec<Trace> = groups.iter().map(|group| drawn.trace(&Graph::default(), group)).collect();
        let path = Path::by_score(&traces, 1);
        let mut all = secateur_model::groups::Groups::default();
        all.groups = groups.to_vec();
        let kept: Vec<usize> = path.keep(&all, path.len() / 2).iter().map(Vec::len).collect();
        assert!(
            kept[0].abs_diff(10) <= 1 && kept[1].abs_diff(25) <= 1 && kept[2].abs_diff(250) <= 2,
            "{kept:?}"
        );
    }
}
