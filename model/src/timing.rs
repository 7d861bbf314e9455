//! What one inference takes on some machine: a sum over nodes of amounts of work, each with a coefficient of its own.
//! Who knows the coefficients measured them; nothing here reads a clock.

use std::collections::BTreeMap;

use crate::cost::{self, LayerCost};
use crate::shape::{self, ShapeError, Shapes};
use crate::{Graph, Node};

/// What an inference's time is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Work {
    /// The inference itself, once.
    Inference,
    /// A convolution or product by a constant.
    Layer,
    /// Another node that moves data.
    Node,
    /// A multiply-accumulate of a convolution over several places.
    ConvolutionMac,
    /// One of a convolution by a 1×1 kernel.
    PointwiseMac,
    /// One of a depthwise or grouped convolution.
    GroupedMac,
    /// One of a product.
    ProductMac,
    /// One of a sparse layer, be its weight zero or not.
    SparseMac,
    /// One of a sparse layer by a weight that is not zero.
    SparseNonzeroMac,
    /// A byte of an activation, read or written.
    Byte,
}

impl Work {
    /// All kinds, in the order of [`Amounts`].
    pub const ALL: [Self; 10] = [
        Self::Inference,
        Self::Layer,
        Self::Node,
        Self::ConvolutionMac,
        Self::PointwiseMac,
        Self::GroupedMac,
        Self::ProductMac,
        Self::SparseMac,
        Self::SparseNonzeroMac,
        Self::Byte,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Layer => "layer",
            Self::Node => "node",
            Self::ConvolutionMac => "convolution_mac",
            Self::PointwiseMac => "pointwise_mac",
            Self::GroupedMac => "grouped_mac",
            Self::ProductMac => "product_mac",
            Self::SparseMac => "sparse_mac",
            Self::SparseNonzeroMac => "sparse_nonzero_mac",
            Self::Byte => "byte",
        }
    }
}

/// A number for each kind of work, in the order of [`Work::ALL`].
pub type Amounts = [f64; Work::ALL.len()];

/// A layer is sparse where at most this share of its weights is not zero.
const SPARSE: f64 = 0.5;
/// A coefficient, times the length of its column, under which it stands for none.
const SMALL: f64 = 1e-9;
/// Sweeps of a fit over its coefficients.
const SWEEPS: usize = 4_000;

/// What energy an inference takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Energy {
    /// So many watts while it runs.
    Watts(f64),
    /// Microjoules for each multiply-accumulate by a weight that is not zero and for each byte of an activation.
    Work {
        /// For a multiply-accumulate.
        per_mac: f64,
        /// For a byte.
        per_byte: f64,
    },
}

/// The coefficients of one class of machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timing {
    /// Microseconds of the median inference for each amount of work.
    pub us: Amounts,
    /// The 95th percentile over the median.
    pub tail: f64,
    /// Output channels that a kernel computes together: a layer's are rounded up to a multiple.
    pub lanes: usize,
    /// What energy it takes, where that is known.
    pub energy: Option<Energy>,
}

impl Timing {
    /// The median time of one inference of `graph`, microseconds.
    ///
    /// # Errors
    /// Where an input's shape is not known.
    pub fn p50_us(&self, graph: &Graph) -> Result<f64, ShapeError> {
        Ok(dot(&self.us, &amounts(graph, self.lanes)?))
    }

    /// The 95th percentile, microseconds.
    ///
    /// # Errors
    /// Where an input's shape is not known.
    pub fn p95_us(&self, graph: &Graph) -> Result<f64, ShapeError> {
        Ok(self.tail * self.p50_us(graph)?)
    }

    /// The energy of one inference, microjoules; `None` where its coefficients are not known.
    ///
    /// # Errors
    /// Where an input's shape is not known.
    pub fn energy_uj(&self, graph: &Graph) -> Result<Option<f64>, ShapeError> {
        Ok(match self.energy {
            None => None,
            Some(Energy::Watts(watts)) => Some(watts * self.p50_us(graph)?),
            Some(Energy::Work { per_mac, per_byte }) => {
                let macs = cost::analyse(graph)?.macs().get() as f64;
                Some(per_mac * macs + per_byte * amounts(graph, self.lanes)?[Work::Byte as usize])
            }
        })
    }

    /// Microseconds of one multiply-accumulate of a dense layer.
    pub fn us_per_mac(&self, layer: &LayerCost) -> f64 {
        self.us[kind(layer) as usize]
    }

