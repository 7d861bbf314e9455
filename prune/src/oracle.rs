//! The oracle: what is cut computes what is masked, on random inputs.

use secateur_model::groups::{Groups, KeepSets, masked};
use secateur_model::{DType, Graph, Tensor, eval, shape};

use crate::PruneError;
use crate::random::Random;

/// The largest difference that is let pass, relative to the largest output.
const TOLERANCE: f64 = 1e-4;
const SAMPLES: usize = 2;

/// Checks that `cut` computes what masking `graph` at its consumers does.
///
/// # Errors
/// [`PruneError::OracleFailed`], or where one of them cannot be run.
pub(crate) fn check(
    graph: &Graph,
    groups: &Groups,
    keep: &KeepSets,
    cut: &Graph,
    seed: u64,
) -> Result<(), PruneError> {
    let masked = masked(graph, groups, keep).map_err(unrunnable)?;
    let inputs = inputs(graph, seed)?;
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let fetch: Vec<&str> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
    let expected = eval::run(&masked, &named, &fetch).map_err(unrunnable)?;
    let found = eval::run(cut, &named, &fetch).map_err(unrunnable)?;
    for (name, expected) in &expected {
        let (Some(a), Some(b)) = (expected.as_f32(), found.get(name).and_then(Tensor::as_f32)) else {
            continue;
        };
        let largest = a.iter().fold(1e-6_f64, |largest, &v| largest.max(f64::from(v.abs())));
        let apart = a.iter().zip(b).map(|(&a, &b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        let difference = if a.len() == b.len() { apart / largest } else { f64::INFINITY };
        if difference.is_nan() || difference > TOLERANCE {
            return Err(PruneError::OracleFailed { difference });
        }
    }
    Ok(())
}

fn inputs(graph: &Graph, seed: u64) -> Result<Vec<(String, Tensor)>, PruneError> {
    let mut random = Random::new(seed);
    let mut inputs = Vec::new();
    for input in &graph.inputs {
        let shape = shape::input_shape(input, SAMPLES, &Default::default()).map_err(unrunnable)?;
        let count = shape.iter().product();
        let tensor = match DType(input.dtype) {
            DType::I64 => Tensor::i64(shape, vec![0; count]),
            _ => Tensor::f32(shape, (0..count).map(|_| random.unit()).collect()),
        };
        inputs.push((input.name.clone(), tensor.map_err(unrunnable)?));
    }
    Ok(inputs)
}

pub(crate) fn unrunnable(error: impl std::fmt::Display) -> PruneError {
    PruneError::Unrunnable { problem: error.to_string() }
}
