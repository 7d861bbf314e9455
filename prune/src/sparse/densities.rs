//! How dense each layer stays: along curves of divergence, by what its weights cost.

use crate::widths::Prices;

/// Shares of its weights at which a layer may stay.
pub(crate) const STEPS: usize = 96;
/// The ratio of neighbouring shares: the last is under 1 %.
const RATIO: f64 = 0.95;

/// A layer to be pruned.
pub(crate) struct Candidate {
    /// Weights.
    pub(crate) elements: f64,
    /// Multiply-accumulates of one weight.
    pub(crate) uses: f64,
    /// Shares kept, falling from 1, and the divergence there.
    pub(crate) points: Vec<(f64, f64)>,
}

/// The share kept at a step.
pub(crate) fn share(step: usize) -> f64 {
    RATIO.powi(step as i32)
}

impl Candidate {
    /// The divergence at a share: between points linear in both logarithms, beyond them constant or on along the last.
    fn loss(&self, share: f64) -> f64 {
        let small = |value: f64| value.max(1e-9).ln();
        let beyond = self.points.iter().position(|point| point.0 <= share).unwrap_or(self.points.len() - 1);
        let (high, low) = (self.points[beyond.saturating_sub(1)], self.points[beyond]);
        if high.0 <= low.0 {
            return low.1;
        }
        if beyond == 1 {
            // From dense, where nothing is lost: with the square of the share gone.
            return low.1 * ((1.0 - share) / (1.0 - low.0)).powi(2);
        }
        let along = (share.ln() - high.0.ln()) / (low.0.ln() - high.0.ln());
        (small(high.1) + (small(low.1) - small(high.1)) * along).exp()
    }
}

/// The way down: for each move, the layer and the step that it goes to.
pub(crate) fn path(candidates: &[Candidate], prices: &Prices) -> Vec<(usize, usize)> {
    let total = |of: fn(&Candidate) -> f64| candidates.iter().map(of).sum::<f64>().max(1.0);
    let (macs, elements) = (total(|c| c.elements * c.uses), total(|c| c.elements));
    let losses: Vec<Vec<f64>> = candidates
        .iter()
        .map(|candidate| {
            let mut floor = 0.0_f64;
            (0..STEPS)
                .map(|step| {
                    floor = floor.max(candidate.loss(share(step)));
                    floor
                })
                .collect()
        })
        .collect();
    let mut at = vec![0; candidates.len()];
    let mut moves = Vec::new();
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (layer, candidate) in candidates.iter().enumerate() {
            let price =
                candidate.elements * (prices.macs * candidate.uses / macs + prices.parameters / elements);
            for ahead in [1, 2, 4, 8, 16] {
                let end = at[layer] + ahead;
                if end >= STEPS {
                    break;
                }
                let saved = price * (share(at[layer]) - share(end));
                let ratio = saved / (losses[layer][end] - losses[layer][at[layer]]).max(1e-12);
                if best.is_none_or(|(most, _, _)| ratio > most) {
                    best = Some((ratio, layer, end));
                }
            }
        }
        let Some((_, layer, end)) = best else { return moves };
        at[layer] = end;
        moves.push((layer, end));
    }
}

/// The share of each layer after `moves` of the path.
pub(crate) fn after(layers: usize, moves: &[(usize, usize)]) -> Vec<f64> {
    let mut shares = vec![1.0; layers];
    moves.iter().for_each(|&(layer, step)| shares[layer] = share(step));
    shares
}
