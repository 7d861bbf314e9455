//! Sequential least squares: layer after layer of the cut net is regressed, with bias, on what the dense net has in
//! front of its activations, both run on the same calibration inputs. No labels, no gradients.

use std::collections::{BTreeMap, HashSet};

use faer::Mat;
use secateur_model::groups::{Groups, KeepSets, Role};
use secateur_model::{Graph, Tensor};

use crate::PruneError;
use crate::layer::Layer;
use crate::observe::{Live, Observed, Seen, forget, step};
use crate::oracle::unrunnable;
use crate::reconstruct::fitted;
use crate::regression::{Change, Regression};
use crate::takeover::Takeover;

/// Which part of the dense graph a cut graph is.
pub(crate) struct Cut<'a> {
    pub(crate) dense: &'a Graph,
    pub(crate) groups: &'a Groups,
    pub(crate) keep: &'a KeepSets,
    /// What it was cut from, and what that keeps, where it was not the dense graph itself.
    pub(crate) held: Option<(&'a Graph, &'a KeepSets)>,
}

impl<'a> Cut<'a> {
    /// The value that a layer makes.
    fn result(&self, seen: &Seen) -> &'a str {
        &self.dense.nodes[seen.layer.node].outputs[0]
    }

    /// For each index of a layer's input axis, whether `keep` keeps it.
    fn inputs(&self, layer: &Layer, keep: &KeepSets) -> Vec<bool> {
        let length = layer.width / layer.taps * layer.blocks;
        let mut kept = vec![true; length];
        for (group, channels) in self.taken_in(layer, length) {
            for (kept, channel) in kept.iter_mut().zip(channels) {
                *kept &= channel.is_none_or(|channel| keep[group].binary_search(&channel).is_ok());
            }
        }
        kept
    }

    /// For each index of a layer's input axis, the channel to which it belongs: its own, where it is of no group.
    fn channels(&self, layer: &Layer) -> Vec<(Option<usize>, usize)> {
        let length = layer.width / layer.taps * layer.blocks;
        let mut own: Vec<_> = (0..length).map(|index| (None, index)).collect();
        for (group, channels) in self.taken_in(layer, length) {
            for (own, channel) in own.iter_mut().zip(channels) {
                *own = channel.map_or(*own, |channel| (Some(group), channel));
            }
        }
        own
    }

    /// The groups that a layer takes in, by their numbers: for each the channel at each of the `length` indices of the layer's
    /// input axis.
    fn taken_in(&self, layer: &Layer, length: usize) -> impl Iterator<Item = (usize, &'a [Option<usize>])> {
        let sites = self
            .groups
            .groups
            .iter()
            .enumerate()
            .flat_map(|(number, group)| group.sites.iter().map(move |site| (number, site)));
        sites
            .filter(move |(_, site)| {
                let reads = site.role == Role::Consumer && site.node == layer.node;
                reads && site.tensor == layer.weights && site.channels.len() == length
            })
            .map(|(number, site)| (number, &site.channels[..]))
    }

    /// The outputs of a layer that `keep` keeps.
    fn outputs(&self, layer: &Layer, keep: &KeepSets) -> Result<Vec<usize>, PruneError> {
        let value = &self.dense.nodes[layer.node].outputs[0];
        let kept = self.groups.kept(value, keep).map_err(unrunnable)?;
        Ok(kept.map_or_else(|| (0..layer.outputs).collect(), |(_, kept)| kept))
    }
}

/// Fits the weights of `graph`, the dense one without the channels that `cut` leaves out, on the first `images` of the
/// inputs. At most about `share` of all weights get new values, those of the inputs that help their layer most: what keeps
/// its value costs almost nothing to ship. What the cut does not reach stays as it is.
///
/// # Errors
/// Where a node cannot be run on the calibration inputs.
pub(crate) fn fit_layers(
    graph: &mut Graph,
    cut: &Cut<'_>,
    observed: &Observed,
    (images, share, takeover): (usize, f64, bool),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), PruneError> {
    let Some(input) = graph.inputs.first() else { return Ok(()) };
    let mut live =
        Live::from([(input.name.clone(), observed.inputs.gathered(0, &(0..images).collect::<Vec<_>>()))]);
    let reached = reached(graph, cut, observed);
    let weights = |layer: &Layer| layer.width * layer.outputs;
    let all: usize = graph.initializers.values().filter_map(Tensor::as_f32).map(<[f32]>::len).sum();
    let sizes: Vec<usize> = reached.iter().map(|(_, layer)| weights(layer)).collect();
    let most = allowance(&sizes, all as f64 * share);
    for index in 0..graph.nodes.len() {
        progress(index, graph.nodes.len());
        if let Some((seen, layer)) = reached.iter().find(|(_, layer)| layer.node == index) {
            let part = (most / weights(layer) as f64).min(1.0);
            let inputs = (layer.width as f64 * part).ceil() as usize;
            let change = match takeover && layer.blocks == 1 && weights(layer) > SMALL {
                true => match taken_over(graph, cut, seen, layer)? {
                    Some(takeover) => Change::Takeover(takeover, inputs),
                    None => Change::Inputs(inputs),
                },
                false if share < 1.0 && !takeover => Change::Inputs(inputs),
                false => Change::Whole,
            };
            fit(graph, cut, seen, layer, &live, &change)?;
        }
        settle(graph, index, cut, observed, (images, &live))?;
        step(graph, index, &mut live)?;
        forget(graph, index, &mut live);
    }
    Ok(())
}

