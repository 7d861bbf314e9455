//! The order in which channels of all groups go: one path for a graph, so that all its keep-sets are nested.

use std::collections::BTreeMap;

use secateur_model::groups::{Groups, KeepSets};

use crate::trace::Trace;
use crate::widths::{Prices, Widths};

/// Channels in the order in which they go, each group's last one excepted.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    steps: Vec<(usize, usize)>,
    /// What each step loses, for paths by score alone.
    scores: Vec<f64>,
}

impl Path {
    /// Smallest score first, over all groups.
    pub(crate) fn by_score(traces: &[Trace]) -> Self {
        let mut ranked: Vec<(f64, usize, usize)> = Vec::new();
        for (group, trace) in traces.iter().enumerate() {
            let score = |at: usize| trace.lost[at + 1] - trace.lost[at];
            ranked.extend((0..trace.order.len() - 1).map(|at| (score(at), group, trace.order[at])));
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Self {
            scores: ranked.iter().map(|step| step.0).collect(),
            steps: ranked.into_iter().map(|(_, group, channel)| (group, channel)).collect(),
        }
    }

    /// The stretch first that saves most for what it loses, each group along its trace and its curve of divergence;
    /// what is saved is weighed by `prices`.
    pub(crate) fn by_gain(traces: &[Trace], curves: &[Vec<f64>], widths: &Widths, prices: &Prices) -> Self {
        let mut gone = vec![0; traces.len()];
        let mut steps = Vec::new();
        let stretch = |group: usize, gone: &[usize]| -> Option<(f64, usize)> {
            let now = widths.saving_base(group, gone, prices);
            let ends = ends(traces[group].order.len(), gone[group]);
            let ratio = |end: usize| {
                let saved = now - widths.with(group, end, gone, prices);
                saved / (curves[group][end] - curves[group][gone[group]]).max(1e-12)
            };
            ends.into_iter()
                .map(|end| (ratio(end), end))
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
        };
        loop {
            let best = (0..traces.len())
                .filter_map(|group| stretch(group, &gone).map(|(ratio, end)| (ratio, group, end)))
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            let Some((_, group, end)) = best else { break };
            steps.extend(traces[group].order[gone[group]..end].iter().map(|&channel| (group, channel)));
            gone[group] = end;
        }
        Self { steps, scores: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// How many steps have a score under `limit`.
    pub(crate) fn under(&self, limit: f64) -> usize {
        self.scores.partition_point(|&score| score < limit)
    }

    /// For each group that has lost a channel after `steps` steps, the last step that took one.
    pub(crate) fn last_of_each(&self, steps: usize) -> Vec<(usize, usize)> {
        let taken = self.steps[..steps].iter().enumerate().map(|(at, &(group, _))| (group, at));
        taken.collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    /// The same path with the step at `at` put off to be the last of the first `steps`.
    pub(crate) fn put_off(&self, at: usize, steps: usize) -> Self {
        let mut path = self.clone();
        path.steps[at..steps].rotate_left(1);
        path
    }

    /// What is kept after `steps` steps.
    pub(crate) fn keep(&self, groups: &Groups, steps: usize) -> KeepSets {
        let mut kept: Vec<Vec<bool>> = groups.groups.iter().map(|group| vec![true; group.channels]).collect();
        self.steps[..steps].iter().for_each(|&(group, channel)| kept[group][channel] = false);
        kept.iter().map(|flags| (0..flags.len()).filter(|&channel| flags[channel]).collect()).collect()
    }
}

/// Where the next stretch of a group may end: near by, and ever farther to see over a hump of its curve.
fn ends(channels: usize, gone: usize) -> Vec<usize> {
    let unit = channels.div_ceil(64).max(1);
    let mut ends = Vec::new();
    let mut far = unit;
    if gone + 1 >= channels {
        return ends;
    }
    loop {
        let kept = channels.saturating_sub(gone + far).max(1);
        let end = channels - kept;
        if end > gone && ends.last() != Some(&end) {
            ends.push(end);
        }
        if kept == 1 || far >= channels {
            return ends;
        }
        far = (far * 3).div_ceil(2).max(far + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_end_ever_farther_off_and_leave_one_channel() {
        for (channels, gone) in [(1, 0), (2, 0), (7, 3), (100, 98), (300, 0), (4096, 17)] {
            let ends = ends(channels, gone);
            assert!(ends.iter().all(|&end| end > gone && end < channels), "{channels} {gone}");
            assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(
                ends.last().copied(),
                (gone + 1 < channels).then_some(channels - 1),
                "{channels} {gone}"
            );
        }
    }

    #[test]
    fn a_path_takes_the_smallest_scores_first_and_leaves_one_of_each_group() {
        let trace = |order: &[usize], scores: &[f64]| {
            let mut lost = vec![0.0];
            scores.iter().for_each(|score| lost.push(lost[lost.len() - 1] + score));
            Trace { order: order.to_vec(), lost }
        };
        let path = Path::by_score(&[trace(&[1, 0, 2], &[0.1, 0.3, 9.0]), trace(&[0, 1], &[0.2, 9.0])]);
        assert_eq!(path.steps, [(0, 1), (1, 0), (0, 0)]);
        assert_eq!((path.under(0.15), path.under(0.25), path.under(1.0)), (1, 2, 3));
    }
}
