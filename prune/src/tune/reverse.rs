//! Slopes of a graph's weights by one pass forward and one back (reverse mode).

use std::collections::{BTreeMap, HashMap, HashSet};

use secateur_model::{Graph, Tensor};

use super::rules::{self, Call};
use crate::PruneError;
use crate::layer::Layer;
use crate::observe::{Live, step};

/// Slopes by name of a value or tensor.
pub(super) type Slopes = HashMap<String, Vec<f32>>;

/// What of a graph can be tuned, and the values through which slopes go there.
pub(super) struct Reverse {
    /// Each tensor that moves, and the one whose size its steps are a share of.
    tensors: BTreeMap<String, String>,
    /// Values that depend on what moves.
    needed: HashSet<String>,
}

impl Reverse {
    /// The tensors of `layers` from which every way to the first output is known; `None` where there are none.
    pub(super) fn new(graph: &Graph, layers: &[Layer]) -> Option<Self> {
        let output = &graph.outputs.first()?.name;
        let mut reaches = HashSet::from([output.as_str()]);
        let mut blocked: HashSet<&str> = HashSet::new();
        for node in graph.nodes.iter().rev() {
            let any = |set: &HashSet<&str>| node.outputs.iter().any(|name| set.contains(name.as_str()));
            if any(&blocked) || (any(&reaches) && !rules::known(node)) {
                blocked.extend(node.inputs.iter().map(String::as_str));
            } else if any(&reaches) {
                reaches.extend(node.inputs.iter().map(String::as_str));
            }
        }
        let mut tensors = BTreeMap::new();
        for layer in layers {
            let names = [Some(layer.weights.as_str()), layer.bias_name(graph)];
            for name in names.into_iter().flatten() {
                if reaches.contains(name) && !blocked.contains(name) {
                    tensors.insert(name.to_owned(), layer.weights.clone());
                }
            }
        }
        let mut needed: HashSet<String> = tensors.keys().cloned().collect();
        for node in &graph.nodes {
            if node.inputs.iter().any(|name| needed.contains(name)) {
                needed.extend(node.outputs.iter().cloned());
            }
        }
        (!tensors.is_empty()).then_some(Self { tensors, needed })
    }

    /// The tensors that move, each with the one whose size its steps are a share of.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&String, &String)> {
        self.tensors.iter()
    }

    /// The slopes of all tensors that move, where `loss` gives those of the answers to `inputs`. `None` where a node's
    /// way back is not known after all.
    ///
    /// # Errors
    /// Where a node cannot be run.
    pub(super) fn slopes(
        &self,
        graph: &Graph,
        inputs: Tensor,
        loss: impl Fn(&Tensor) -> Vec<f32>,
    ) -> Result<Option<Slopes>, PruneError> {
        let mut live = Live::from([(graph.inputs[0].name.clone(), inputs)]);
        for index in 0..graph.nodes.len() {
            step(graph, index, &mut live)?;
        }
        let output = &graph.outputs[0].name;
        let Some(found) = live.get(output) else { return Ok(None) };
        let mut slopes = Slopes::from([(output.clone(), loss(found))]);
        for (index, node) in graph.nodes.iter().enumerate().rev() {
            let wanted: Vec<bool> = node.inputs.iter().map(|name| self.needed.contains(name)).collect();
            if !wanted.contains(&true) || !node.outputs.iter().any(|name| slopes.contains_key(name)) {
                continue;
            }
            let call = Call { graph, index, live: &live, slopes: &slopes, wanted: &wanted };
            let Some(back) = rules::back(&call)? else { return Ok(None) };
            node.outputs.iter().for_each(|name| drop(slopes.remove(name)));
            for (name, slope) in node.inputs.iter().zip(back) {
                if let Some(slope) = slope {
                    add(&mut slopes, name, slope);
                }
            }
        }
        slopes.retain(|name, _| self.tensors.contains_key(name));
        Ok(Some(slopes))
    }
}

/// Adds the slope of a value to what is known of it.
pub(super) fn add(slopes: &mut Slopes, name: &str, slope: Vec<f32>) {
    match slopes.get_mut(name) {
        Some(sum) => sum.iter_mut().zip(&slope).for_each(|(sum, slope)| *sum += slope),
        None => drop(slopes.insert(name.to_owned(), slope)),
    }
}
