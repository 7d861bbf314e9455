//! One pass of the dense net over calibration inputs: what pruning needs to know of it, in bounded memory.

use std::collections::HashMap;

use secateur_model::shape::{self, Shapes};
use secateur_model::{Graph, Node, Tensor, eval};

use crate::layer::{Layer, Sampling};
use crate::moments::Moments;
use crate::oracle::unrunnable;
use crate::random::Random;
use crate::{Progress, PruneError};

/// Inputs taken, at most.
const IMAGES: usize = 4096;
/// Rows of a layer, at most; images are never left out, places are.
const ROWS: usize = 32_768;
/// Elements of a layer's unrolled rows, or of its targets, at most (256 MiB).
const ROW_ELEMENTS: usize = 1 << 26;
/// Elements of all activations of one pass that are alive at once, at most (1 GiB).
const LIVE_ELEMENTS: usize = 1 << 28;
/// Images run at once where nothing has to wait for the others.
const BATCH: usize = 128;
/// Columns of a layer's second moments, at most: above, its channels' are taken.
pub(crate) const FULL_COLUMNS: usize = 2_400;

/// Values by name.
pub(crate) type Live = HashMap<String, Tensor>;

/// What the dense net does on the calibration inputs.
pub(crate) struct Observed {
    /// The inputs, at most [`IMAGES`], in a random order.
    pub(crate) inputs: Tensor,
    /// Layers that can be fitted, in the order of their nodes.
    pub(crate) layers: Vec<Seen>,
    /// The graph's first output.
    pub(crate) output: Tensor,
}

impl Observed {
    /// How many inputs there are.
    pub(crate) fn images(&self) -> usize {
        self.inputs.shape()[0]
    }

    /// The layer of `dense` that makes what `node` of a cut of it makes.
    pub(crate) fn layer_of(&self, dense: &Graph, node: &Node) -> Option<&Seen> {
        self.layers.iter().find(|seen| dense.nodes[seen.layer.node].outputs == node.outputs)
    }
}

/// A layer as it was seen.
pub(crate) struct Seen {
    pub(crate) layer: Layer,
    pub(crate) sampling: Sampling,
    pub(crate) tail: Tail,
    /// Second moments of its unrolled input: of all columns, or where these are too many, of its channels (each tap a
    /// row). One for each block; none where they are not wanted or too many.
    pub(crate) moments: Vec<Moments>,
    /// The value behind its tail at the sampled places, `[rows, outputs]`.
    pub(crate) targets: Vec<f32>,
    /// The layer's own result there, where something is added to it.
    pub(crate) own: Vec<f32>,
}

impl Seen {
    /// What a cut net adds to the layer's result, at the sampled places, if it is known and `outputs` wide.
    pub(crate) fn added(&self, live: &Live, outputs: usize) -> Option<Vec<f32>> {
        let value = live.get(self.tail.added.as_ref()?)?;
        let taken = at_places(self, value, 0)?;
        (taken.len() == value.shape()[0] * self.sampling.each * outputs).then_some(taken)
    }
}

/// What follows a layer: what is added to its result, and the range beyond which its value does not matter.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tail {
    /// The value in front of the activation.
    pub(crate) value: String,
    /// The other operand of the addition that makes it, if one does.
    pub(crate) added: Option<String>,
    /// Values under the first and over the second come out as these.
    pub(crate) range: (f32, f32),
}

impl Tail {
    fn of(graph: &Graph, layer: &Layer) -> Self {
        let result = graph.nodes[layer.node].outputs[0].clone();
        let mut tail = Self { value: result, added: None, range: (f32::NEG_INFINITY, f32::INFINITY) };
        if let Some(add) = only_reader(graph, &tail.value).filter(|&reader| graph.nodes[reader].is("Add")) {
            let add = &graph.nodes[add];
            if let Some(other) = add.inputs.iter().find(|name| **name != tail.value) {
                let constant = graph.initializers.contains_key(other);
                if !constant || layer.bias_is(other) {
                    tail = Self {
                        added: (!constant).then(|| other.clone()),
                        value: add.outputs[0].clone(),
                        ..tail
                    };
                }
            }
        }
        if let Some(reader) = only_reader(graph, &tail.value) {
            tail.range = range(graph, reader);
        }
        tail
    }
}

fn only_reader(graph: &Graph, value: &str) -> Option<usize> {
    let mut readers =
        (0..graph.nodes.len()).filter(|&at| graph.nodes[at].inputs.iter().any(|name| name == value));
    let first = readers.next()?;
    let alone = readers.next().is_none() && graph.outputs.iter().all(|output| output.name != value);
    alone.then_some(first)
}

