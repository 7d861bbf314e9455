//! The canonical decoded form of a variant: its values on a quantiser's grid, within a stated error.

use secateur_model::{Graph, Tensor};

use crate::grid::Grid;

/// Tensors of up to this size (biases, normalisation) carry few bytes and much of the accuracy.
const SMALL: usize = 64;
/// So they are held to this share of the error.
const SMALL_SHARE: f64 = 1e-3;
/// Steps of the search for the step, to an octave.
const STEPS_PER_OCTAVE: i32 = 24;
/// Octaves of the search, from the finest.
const OCTAVES: i32 = 12;

/// `graph` with every float tensor on a uniform grid, such that the normalised mean squared error of each tensor,
/// `Σ (w − ŵ)² / Σ w²`, is at most `max_nmse` (a thousandth of it for tensors of up to 64 elements). Zeros stay zero.
/// The step is the coarsest such that it and every finer one pass. A tensor that already lies on a grid stays as it
/// is, so publishing twice, or pruning what was published, changes nothing. `max_nmse` 0 leaves all as it is.
#[must_use]
pub fn publish(graph: &Graph, max_nmse: f64) -> Graph {
    let mut published = graph.clone();
    if max_nmse > 0.0 {
        for tensor in published.initializers.values_mut() {
            let share = if tensor.len() <= SMALL { SMALL_SHARE } else { 1.0 };
            if let Some(quantised) = quantised(tensor, max_nmse * share) {
                *tensor = quantised;
            }
        }
    }
    published
}

/// None where it stays as it is: no floats, on a grid already, or with values that no grid holds.
fn quantised(tensor: &Tensor, max_nmse: f64) -> Option<Tensor> {
    let values = tensor.as_f32()?;
    if values.iter().any(|value| !value.is_finite()) || Grid::of(values).is_some() {
        return None;
    }
    let squares: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    let nonzeros = values.iter().filter(|&&value| value != 0.0).count();
    let rms = (squares / nonzeros.max(1) as f64).sqrt();
    // A uniform error has variance step²/12; the search starts an octave below the step
    // that would have this error.
    let expected = rms * (12.0 * max_nmse).sqrt();
    let grids = (-STEPS_PER_OCTAVE..STEPS_PER_OCTAVE * OCTAVES)
        .map_while(|step| Grid::with_step(expected * (f64::from(step) / f64::from(STEPS_PER_OCTAVE)).exp2()));
    let mut best = None;
    for grid in grids {
        match rounded(values, grid) {
            Some(rounded) if error(values, &rounded) <= max_nmse * squares => best = Some(rounded),
            _ => break,
        }
    }
    Tensor::f32(tensor.shape(), best?).ok()
}

fn rounded(values: &[f32], grid: Grid) -> Option<Vec<f32>> {
    values.iter().map(|&value| grid.nearest(value).map(|level| grid.value(level))).collect()
}

fn error(values: &[f32], rounded: &[f32]) -> f64 {
    let differences = values.iter().zip(rounded).map(|(&a, &b)| f64::from(a) - f64::from(b));
    differences.map(|difference| difference * difference).sum()
}
