//! What changes of a graph's weights do to its answers, without labels: all together, and each tensor's alone.

use secateur_model::groups;
use secateur_model::{Graph, Tensor};

use crate::curves::from;
use crate::observe::{Live, forget, sampled, step};
use crate::oracle::unrunnable;
use crate::{PruneError, observe};

/// Inputs on which answers are compared, at most.
const INPUTS: usize = 128;

/// A graph and its answers to some inputs.
pub struct Sensitivity<'g> {
    graph: &'g Graph,
    prepared: Graph,
    inputs: Tensor,
    answers: Tensor,
}

impl<'g> Sensitivity<'g> {
    /// `inputs` are those of the graph, `[N, …]`.
    ///
    /// # Errors
    /// Where it cannot be run on them.
    pub fn new(graph: &'g Graph, inputs: &Tensor) -> Result<Self, PruneError> {
        let prepared = prepared(graph);
        let inputs = sampled(&prepared, inputs)?;
        let some: Vec<usize> = (0..inputs.shape()[0].min(INPUTS)).collect();
        let inputs = inputs.gathered(0, &some);
        let answers = observe::observe(&prepared, inputs.clone(), |_| false, &mut |_| ())?.output;
        Ok(Self { graph, prepared, inputs, answers })
    }

    /// The divergence of the answers of `changed`, nats.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn divergence(&self, changed: &Graph) -> Result<f64, PruneError> {
        let changed = prepared(changed);
        from(&changed, 0, self.live(&changed)?, &self.answers)
    }

    /// For each tensor that is another one in `changed`: the divergence if it alone is changed.
    ///
    /// # Errors
    /// Where the graph cannot be run so.
    pub fn each(&self, changed: &Graph) -> Result<Vec<(String, f64)>, PruneError> {
        let mut alone = Vec::new();
        for (name, tensor) in &changed.initializers {
            if self.graph.initializers.get(name).is_some_and(|before| before != tensor) {
                let mut graph = self.graph.clone();
                graph.initializers.insert(name.clone(), tensor.clone());
                let graph = prepared(&graph);
                alone.push((name.clone(), self.first_changed(&graph), graph));
            }
        }
        let mut each = Vec::new();
        let mut live = self.live(&self.prepared)?;
        for index in 0..=self.prepared.nodes.len() {
            for (name, _, graph) in alone.iter().filter(|(_, first, _)| *first == index) {
                each.push((name.clone(), from(graph, index, live.clone(), &self.answers)?));
            }
            if index < self.prepared.nodes.len() {
                step(&self.prepared, index, &mut live)?;
                forget(&self.prepared, index, &mut live);
            }
        }
        Ok(each)
    }

    /// The first node that another graph of the same kind runs otherwise.
    fn first_changed(&self, other: &Graph) -> usize {
        let nodes = self.prepared.nodes.iter().zip(&other.nodes);
        let same = |name: &String| self.prepared.initializers.get(name) == other.initializers.get(name);
        nodes.take_while(|(a, b)| a == b && a.inputs.iter().all(same)).count()
    }

    fn live(&self, graph: &Graph) -> Result<Live, PruneError> {
        let input = graph.inputs.first().ok_or_else(|| unrunnable("it has no input"))?;
        Ok(Live::from([(input.name.clone(), self.inputs.clone())]))
    }
}

fn prepared(graph: &Graph) -> Graph {
    let mut prepared = graph.clone();
    groups::prepare(&mut prepared);
    prepared
}

#[cfg(test)]
mod tests {
    use secateur_model::onnx;

    use super::*;

    #[test]
    fn one_change_alone_is_the_change_of_all() {
        let graph = onnx::read(include_bytes!("../../examples/lenet5.onnx")).unwrap();
        let values = (0..8 * 784).map(|at| ((at * at / 7 + at * 31) % 255) as f32 / 255.0).collect();
        let inputs = Tensor::f32([8, 1, 28, 28], values).unwrap();
        let sensitivity = Sensitivity::new(&graph, &inputs).unwrap();
        assert_eq!(sensitivity.divergence(&graph).unwrap(), 0.0);
        let mut changed = graph.clone();
        let (mut names, mut alone) = (Vec::new(), Vec::new());
        for (name, tensor) in changed.initializers.iter_mut().filter(|(_, tensor)| tensor.as_f32().is_some())
        {
            tensor.as_f32_mut().unwrap().iter_mut().for_each(|value| *value *= 1.3);
            let mut one = graph.clone();
            one.initializers.insert(name.clone(), tensor.clone());
            names.push(name.clone());
            alone.push(sensitivity.divergence(&one).unwrap());
        }
        let mut each = sensitivity.each(&changed).unwrap();
        each.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(each, names.into_iter().zip(alone).collect::<Vec<_>>());
        assert!(sensitivity.divergence(&changed).unwrap() > 0.0);
    }
}
