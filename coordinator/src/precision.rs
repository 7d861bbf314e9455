//! How exactly the weights of a model are published: so that answers on the calibration inputs move by no more than a
//! stated divergence, and weights that answers depend on most are told best.

use std::collections::BTreeMap;

use secateur_model::{Graph, Tensor};
use secateur_prune::{PruneError, Sensitivity};
use secateur_update::publish_by;
use serde::{Deserialize, Serialize};

/// The error that each tensor of a model may have, normalised mean squares: the configured one, where nothing less was
/// found to be needed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Precision(BTreeMap<String, f64>);

/// What publishing may cost.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    /// The normalised mean squared error of each tensor, at most.
    pub nmse: f64,
    /// The divergence of the answers, nats, at most.
    pub divergence: f64,
}

/// Looks at the divergence, at most.
const ROUNDS: usize = 10;
/// In one look the error of a tensor is lowered to this share, at most: divergences far away tell little.
const STEP: f64 = 1.0 / 64.0;
/// What tensors one by one may add up to, a share of what all together may: they do not simply add up.
const SHARE: f64 = 0.8;

impl Precision {
    /// The error that a tensor may have.
    fn of(&self, name: &str, bounds: Bounds) -> f64 {
        self.0.get(name).map_or(bounds.nmse, |nmse| nmse.min(bounds.nmse))
    }

    /// `graph` as it is published by what is known of its tensors by now; on the grids of `before`, if it was made of that.
    pub fn publish(&self, graph: &Graph, before: Option<&Graph>, bounds: Bounds) -> Graph {
        publish_by(graph, before, |name| self.of(name, bounds))
    }

    /// The same, within the divergence: where it is exceeded, the precision rises. What the answers lose by a tensor's error
    /// goes with that error, and a bit a weight takes three quarters of it: so bits are spent best where each tensor's
    /// divergence is in proportion to its number of weights.
    ///
    /// # Errors
    /// Where the graph cannot be run on the inputs.
    pub fn settle(
        &mut self,
        graph: &Graph,
        before: Option<&Graph>,
        inputs: &Tensor,
        bounds: Bounds,
    ) -> Result<Graph, PruneError> {
        let mut published = self.publish(graph, before, bounds);
        if bounds.nmse == 0.0 {
            return Ok(published);
        }
        let sensitivity = Sensitivity::new(graph, inputs)?;
        for _ in 0..ROUNDS {
            let divergence = sensitivity.divergence(&published)?;
            if divergence <= bounds.divergence {
                return Ok(published);
            }
            tracing::debug!(divergence, "published weights move the answers: they are told more exactly");
            self.rise(graph, &sensitivity.each(&published)?, bounds);
            published = self.publish(graph, before, bounds);
        }
        let divergence = sensitivity.divergence(&published)?;
        tracing::warn!(
            divergence,
            bound = bounds.divergence,
            "published weights move the answers by more than the bound"
        );
        Ok(published)
    }

    /// Lowers the errors of those tensors whose divergence alone, of `each`, is over their share of the bound; or of all, where
    /// none is.
    fn rise(&mut self, graph: &Graph, each: &[(String, f64)], bounds: Bounds) {
        let weights = |name: &String| graph.initializers.get(name).map_or(0, Tensor::len) as f64;
        let all: f64 = each.iter().map(|(name, _)| weights(name)).sum();
        let mut risen = false;
        for (name, divergence) in each {
            let allotted = SHARE * bounds.divergence * weights(name) / all.max(1.0);
            if *divergence > allotted {
                let lower = self.of(name, bounds) * (allotted / divergence).max(STEP);
                self.0.insert(name.clone(), lower);
                risen = true;
            }
        }
        if !risen {
            for (name, _) in each {
                self.0.insert(name.clone(), self.of(name, bounds) / 2.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secateur_engine::Dataset;
    use secateur_model::onnx;
    use secateur_update::publish;

    use super::*;

    const BOUNDS: Bounds = Bounds { nmse: 1e-3, divergence: 2e-3 };

    /// A net in which one channel is a thousand times as large as the others, and read a thousandth as strongly: the same
    /// answers, and one error for the whole tensor hides the other channels.
    fn uneven(mut graph: Graph) -> Graph {
        let mut scale = |name: &str, axis: usize, factor: f32| {
            let tensor = graph.initializers.get_mut(name).unwrap();
            let inner: usize = tensor.shape()[axis + 1..].iter().product();
            let length = tensor.shape()[axis];
            let values = tensor.as_f32_mut().unwrap().iter_mut().enumerate();
            values
                .filter(|(at, _)| (at / inner).is_multiple_of(length))
                .for_each(|(_, value)| *value *= factor);
        };
        scale("conv1.weight", 0, 1000.0);
        scale("conv1.bias", 0, 1000.0);
        scale("conv2.weight", 1, 0.001);
        graph
    }

    #[test]
    fn weights_are_told_as_exactly_as_the_answers_need() {
        let even = onnx::read(include_bytes!("../../examples/lenet5.onnx")).unwrap();
        let data = Dataset::from_npz(include_bytes!("../../examples/calibration.npz")).unwrap();
        let inputs = data.subset(0..64).inputs();
        let mut precision = Precision::default();
        assert_eq!(precision.settle(&even, None, &inputs, BOUNDS).unwrap(), publish(&even, 1e-3));
        assert_eq!(precision, Precision::default(), "nothing more was needed");

        let uneven = uneven(even);
        let sensitivity = Sensitivity::new(&uneven, &inputs).unwrap();
        let plain = sensitivity.divergence(&publish(&uneven, 1e-3)).unwrap();
        let settled = precision.settle(&uneven, None, &inputs, BOUNDS).unwrap();
        let divergence = sensitivity.divergence(&settled).unwrap();
        assert!(plain > 10.0 * BOUNDS.divergence && divergence <= BOUNDS.divergence, "{plain} {divergence}");
        assert_eq!(precision.publish(&uneven, None, BOUNDS), settled, "what was found is kept");
        assert!(precision.of("conv1.weight", BOUNDS) < 1e-4 && precision.of("fc1.weight", BOUNDS) > 1e-4);
    }
}
