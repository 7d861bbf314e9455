//! One-round reconstruction: the weights of a layer's remaining inputs that come closest to what all of them made,
//! from the dense net's second moments alone.

use faer::Mat;
use secateur_model::Graph;

use crate::layer::Layer;
use crate::moments::{part, solved};
use crate::observe::{Observed, Seen};
use crate::trace::only;

/// Damping of the second moments, as a share of their mean diagonal.
const DAMPING: f64 = 1e-3;

/// Writes into `masked`, at full size, the weights of the layer at `node`, with those of the inputs zero that `keeps`
/// leaves out. Nothing is written where the layer's moments were not taken.
pub(crate) fn reconstruct(
    dense: &Graph,
    masked: &mut Graph,
    observed: &Observed,
    node: usize,
    keeps: impl Fn(usize) -> bool,
) {
    let Some(seen) = observed.layers.iter().find(|seen| seen.layer.node == node) else { return };
    let Some(weights) = seen.layer.matrix(dense, 0) else { return };
    let kept: Vec<usize> = (0..seen.layer.width).filter(|&row| keeps(row / seen.layer.taps)).collect();
    let Some(fit) = fitted(seen, &weights, &kept) else { return };
    let mut whole = Mat::zeros(weights.nrows(), weights.ncols());
    let rows = kept.iter().copied().chain([seen.layer.width]);
    for (from, to) in rows.enumerate() {
        (0..whole.ncols()).for_each(|o| whole[(to, o)] = fit[(from, o)]);
    }
    seen.layer.write(masked, 0, &whole);
}

/// The weights of the `kept` rows of `weights` and the bias, `[kept + 1, outputs]`, that make good the others:
/// `W_K + H_KK⁻¹ H_KR W_R`. `None` where moments were not taken or do not determine them.
pub(crate) fn fitted(seen: &Seen, weights: &Mat<f64>, kept: &[usize]) -> Option<Mat<f64>> {
    let moments = only(seen)?;
    let Layer { width, taps, .. } = seen.layer;
    let mean = moments.mean(DAMPING);
    if moments.columns() == width + 1 {
        return solve(&mean, weights, kept);
    }
    // Moments of channels: each tap by itself; what the constant makes good adds up over taps.
    let channels: Vec<usize> = kept.iter().filter(|&&row| row % taps == 0).map(|row| row / taps).collect();
    let mut fit = Mat::zeros(kept.len() + 1, weights.ncols());
    (0..weights.ncols()).for_each(|o| fit[(kept.len(), o)] = weights[(width, o)]);
    for tap in 0..taps {
        let rows = width / taps;
        let slice = Mat::from_fn(rows + 1, weights.ncols(), |i, o| {
            if i < rows { weights[(i * taps + tap, o)] } else { 0.0 }
        });
        let part = solve(&mean, &slice, &channels)?;
        for o in 0..weights.ncols() {
            for channel in 0..channels.len() {
                fit[(channel * taps + tap, o)] = part[(channel, o)];
            }
            fit[(kept.len(), o)] += part[(channels.len(), o)];
        }
    }
    Some(fit)
}

fn solve(mean: &Mat<f64>, weights: &Mat<f64>, kept: &[usize]) -> Option<Mat<f64>> {
    let last = weights.nrows() - 1;
    let mut stays = vec![false; last + 1];
    kept.iter().chain([&last]).for_each(|&row| stays[row] = true);
    let (keep, gone): (Vec<usize>, Vec<usize>) = (0..=last).partition(|&row| stays[row]);
    let mut fit = Mat::from_fn(keep.len(), weights.ncols(), |i, o| weights[(keep[i], o)]);
    if !gone.is_empty() {
        let lost = Mat::from_fn(gone.len(), weights.ncols(), |i, o| weights[(gone[i], o)]);
        fit += solved(&part(mean, &keep, &keep), &(part(mean, &keep, &gone) * lost))?;
    }
    Some(fit)
}
