//! The order in which channels go: one path for a graph, so that all its keep-sets are nested.

use secateur_model::Graph;
use secateur_model::groups::{Group, Groups, KeepSets, Role};

use crate::random::Random;
use crate::{Method, PruneError};

/// Channels in the order in which they go, each group's last one excepted.
pub(crate) struct Path {
    steps: Vec<(usize, usize)>,
    scores: Vec<f64>,
}

impl Path {
    /// The path of `method`: smallest score first.
    ///
    /// # Errors
    /// Where the graph has no weights for a group (it is of another graph).
    pub(crate) fn new(graph: &Graph, groups: &Groups, method: Method, seed: u64) -> Result<Self, PruneError> {
        let mut random = Random::new(seed);
        let mut ranked: Vec<(f64, usize, usize)> = Vec::new();
        for (index, group) in groups.groups.iter().enumerate() {
            let mut scored: Vec<(f64, usize)> = match method {
                Method::Random => {
                    // Every group at the same rate: the i-th of n goes at rate i / n.
                    let mut order: Vec<usize> = (0..group.channels).collect();
                    random.shuffle(&mut order);
                    let rate = |at: usize| at as f64 / group.channels as f64;
                    order.into_iter().enumerate().map(|(at, channel)| (rate(at), channel)).collect()
                }
                Method::Threshold => by_size(rms(graph, group)),
                // Every group at the same rate, smallest first: a score that knows nothing of the next layers must not
                // empty one group before another.
                Method::Obs => {
                    let rate = |at: usize| at as f64 / group.channels as f64;
                    let order = by_size(rms(graph, group)).into_iter().enumerate();
                    order.map(|(at, (_, channel))| (rate(at), channel)).collect()
                }
                Method::Magnitude => {
                    let sizes = rms(graph, group);
                    let mean = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
                    by_size(sizes.iter().map(|size| size / mean.max(f64::MIN_POSITIVE)).collect())
                }
            };
            scored.pop(); // one channel stays
            ranked.extend(scored.into_iter().map(|(score, channel)| (score, index, channel)));
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Ok(Self {
            scores: ranked.iter().map(|step| step.0).collect(),
            steps: ranked.into_iter().map(|(_, group, channel)| (group, channel)).collect(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// How many steps have a score under `limit`.
    pub(crate) fn under(&self, limit: f64) -> usize {
        self.scores.partition_point(|&score| score < limit)
    }

    /// What is kept after `steps` steps.
    pub(crate) fn keep(&self, groups: &Groups, steps: usize) -> KeepSets {
        let mut kept: Vec<Vec<bool>> = groups.groups.iter().map(|group| vec![true; group.channels]).collect();
        self.steps[..steps].iter().for_each(|&(group, channel)| kept[group][channel] = false);
        kept.iter().map(|flags| (0..flags.len()).filter(|&channel| flags[channel]).collect()).collect()
    }
}

fn by_size(sizes: Vec<f64>) -> Vec<(f64, usize)> {
    let mut scored: Vec<(f64, usize)> =
        sizes.into_iter().enumerate().map(|(channel, size)| (size, channel)).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    scored
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