/// Layers of so many weights change whole where others change by what is taken over: they cost little.
const SMALL: usize = 1024;

/// What the inputs of a layer that stay can take over from those that are cut off what is held; none where none is, or
/// inputs are not alike.
fn taken_over(
    graph: &Graph,
    cut: &Cut<'_>,
    seen: &Seen,
    layer: &Layer,
) -> Result<Option<Takeover>, PruneError> {
    let (held, held_keep) = cut.held.unwrap_or((cut.dense, cut.keep));
    let results = &graph.nodes[layer.node].outputs;
    let above = held.nodes.iter().position(|node| node.outputs == *results);
    let above = above.and_then(|index| Layer::of(held, index));
    let above = above.and_then(|above| Some((above.width, above.matrix(held, 0)?)));
    let Some((width, weights)) = above else { return Ok(None) };
    let (had, has) = (cut.inputs(&seen.layer, held_keep), cut.inputs(&seen.layer, cut.keep));
    let (had_outputs, outputs) = (cut.outputs(&seen.layer, held_keep)?, cut.outputs(&seen.layer, cut.keep)?);
    let columns: Option<Vec<usize>> = outputs.iter().map(|o| had_outputs.binary_search(o).ok()).collect();
    let channels = cut.channels(&seen.layer);
    let (mut gone, mut kept) = (BTreeMap::new(), BTreeMap::new());
    let (mut old, mut new) = (0, 0);
    for (index, channel) in channels.into_iter().enumerate() {
        let places = |first: usize| first * layer.taps..(first + 1) * layer.taps;
        let of: &mut BTreeMap<_, Vec<usize>> = if has[index] { &mut kept } else { &mut gone };
        match (had[index], has[index]) {
            (true, true) => of.entry(channel).or_default().extend(places(new)),
            (true, false) => of.entry(channel).or_default().extend(places(old)),
            _ => continue,
        }
        (old, new) = (old + 1, new + usize::from(has[index]));
    }
    let fits = old * layer.taps == width && new * layer.taps == layer.width;
    let Some(columns) = columns.filter(|columns| fits && columns.len() == layer.outputs) else {
        return Ok(None);
    };
    let list = |of: BTreeMap<_, Vec<usize>>| of.into_values().collect::<Vec<_>>();
    Ok(Takeover::new(&weights, &columns, &list(gone), &list(kept)))
}

/// The layers that a cut reaches: those that take in less than they did, or values that are not what the dense net has, as
/// the constants of branches that are gone are not.
fn reached<'a>(graph: &Graph, cut: &Cut<'a>, observed: &'a Observed) -> Vec<(&'a Seen, Layer)> {
    let results = observed.layers.iter().map(|seen| cut.result(seen));
    let mut moved: HashSet<&str> =
        results.filter(|result| graph.initializers.contains_key(*result)).collect();
    let mut reached = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let mut moves = node.inputs.iter().any(|name| moved.contains(name.as_str()));
        let seen = observed.layer_of(cut.dense, node);
        if let Some((seen, layer)) = seen.and_then(|seen| Some((seen, Layer::of(graph, index)?))) {
            moves |= layer.width != seen.layer.width;
            if moves {
                reached.push((seen, layer));
            }
        }
        if moves {
            moved.extend(node.outputs.iter().map(String::as_str));
        }
    }
    reached
}

/// How many weights of each layer may change at most, so that all together come to `total`: small layers, which cost little
/// and decide as much, may change whole, and large ones share what is left in equal parts.
fn allowance(sizes: &[usize], total: f64) -> f64 {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let mut left = total;
    for (at, &size) in sizes.iter().enumerate() {
        let part = left / (sizes.len() - at) as f64;
        if part < size as f64 {
            return part;
        }
        left -= size as f64;
    }
    f64::INFINITY
}