    /// Microseconds of one byte of an activation that is read or written.
    pub fn us_per_byte(&self) -> f64 {
        self.us[Work::Byte as usize]
    }

    /// The same machine after it took `factor` times as long as was said, and its 95th percentile was `tail` medians.
    #[must_use]
    pub fn corrected(&self, factor: f64, tail: f64) -> Self {
        Self { us: self.us.map(|us| us * factor), tail, ..*self }
    }
}

/// An inference that was timed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// What it was made of.
    pub amounts: Amounts,
    /// Its median time, microseconds.
    pub us: f64,
    /// How much it counts.
    pub weight: f64,
}

/// The amounts of work in one inference of `graph`.
///
/// # Errors
/// Where an input's shape is not known.
pub fn amounts(graph: &Graph, lanes: usize) -> Result<Amounts, ShapeError> {
    let shapes = shape::infer(graph, 1)?;
    let mut amounts = Amounts::default();
    amounts[Work::Inference as usize] = 1.0;
    let layers = cost::analyse(graph)?.layers;
    let moving = graph.nodes.iter().filter(|node| moves(node)).count();
    amounts[Work::Layer as usize] = layers.len() as f64;
    amounts[Work::Node as usize] = moving.saturating_sub(layers.len()) as f64;
    for layer in &layers {
        let (macs, nonzero) = (layer.dense_macs.get() as f64, layer.macs.get() as f64);
        let kind = kind(layer);
        if kind != Work::GroupedMac && nonzero <= SPARSE * macs {
            amounts[Work::SparseMac as usize] += macs;
            amounts[Work::SparseNonzeroMac as usize] += nonzero;
        } else {
            amounts[kind as usize] += macs * padding(layer, lanes);
        }
    }
    amounts[Work::Byte as usize] =
        traffic(graph).into_iter().map(|(name, times)| (times * 4 * elements(&shapes, name)) as f64).sum();
    Ok(amounts)
}

/// How often each activation is written or read.
pub fn traffic(graph: &Graph) -> BTreeMap<&str, usize> {
    let mut times = BTreeMap::new();
    for node in graph.nodes.iter().filter(|node| moves(node)) {
        let names = node.inputs.iter().chain(&node.outputs).filter(|name| !name.is_empty());
        for name in names.filter(|name| !graph.initializers.contains_key(*name)) {
            *times.entry(name.as_str()).or_default() += 1;
        }
    }
    times
}

/// The coefficients, none of them negative, that tell the times of `samples` with the least squares of what they are
/// off by as a share of the time. A kind of work of which no sample has any gets zero.
pub fn fitted(samples: &[Sample]) -> Amounts {
    // Each row as a share of its time, each column of length one.
    let rows: Vec<(Amounts, f64)> = samples
        .iter()
        .filter(|sample| sample.us > 0.0)
        .map(|sample| (sample.amounts.map(|amount| amount / sample.us), sample.weight))
        .collect();
    let length = |at: usize| rows.iter().map(|(row, weight)| weight * row[at] * row[at]).sum::<f64>().sqrt();
    let lengths: Vec<f64> = (0..Work::ALL.len()).map(length).collect();
    let scaled = |row: &Amounts, at: usize| if lengths[at] > 0.0 { row[at] / lengths[at] } else { 0.0 };
    let inner = |a: usize, b: usize| {
        rows.iter().map(|(row, weight)| weight * scaled(row, a) * scaled(row, b)).sum::<f64>()
    };
    let all = || 0..Work::ALL.len();
    let gram: Vec<Vec<f64>> = all().map(|a| all().map(|b| inner(a, b)).collect()).collect();
    let goal: Vec<f64> =
        all().map(|at| rows.iter().map(|(row, weight)| weight * scaled(row, at)).sum()).collect();
    // Cyclic descent: each coefficient at its best, given the others, or at zero.
    let mut us = Amounts::default();
    for _ in 0..SWEEPS {
        for at in all().filter(|&at| gram[at][at] > 0.0) {
            let others: f64 = all().filter(|&b| b != at).map(|b| gram[at][b] * us[b]).sum();
            us[at] = ((goal[at] - others) / gram[at][at]).max(0.0);
        }
    }
    all().for_each(|at| us[at] = if us[at] > SMALL { us[at] / lengths[at] } else { 0.0 });
    us
}

fn dot(us: &Amounts, amounts: &Amounts) -> f64 {
    us.iter().zip(amounts).map(|(us, amount)| us * amount).sum()
}

