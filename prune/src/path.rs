//! The order in which channels of all groups go: one path for a graph, so that all its keep-sets are nested.

use secateur_model::groups::{Groups, KeepSets};

use crate::trace::Trace;
use crate::widths::{Prices, Widths};

/// Channels in the order in which they go, each group's last one excepted unless its curve says what going whole costs.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    steps: Vec<(usize, usize)>,
    /// Widths are rounded up to a multiple of so many channels.
    lanes: usize,
    /// What each step loses, for paths by score alone.
    scores: Vec<f64>,
}

impl Path {
    /// Smallest score first, over all groups.
    pub(crate) fn by_score(traces: &[Trace], lanes: usize) -> Self {
        let mut ranked: Vec<(f64, usize, usize)> = Vec::new();
        for (group, trace) in traces.iter().enumerate() {
            let score = |at: usize| trace.lost[at + 1] - trace.lost[at];
            ranked.extend((0..trace.order.len() - 1).map(|at| (score(at), group, trace.order[at])));
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Self {
            scores: ranked.iter().map(|step| step.0).collect(),
            steps: ranked.into_iter().map(|(_, group, channel)| (group, channel)).collect(),
            lanes,
        }
    }

    /// The stretch first that saves most for what it loses, each group along its trace and its curve of divergence;
    /// what is saved is weighed by `prices`.
    pub(crate) fn by_gain(
        traces: &[Trace],
        curves: &[Vec<f64>],
        widths: &Widths,
        prices: &Prices,
        lanes: usize,
    ) -> Self {
        let mut gone = vec![0; traces.len()];
        let mut steps = Vec::new();
        let stretch = |group: usize, gone: &[usize]| -> Option<(f64, usize)> {
            let now = widths.saving_base(group, gone, prices);
            let channels = traces[group].order.len();
            let least = (channels + 1).saturating_sub(curves[group].len());
            let ends = ends((channels, least), gone[group], lanes);
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
        Self { steps, lanes, scores: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// How many steps have a score under `limit`.
    pub(crate) fn under(&self, limit: f64) -> usize {
        self.scores.partition_point(|&score| score < limit)
    }

    /// The same path and how far to go along it so that `group`, of which `gone` channels are gone after `steps` steps,
    /// keeps one more, or as many as fill its lanes: its last steps are put off.
    pub(crate) fn given_back(&self, group: usize, gone: usize, steps: usize) -> (Self, usize) {
        let mut path = self.clone();
        let taken = self.steps[..steps].iter().filter(|step| step.0 == group).count();
        let mut end = steps;
        for _ in gone..=taken {
            if let Some(at) = path.steps[..end].iter().rposition(|step| step.0 == group) {
                path.steps[at..end].rotate_left(1);
                end -= 1;
            }
        }
        (path, end)
    }

    /// What is kept after `steps` steps.
    pub(crate) fn keep(&self, groups: &Groups, steps: usize) -> KeepSets {
        let taken = &self.steps[..steps];
        let mut go = vec![0; groups.groups.len()];
        taken.iter().for_each(|&(group, _)| go[group] += 1);
        for (go, group) in go.iter_mut().zip(&groups.groups) {
            let left = (group.channels - *go).next_multiple_of(self.lanes).min(group.channels);
            *go = group.channels - left;
        }
        let mut kept: Vec<Vec<bool>> = groups.groups.iter().map(|group| vec![true; group.channels]).collect();
        for &(group, channel) in taken {
            if go[group] > 0 {
                go[group] -= 1;
                kept[group][channel] = false;
            }
        }
        kept.iter().map(|flags| (0..flags.len()).filter(|&channel| flags[channel]).collect()).collect()
    }
}

/// Where the next stretch of a group may end of whose `channels` `least` must stay: near by, and ever farther to see over a
/// hump of its curve; what is left then is a multiple of `lanes`.
fn ends((channels, least): (usize, usize), gone: usize, lanes: usize) -> Vec<usize> {
    let unit = channels.div_ceil(64).max(1);
    let mut ends = Vec::new();
    let mut far = unit;
    if gone + least >= channels {
        return ends;
    }
    loop {
        let kept = channels.saturating_sub(gone + far).max(least);
        let end = channels - kept.next_multiple_of(lanes).min(channels);
        if end > gone && ends.last() != Some(&end) {
            ends.push(end);
        }
        if kept == least || far >= channels {
            return ends;
        }
        far = (far * 3).div_ceil(2).max(far + 1);
    }
}

#[cfg(test)]
mod tests {
    use secateur_model::groups::Group;

    use super::*;

    #[test]
    fn stretches_end_ever_farther_off_and_leave_the_least() {
        let cases = [(1, 0), (2, 0), (7, 3), (100, 98), (300, 0), (4096, 17)];
        for ((channels, gone), least) in cases.into_iter().flat_map(|case| [(case, 0), (case, 1)]) {
            let ends = ends((channels, least), gone, 1);
            assert!(ends.iter().all(|&end| end > gone && end + least <= channels), "{channels} {gone}");
            assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
            let last = (gone + least < channels).then_some(channels - least);
            assert_eq!(ends.last().copied(), last, "{channels} {gone} {least}");
            let whole = super::ends((channels, least), gone, 8);
            assert!(whole.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(whole.iter().all(|&end| end > gone && (channels - end).is_multiple_of(8)));
        }
    }

    #[test]
    fn a_path_takes_the_smallest_scores_first_and_leaves_one_of_each_group() {
        let trace = |order: &[usize], scores: &[f64]| {
            let mut lost = vec![0.0];
            scores.iter().for_each(|score| lost.push(lost[lost.len() - 1] + score));
            Trace { order: order.to_vec(), lost }
        };
        let path = Path::by_score(&[trace(&[1, 0, 2], &[0.1, 0.3, 9.0]), trace(&[0, 1], &[0.2, 9.0])], 1);
        assert_eq!(path.steps, [(0, 1), (1, 0), (0, 0)]);
        assert_eq!((path.under(0.15), path.under(0.25), path.under(1.0)), (1, 2, 3));
    }

    #[test]
    fn widths_are_rounded_up_to_whole_lanes_and_stay_nested() {
        let groups = [20, 6].map(|channels| Group { channels, ..Group::default() });
        let mut all = Groups::default();
        all.groups = groups.to_vec();
        let lost = |channels: usize| (0..=channels).map(|gone| gone as f64).collect();
        let traces = [20, 6].map(|channels| Trace { order: (0..channels).collect(), lost: lost(channels) });
        let path = Path::by_score(&traces, 8);
        let keeps: Vec<KeepSets> = (0..=path.len()).map(|steps| path.keep(&all, steps)).collect();
        assert!(keeps.iter().all(|keep| [20, 16, 8].contains(&keep[0].len()) && keep[1].len() == 6));
        assert_eq!(keeps[path.len()][0].len(), 8);
        for pair in keeps.windows(2) {
            assert!(pair[1][0].iter().all(|channel| pair[0][0].contains(channel)));
        }
    }
}