/// Fits one layer, block by block.
fn fit(
    graph: &mut Graph,
    cut: &Cut<'_>,
    seen: &Seen,
    layer: &Layer,
    live: &Live,
    change: &Change,
) -> Result<(), PruneError> {
    let Some(x) = graph.nodes[layer.node].input(0).and_then(|name| live.get(name)).cloned() else {
        return Ok(());
    };
    let outputs = cut.outputs(&seen.layer, cut.keep)?;
    if outputs.len() != layer.outputs {
        return Ok(());
    }
    let added = seen.added(live, layer.outputs);
    let (targets, range) = targets_of(seen, x.shape()[0], added.is_some());
    let each = layer.block_outputs();
    let kept = cut.inputs(&seen.layer, cut.keep);
    for block in 0..layer.blocks {
        let Some(rows) = layer.unroll(graph, &x, &seen.sampling, 0, block) else { return Ok(()) };
        // Where not all may change, the others must stay what the device holds.
        let present = match change {
            Change::Inputs(inputs) if *inputs < layer.width => layer.matrix(graph, block),
            Change::Takeover(..) => layer.matrix(graph, block),
            _ => prior(graph, cut, seen, layer, block, &kept, &outputs),
        };
        let Some(present) = present else { return Ok(()) };
        let columns: Vec<usize> = (block * each..(block + 1) * each).collect();
        let added = added.as_ref().map(|added| chosen(added, layer.outputs, &columns));
        let regression = Regression {
            rows: &rows,
            targets: &chosen(targets, seen.layer.outputs, &outputs[block * each..(block + 1) * each]),
            added: added.as_deref(),
            range,
            present,
            has_bias: layer.has_bias(),
        };
        if let Some(fit) = regression.solve(change) {
            layer.write(graph, block, &fit);
        }
    }
    Ok(())
}

/// Fits the constant that an addition takes in the place of a branch that is gone: the mean of what is missing.
fn settle(
    graph: &mut Graph,
    index: usize,
    cut: &Cut<'_>,
    observed: &Observed,
    (images, live): (usize, &Live),
) -> Result<(), PruneError> {
    let inputs = &graph.nodes[index].inputs;
    let gone = |seen: &&Seen| {
        let result = cut.result(seen);
        inputs.iter().any(|name| name == result) && graph.initializers.contains_key(result)
    };
    let Some(seen) = observed.layers.iter().find(gone) else { return Ok(()) };
    let outputs = cut.outputs(&seen.layer, cut.keep)?;
    let added = seen.added(live, outputs.len());
    let (targets, _) = targets_of(seen, images, added.is_some());
    let targets = chosen(targets, seen.layer.outputs, &outputs);
    let mut sums = vec![0.0_f64; outputs.len()];
    for (at, target) in targets.iter().enumerate() {
        let added = added.as_ref().map_or(0.0, |added| added[at]);
        sums[at % outputs.len()] += f64::from(target - added);
    }
    let rows = (targets.len() / outputs.len().max(1)).max(1) as f64;
    let constant = graph.initializers.get_mut(cut.result(seen)).and_then(Tensor::as_f32_mut);
    let values = constant.into_iter().flatten();
    values.zip(sums).for_each(|(value, sum)| *value = (sum / rows) as f32);
    Ok(())
}

/// What a fit is pulled towards: the one-round reconstruction where the dense moments give it, else the weights as they
/// are.
fn prior(
    graph: &Graph,
    cut: &Cut<'_>,
    seen: &Seen,
    layer: &Layer,
    block: usize,
    kept: &[bool],
    outputs: &[usize],
) -> Option<Mat<f64>> {
    let rows: Vec<usize> =
        (0..seen.layer.width).filter(|&row| kept.get(row / seen.layer.taps) == Some(&true)).collect();
    let reconstructed = (layer.blocks == 1 && rows.len() == layer.width)
        .then(|| fitted(seen, &seen.layer.matrix(cut.dense, 0)?, &rows))
        .flatten();
    match reconstructed {
        Some(fit) => Some(Mat::from_fn(fit.nrows(), outputs.len(), |i, o| fit[(i, outputs[o])])),
        None => layer.matrix(graph, block),
    }
}

/// What a layer is held against on the first `images`, and the range in which it is: the value in front of the
/// activation, where what else makes it is known (`whole`), else the layer's own result.
pub(crate) fn targets_of(seen: &Seen, images: usize, whole: bool) -> (&[f32], (f32, f32)) {
    let count = images * seen.sampling.each * seen.layer.outputs;
    match seen.tail.added.is_none() || whole {
        true => (seen.targets.get(..count).unwrap_or_default(), seen.tail.range),
        false => (seen.own.get(..count).unwrap_or_default(), (f32::NEG_INFINITY, f32::INFINITY)),
    }
}

/// Columns of a row-major matrix.
pub(crate) fn chosen(values: &[f32], width: usize, columns: &[usize]) -> Vec<f32> {
    if columns.len() == width {
        return values.to_vec();
    }
    values.chunks_exact(width).flat_map(|row| columns.iter().map(|&column| row[column])).collect()
}

#[cfg(test)]
mod tests {
    use super::allowance;

    #[test]
    fn small_layers_change_whole_and_large_ones_share_the_rest() {
        assert_eq!(allowance(&[1000, 10, 500], 110.0), 50.0);
        assert_eq!(allowance(&[1000, 10, 500], 1600.0), f64::INFINITY);
        assert_eq!(allowance(&[100, 100], 30.0), 15.0);
        assert_eq!(allowance(&[], 30.0), f64::INFINITY);
    }
}