/// The range outside of which an activation's value does not change.
fn range(graph: &Graph, node: usize) -> (f32, f32) {
    let node = &graph.nodes[node];
    let free = (f32::NEG_INFINITY, f32::INFINITY);
    match node.op.as_str() {
        "Relu" => return (0.0, f32::INFINITY),
        "HardSwish" => return (-3.0, f32::INFINITY),
        "HardSigmoid" => {
            let (slope, middle) = (node.float("alpha", 0.2), node.float("beta", 0.5));
            return if slope > 0.0 { (-middle / slope, (1.0 - middle) / slope) } else { free };
        }
        "Clip" => {}
        _ => return free,
    }
    let bound = |slot: usize, name: &str, default: f32| match node.input(slot) {
        Some(name) => {
            graph.initializers.get(name).and_then(|t| t.as_f32()?.first().copied()).unwrap_or(default)
        }
        None => node.float(name, default),
    };
    (bound(1, "min", free.0), bound(2, "max", free.1))
}

/// The inputs that are taken of `calibration`, in a random order: a file may be sorted, and those that a refit does not
/// see are the last ones.
///
/// # Errors
/// Where the graph's shapes are not known.
pub(crate) fn sampled(graph: &Graph, calibration: &Tensor) -> Result<Tensor, PruneError> {
    let shapes = shape::infer(graph, 1).map_err(unrunnable)?;
    let most = IMAGES.min((LIVE_ELEMENTS / live_elements(graph, &shapes).max(1)).max(1));
    let mut order: Vec<usize> = (0..calibration.shape()[0]).collect();
    Random::new(0).shuffle(&mut order);
    order.truncate(most);
    Ok(calibration.gathered(0, &order))
}

