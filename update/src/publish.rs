//! The canonical decoded form of a variant: its values on a quantiser's grid, within a stated error.

use secateur_model::{Graph, Tensor};

use crate::grid::{Grid, LEVELS};

/// Tensors of up to this size (biases, normalisation) carry few bytes and much of the accuracy.
const SMALL: usize = 64;
/// So they are held to this share of the error.
const SMALL_SHARE: f64 = 1e-3;
/// Steps of the search for the step, to an octave.
const STEPS_PER_OCTAVE: i32 = 24;
/// Changes are rounded to so many steps of what was there, at most.
const MULTIPLES: i32 = 64;
/// Octaves of the search, from the finest.
const OCTAVES: i32 = 12;

/// `graph` with every float tensor on a uniform grid, such that the normalised mean squared error of each tensor,
/// `Σ (w − ŵ)² / Σ w²`, is at most `max_nmse` (a thousandth of it for tensors of up to 64 elements). Zeros stay zero.
/// The step is the coarsest such that it and every finer one pass. A tensor that already lies on a grid stays as it
/// is, so publishing twice, or pruning what was published, changes nothing. `max_nmse` 0 leaves all as it is.
#[must_use]
pub fn publish(graph: &Graph, max_nmse: f64) -> Graph {
    publish_by(graph, None, |_| max_nmse)
}

/// As [`publish`], with an error of its own for each tensor, by its name. Where the graph was made of one that is published,
/// `before`: of a tensor that has the shape and name of one of that, the *changes* are rounded to the coarsest multiple of
/// that one's step such that the error of the tensor is within the bound. So what did not change stays as it is, bit for bit, what
/// changed little too, and the rest changes by few levels: an update from `before`, or from what it was cut from, costs
/// little more than what changed.
#[must_use]
pub fn publish_by(graph: &Graph, before: Option<&Graph>, max_nmse: impl Fn(&str) -> f64) -> Graph {
    let mut published = graph.clone();
    for (name, tensor) in &mut published.initializers {
        let max_nmse = max_nmse(name);
        if max_nmse > 0.0 {
            let share = if tensor.len() <= SMALL { SMALL_SHARE } else { 1.0 };
            let before = before.and_then(|before| before.initializers.get(name));
            let before = before.filter(|before| before.shape() == tensor.shape()).and_then(Tensor::as_f32);
            if let Some(quantised) = quantised(tensor, max_nmse * share, before) {
                *tensor = quantised;
            }
        }
    }
    published
}

/// None where it stays as it is: no floats, on a grid already, or with values that no grid holds.
fn quantised(tensor: &Tensor, max_nmse: f64, before: Option<&[f32]>) -> Option<Tensor> {
    let values = tensor.as_f32()?;
    if values.iter().any(|value| !value.is_finite()) || Grid::of(values).is_some() {
        return None;
    }
    let squares: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    let holds = |rounded: &Vec<f32>| error(values, rounded) <= max_nmse * squares;
    let moved = before.and_then(|before| {
        let (grid, levels) = Grid::of(before)?;
        let by = |multiple| moved(values, (grid, &levels), multiple).filter(holds);
        (1..=MULTIPLES).map_while(by).last()
    });
    let rounded =
        moved.or_else(|| coarsest(values, squares, max_nmse, |grid| rounded(values, grid).filter(holds)));
    Tensor::f32(tensor.shape(), rounded?).ok()
}

/// The values whose changes are rounded to `multiple` steps of the grid of what was there.
fn moved(values: &[f32], (grid, levels): (Grid, &[i32]), multiple: i32) -> Option<Vec<f32>> {
    let step = grid.step() * f64::from(multiple);
    let moved = |(&value, &level): (&f32, &i32)| {
        if value == 0.0 {
            return Some(0.0); // zeros stay zero
        }
        let change = (f64::from(value) - f64::from(grid.value(level))) / step;
        let level = f64::from(level) + change.round() * f64::from(multiple);
        (level.abs() <= f64::from(LEVELS)).then(|| grid.value(level as i32))
    };
    values.iter().zip(levels).map(moved).collect()
}

/// The values on the coarsest grid such that it and every finer one tried are `within` the error.
fn coarsest(
    values: &[f32],
    squares: f64,
    max_nmse: f64,
    within: impl Fn(Grid) -> Option<Vec<f32>>,
) -> Option<Vec<f32>> {
    let nonzeros = values.iter().filter(|&&value| value != 0.0).count();
    let rms = (squares / nonzeros.max(1) as f64).sqrt();
    // A uniform error has variance step²/12; the search starts an octave below the step
    // that would have this error.
    let expected = rms * (12.0 * max_nmse).sqrt();
    let grids = (-STEPS_PER_OCTAVE..STEPS_PER_OCTAVE * OCTAVES)
        .map_while(|step| Grid::with_step(expected * (f64::from(step) / f64::from(STEPS_PER_OCTAVE)).exp2()));
    grids.map_while(within).last()
}

fn rounded(values: &[f32], grid: Grid) -> Option<Vec<f32>> {
    values.iter().map(|&value| grid.nearest(value).map(|level| grid.value(level))).collect()
}

fn error(values: &[f32], rounded: &[f32]) -> f64 {
    let differences = values.iter().zip(rounded).map(|(&a, &b)| f64::from(a) - f64::from(b));
    differences.map(|difference| difference * difference).sum()
}