/// Whether a node does more than name what is there.
fn moves(node: &Node) -> bool {
    !["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Constant", "Shape"]
        .iter()
        .any(|op| node.is(op))
}

/// The kind of a layer's multiply-accumulates, all of its weights taken.
fn kind(layer: &LayerCost) -> Work {
    match layer.weights.get(1) {
        _ if layer.op != "Conv" => Work::ProductMac,
        Some(inputs) if layer.input.get(1).is_some_and(|channels| channels != inputs) => Work::GroupedMac,
        _ if layer.weights[2..].iter().all(|&length| length == 1) => Work::PointwiseMac,
        _ => Work::ConvolutionMac,
    }
}

/// By how much a layer's outputs grow when they are rounded up to whole lanes.
fn padding(layer: &LayerCost, lanes: usize) -> f64 {
    let outputs = if layer.op == "Conv" { layer.output.get(1) } else { layer.output.last() };
    let outputs = outputs.copied().unwrap_or(0).max(1);
    outputs.next_multiple_of(lanes.max(1)) as f64 / outputs as f64
}

fn elements(shapes: &Shapes, name: &str) -> usize {
    shapes.get(name).map_or(0, |shape| shape.iter().product())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_finds_the_coefficients_that_made_the_times() {
        let us: Amounts = [3.0, 0.5, 0.0, 1e-3, 2e-3, 4e-3, 5e-4, 1e-3, 0.0, 1e-4];
        let sample = |seed: u64| {
            let draws = secateur_common::probe_input(seed, us.len());
            let scale = [1.0, 8.0, 9.0, 2e5, 1e5, 3e4, 2e5, 1e5, 2e4, 4e4];
            let mut amounts: Amounts = std::array::from_fn(|at| f64::from(draws[at]) * scale[at]);
            amounts[0] = 1.0;
            Sample { amounts, us: dot(&us, &amounts), weight: 1.0 }
        };
        let samples: Vec<Sample> = (0..60).map(sample).collect();
        let found = fitted(&samples);
        for (sample, at) in samples.iter().zip(0..) {
            assert!((dot(&found, &sample.amounts) / sample.us - 1.0).abs() < 0.01, "{at}: {found:?}");
        }
        assert!(found.iter().all(|&us| us >= 0.0));
        assert_eq!(fitted(&[]), Amounts::default());
    }

    #[test]
    fn the_example_is_counted_by_kind_and_rounded_to_lanes() {
        let graph = crate::onnx::read(include_bytes!("../../examples/lenet5.onnx")).unwrap();
        let (plain, padded) = (amounts(&graph, 1).unwrap(), amounts(&graph, 8).unwrap());
        let macs = cost::analyse(&graph).unwrap().dense_macs().get() as f64;
        let of = |amounts: &Amounts, work: Work| amounts[work as usize];
        let both = [Work::ConvolutionMac, Work::ProductMac];
        assert_eq!(both.iter().map(|&work| of(&plain, work)).sum::<f64>(), macs);
        assert!(
            of(&padded, Work::ProductMac) > of(&plain, Work::ProductMac),
            "ten answers take sixteen lanes"
        );
        assert_eq!((of(&plain, Work::SparseMac), of(&plain, Work::GroupedMac)), (0.0, 0.0));
        let mut sparse = graph.clone();
        let name = cost_of_largest(&graph);
        let weights = sparse.initializers.get_mut(&name).and_then(crate::Tensor::as_f32_mut).unwrap();
        weights.iter_mut().enumerate().filter(|(at, _)| at % 4 != 0).for_each(|(_, weight)| *weight = 0.0);
        let sparse = amounts(&sparse, 1).unwrap();
        assert!(of(&sparse, Work::SparseNonzeroMac) < 0.3 * of(&sparse, Work::SparseMac));
        let timing = Timing { us: plain.map(|_| 1.0), tail: 1.5, lanes: 1, energy: Some(Energy::Watts(2.0)) };
        let p50 = timing.p50_us(&graph).unwrap();
        assert_eq!(p50, plain.iter().sum::<f64>());
        assert_eq!(timing.p95_us(&graph).unwrap(), 1.5 * p50);
        assert_eq!(timing.energy_uj(&graph).unwrap(), Some(2.0 * p50));
    }

    fn cost_of_largest(graph: &Graph) -> String {
        let floats = graph.initializers.iter().filter(|(_, tensor)| tensor.as_f32().is_some());
        floats.max_by_key(|(_, tensor)| tensor.len()).map(|(name, _)| name.clone()).unwrap()
    }
}
