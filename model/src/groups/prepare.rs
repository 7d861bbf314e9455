//! What makes a graph ready for its groups to be found and cut.

use std::collections::BTreeSet;

use crate::shape::{self, Shapes};
use crate::{Graph, Tensor, fold};

/// Folds constants, fixes the shapes that reshapes compute at run time (only the batch stays free), and gives every
/// use of a float constant a tensor of its own, so that one can be cut without the other. What the graph computes
/// stays as it is.
pub fn prepare(graph: &mut Graph) {
    fold::constants(graph);
    fix_reshapes(graph);
    unshare(graph);
}

/// Replaces a computed shape of a `Reshape` by a constant one where only its batch changes with the batch.
fn fix_reshapes(graph: &mut Graph) {
    let (Ok(one), Ok(three)) = (shape::infer(graph, 1), shape::infer(graph, 3)) else { return };
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let computed =
            node.is("Reshape") && node.input(1).is_some_and(|name| !graph.initializers.contains_key(name));
        let Some(shape) = computed.then(|| fixed_shape(&node.outputs[0], &one, &three)).flatten() else {
            continue;
        };
        let name = format!("{}.shape", node.outputs[0]);
        if let (false, Ok(tensor)) =
            (graph.initializers.contains_key(&name), Tensor::i64([shape.len()], shape))
        {
            graph.initializers.insert(name.clone(), tensor);
            graph.nodes[index].inputs[1] = name;
        }
    }
    fold::unused(graph);
}

fn fixed_shape(output: &str, one: &Shapes, three: &Shapes) -> Option<Vec<i64>> {
    let (one, three) = (one.get(output)?, three.get(output)?);
    let free = one.iter().zip(three).filter(|(a, b)| a != b).count();
    let dims = one.iter().zip(three).map(|(a, b)| if a == b { *a as i64 } else { -1 });
    (one.len() == three.len() && free <= 1).then(|| dims.collect())
}

fn unshare(graph: &mut Graph) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for index in 0..graph.nodes.len() {
        for slot in 0..graph.nodes[index].inputs.len() {
            let name = graph.nodes[index].inputs[slot].clone();
            let Some(tensor) = graph.initializers.get(&name) else { continue };
            if tensor.as_f32().is_none() || tensor.len() < 2 || seen.insert(name.clone()) {
                continue;
            }
            let own = (2..).map(|n| format!("{name}.{n}")).find(|own| !graph.initializers.contains_key(own));
            let (Some(own), tensor) = (own, tensor.clone()) else { continue };
            graph.initializers.insert(own.clone(), tensor);
            seen.insert(own.clone());
            graph.nodes[index].inputs[slot] = own;
        }
    }
}