/// Runs `graph` over `inputs`; takes moments of the layers for which `wanted` says so.
///
/// # Errors
/// Where a node cannot be run on the inputs.
pub(crate) fn observe(
    graph: &Graph,
    inputs: Tensor,
    wanted: impl Fn(&str) -> bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Observed, PruneError> {
    let images = inputs.shape()[0];
    let mut layers = unseen(graph, images, wanted)?;
    let Some(input) = graph.inputs.first() else {
        return Err(PruneError::Unrunnable { problem: "it has no input".into() });
    };
    let result = &graph.outputs[0].name;
    let mut outputs = Vec::new();
    for first in (0..images).step_by(BATCH) {
        progress(Progress { stage: "statistics", done: first, total: images });
        let batch: Vec<usize> = (first..(first + BATCH).min(images)).collect();
        let mut live = Live::from([(input.name.clone(), inputs.gathered(0, &batch))]);
        for index in 0..graph.nodes.len() {
            for seen in layers.iter_mut().filter(|seen| seen.layer.node == index) {
                take_moments(graph, seen, &live, first);
            }
            step(graph, index, &mut live)?;
            for seen in &mut layers {
                let outputs = &graph.nodes[index].outputs;
                if outputs.contains(&seen.tail.value) {
                    let taken = at_places(seen, &live[&seen.tail.value], first);
                    seen.targets.extend(taken.into_iter().flatten());
                } else if seen.layer.node == index {
                    let taken = at_places(seen, &live[&outputs[0]], first);
                    seen.own.extend(taken.into_iter().flatten());
                }
            }
            forget(graph, index, &mut live);
        }
        outputs.extend(live.remove(result));
    }
    progress(Progress { stage: "statistics", done: images, total: images });
    let output = Tensor::concatenated(&outputs.iter().collect::<Vec<_>>(), 0).map_err(unrunnable)?;
    // What was not seen at every place (a layer under another batch) cannot be fitted.
    layers.retain(|seen| {
        let all = images * seen.sampling.each * seen.layer.outputs;
        seen.targets.len() == all && (seen.own.is_empty() || seen.own.len() == all)
    });
    Ok(Observed { inputs, layers, output })
}

/// The layers before anything was seen of them, for so many images.
///
/// # Errors
/// Where the graph's shapes are not known.
pub(crate) fn unseen(
    graph: &Graph,
    images: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Seen>, PruneError> {
    let shapes = shape::infer(graph, 1).map_err(unrunnable)?;
    let nodes = 0..graph.nodes.len();
    Ok(nodes.filter_map(|node| seen(graph, &shapes, node, images, &wanted)).collect())
}

fn seen(
    graph: &Graph,
    shapes: &Shapes,
    node: usize,
    images: usize,
    wanted: &impl Fn(&str) -> bool,
) -> Option<Seen> {
    let layer = Layer::of(graph, node)?;
    let area = layer.area(shapes.get(&graph.nodes[node].outputs[0])?);
    let rows = ROWS.min(ROW_ELEMENTS / (layer.width + 1).max(layer.outputs));
    let sampling = Sampling::new(&layer, area, images, rows);
    let columns = if layer.width < FULL_COLUMNS { layer.width } else { layer.width / layer.taps };
    let few = columns < FULL_COLUMNS && layer.blocks * (columns + 1).pow(2) <= FULL_COLUMNS.pow(2);
    let count = if few && wanted(&layer.weights) { layer.blocks } else { 0 };
    let moments = vec![Moments::new(columns + 1); count];
    Some(Seen {
        tail: Tail::of(graph, &layer),
        layer,
        sampling,
        moments,
        targets: Vec::new(),
        own: Vec::new(),
    })
}

fn take_moments(graph: &Graph, seen: &mut Seen, live: &Live, first: usize) {
    let Some(x) = graph.nodes[seen.layer.node].input(0).and_then(|name| live.get(name)) else { return };
    for (block, moments) in seen.moments.iter_mut().enumerate() {
        let Some(rows) = seen.layer.unroll(graph, x, &seen.sampling, first, block) else { return };
        let (taps, width) = (seen.layer.taps, seen.layer.width);
        if moments.columns() == width + 1 {
            moments.add(&rows);
            continue;
        }
        let mut channels = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(width + 1) {
            for tap in 0..taps {
                channels.extend((0..width / taps).map(|channel| row[channel * taps + tap]));
                channels.push(1.0);
            }
        }
        moments.add(&channels);
    }
}

/// A value of a layer's output layout at the layer's sampled places, `[rows, outputs]`; `first` is the number of its
/// first image.
fn at_places(seen: &Seen, value: &Tensor, first: usize) -> Option<Vec<f32>> {
    let (layer, area) = (&seen.layer, seen.sampling.area);
    let (shape, values) = (value.shape(), value.as_f32()?);
    let channels = layer.channels(shape);
    if channels == 0 || values.len() != shape[0] * area * channels {
        return None;
    }
    let mut taken = Vec::with_capacity(shape[0] * seen.sampling.each * channels);
    for image in 0..shape[0] {
        for place in seen.sampling.places(first + image) {
            taken.extend((0..channels).map(|o| values[layer.index(shape, area, (image, place, o))]));
        }
    }
    Some(taken)
}

/// Runs one node on what is live.
pub(crate) fn step(graph: &Graph, index: usize, live: &mut Live) -> Result<(), PruneError> {
    let node = &graph.nodes[index];
    let constants =
        node.inputs.iter().filter_map(|name| Some((name.clone(), graph.initializers.get(name)?.clone())));
    let single = Graph {
        opsets: graph.opsets.clone(),
        nodes: vec![node.clone()],
        initializers: constants.collect(),
        ..Graph::default()
    };
    let inputs: Vec<(&str, &Tensor)> =
        node.inputs.iter().filter_map(|name| Some((name.as_str(), live.get(name)?))).collect();
    let fetch: Vec<&str> = node.outputs.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    let outputs = eval::run(&single, &inputs, &fetch).map_err(unrunnable)?;
    live.extend(outputs);
    Ok(())
}

/// Drops what no node after `index` reads and is no output.
pub(crate) fn forget(graph: &Graph, index: usize, live: &mut Live) {
    let read_later = |name: &String| graph.nodes[index + 1..].iter().any(|node| node.inputs.contains(name));
    live.retain(|name, _| read_later(name) || graph.outputs.iter().any(|output| &output.name == name));
}

/// The elements that one image's values take at the most crowded node.
fn live_elements(graph: &Graph, shapes: &Shapes) -> usize {
    let mut last = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        last.extend(node.inputs.iter().map(|name| (name.as_str(), index)));
    }
    let size = |name: &String| shapes.get(name).map_or(0, |shape| shape.iter().product::<usize>());
    let mut live: usize = graph.inputs.iter().map(|input| size(&input.name)).sum();
    let mut most = live;
    for (index, node) in graph.nodes.iter().enumerate() {
        live += node.outputs.iter().map(size).sum::<usize>();
        most = most.max(live);
        let dead = node.inputs.iter().filter(|name| last.get(name.as_str()) == Some(&index));
        live -=
            dead.filter(|name| !graph.initializers.contains_key(*name)).map(size).sum::<usize>().min(live);
    }
    most
}
