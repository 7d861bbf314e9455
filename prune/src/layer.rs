//! Layers that can be fitted: convolutions, products by a constant and batch norms that do not fold, seen as one matrix
//! from unrolled inputs to outputs, whatever the operator and its layout.

use faer::Mat;
use secateur_model::{Graph, Node, Tensor};

use crate::random::Random;
use crate::window::Window;

/// A node with constant weights, `y = x W + b` for each row `x` of its unrolled input.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The node, by index.
    pub(crate) node: usize,
    /// The weights' tensor.
    pub(crate) weights: String,
    /// Slices of the outputs, each of which sees its own slice of the inputs: the groups of a convolution.
    pub(crate) blocks: usize,
    /// Inputs of a block, the constant 1 not among them.
    pub(crate) width: usize,
    /// Outputs of all blocks.
    pub(crate) outputs: usize,
    /// Places of a kernel: columns that belong to one input channel, side by side.
    pub(crate) taps: usize,
    kind: Kind,
    bias: Bias,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Weights `[outputs, inputs / groups, …]`.
    Conv,
    /// Weights `[inputs, outputs]`, scaled by `alpha`.
    ByInput,
    /// Weights `[outputs, inputs]`, scaled by `alpha`.
    ByOutput,
    /// A batch norm: a scale and a shift a channel, each channel a block.
    Norm,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Bias {
    /// The node's third input, there or not.
    Own,
    /// A constant that the only reader of the result adds.
    Added { tensor: String },
    /// There is no place for one.
    None,
}

/// Which rows of a layer's unrolled input are taken: for each image, some places of its output.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    /// Places of one image's output.
    pub(crate) area: usize,
    /// Of these, how many are taken.
    pub(crate) each: usize,
    seed: u64,
}

impl Sampling {
    /// At most `rows` rows of `images` images, but one an image at least.
    pub(crate) fn new(layer: &Layer, area: usize, images: usize, rows: usize) -> Self {
        let each = (rows / images.max(1)).clamp(1, area.max(1));
        Self { area, each, seed: layer.node as u64 }
    }

    /// The places taken of one image, ascending: one of each of `each` equal stretches.
    pub(crate) fn places(&self, image: usize) -> impl Iterator<Item = usize> {
        let (area, each) = (self.area, self.each);
        let mut random = Random::new(self.seed << 32 ^ image as u64);
        (0..each).map(move |stretch| {
            let (from, to) = (stretch * area / each, (stretch + 1) * area / each);
            from + random.next() as usize % (to - from).max(1)
        })
    }
}

impl Layer {
    /// The node at `index` as a layer; `None` where it is none that can be fitted.
    pub(crate) fn of(graph: &Graph, index: usize) -> Option<Self> {
        let node = &graph.nodes[index];
        let weights = node.input(1)?;
        let tensor = graph.initializers.get(weights).filter(|tensor| tensor.as_f32().is_some())?;
        let shape = tensor.shape();
        let layer = |kind, blocks, width, outputs, taps, bias| Self {
            node: index,
            weights: weights.to_owned(),
            blocks,
            width,
            outputs,
            taps,
            kind,
            bias,
        };
        let layer = match *shape {
            [outputs, depth, ref kernel @ ..] if node.is("Conv") && (1..=2).contains(&kernel.len()) => {
                let taps: usize = kernel.iter().product();
                let blocks = usize::try_from(node.int("group", 1)).ok()?;
                let explicit = node.text("auto_pad").is_none_or(|pad| pad == "NOTSET");
                let even = explicit && blocks > 0 && outputs % blocks == 0;
                even.then(|| layer(Kind::Conv, blocks, depth * taps, outputs, taps, Bias::Own))?
            }
            [rows, columns] if node.is("Gemm") && node.int("transA", 0) == 0 => match node.int("transB", 0) {
                0 => layer(Kind::ByInput, 1, rows, columns, 1, Bias::Own),
                _ => layer(Kind::ByOutput, 1, columns, rows, 1, Bias::Own),
            },
            [rows, columns] if node.is("MatMul") => {
                let bias = added_constant(graph, index, columns);
                layer(
                    Kind::ByInput,
                    1,
                    rows,
                    columns,
                    1,
                    bias.map_or(Bias::None, |tensor| Bias::Added { tensor }),
                )
            }
            [channels] if node.is("BatchNormalization") && node.int("training_mode", 0) == 0 => {
                moments_of(graph, node).filter(|(mean, _)| mean.len() == channels)?;
                layer(Kind::Norm, channels, 1, channels, 1, Bias::Own)
            }
            _ => return None,
        };
        let bias = (layer.bias == Bias::Own).then(|| node.input(2)).flatten();
        // An addend that is not one value an output is no bias.
        let fits =
            bias.is_none_or(|name| graph.initializers.get(name).is_some_and(|t| t.len() == layer.outputs));
        (fits && layer.width > 0 && layer.outputs > 0).then_some(layer)
    }

    /// Outputs of one block.
    pub(crate) fn block_outputs(&self) -> usize {
        self.outputs / self.blocks
    }

    /// Whether it takes in more than the channel that it makes.
    pub(crate) fn mixes(&self) -> bool {
        self.kind != Kind::Norm
    }

    /// Whether a constant term can be written.
    pub(crate) fn has_bias(&self) -> bool {
        self.bias != Bias::None
    }

    /// Whether its constant term is kept in `tensor`, which another node adds.
    pub(crate) fn bias_is(&self, tensor: &str) -> bool {
        matches!(&self.bias, Bias::Added { tensor: own } if own == tensor)
    }

    fn scale(&self, node: &Node, name: &str) -> f64 {
        if node.is("Gemm") { f64::from(node.float(name, 1.0)) } else { 1.0 }
    }

    /// The weights of one block, `[width, outputs of the block]`; the last row, the bias, is one more.
    pub(crate) fn matrix(&self, graph: &Graph, block: usize) -> Option<Mat<f64>> {
        let node = &graph.nodes[self.node];
        let values = graph.initializers.get(&self.weights)?.as_f32()?;
        if values.len() != self.width * self.outputs {
            return None;
        }
        let bias = self.bias_values(graph);
        if self.kind == Kind::Norm {
            let (mean, deviation) = moments_of(graph, node)?;
            let factor = f64::from(values[block]) / deviation[block];
            return Some(faer::mat![[factor], [f64::from(bias?[block]) - mean[block] * factor]]);
        }
        let (alpha, beta) = (self.scale(node, "alpha"), self.scale(node, "beta"));
        let from = block * self.block_outputs();
        Some(Mat::from_fn(self.width + 1, self.block_outputs(), |i, o| {
            if i == self.width {
                return bias.as_ref().map_or(0.0, |bias| f64::from(bias[from + o]) * beta);
            }
            f64::from(values[self.at(i, from + o)]) * alpha
        }))
    }

    fn at(&self, input: usize, output: usize) -> usize {
        match self.kind {
            Kind::ByInput => input * self.outputs + output,
            Kind::Conv | Kind::ByOutput | Kind::Norm => output * self.width + input,
        }
    }

    /// The tensor of its constant term, if there is one.
    pub(crate) fn bias_name<'g>(&'g self, graph: &'g Graph) -> Option<&'g str> {
        match &self.bias {
            Bias::Own => graph.nodes[self.node].input(2),
            Bias::Added { tensor } => Some(tensor),
            Bias::None => None,
        }
    }

    fn bias_values(&self, graph: &Graph) -> Option<Vec<f32>> {
        let tensor = graph.initializers.get(self.bias_name(graph)?)?;
        tensor.as_f32().filter(|values| values.len() == self.outputs).map(<[f32]>::to_vec)
    }

    /// Writes one block's weights and bias, `[width + 1, outputs of the block]`.
    pub(crate) fn write(&self, graph: &mut Graph, block: usize, fit: &Mat<f64>) {
        let node = &graph.nodes[self.node];
        if self.kind == Kind::Norm {
            return self.write_norm(graph, block, (fit[(0, 0)], fit[(1, 0)]));
        }
        let (alpha, beta) = (self.scale(node, "alpha"), self.scale(node, "beta"));
        let from = block * self.block_outputs();
        let mut bias = self.bias_values(graph).unwrap_or_else(|| vec![0.0; self.outputs]);
        (0..fit.ncols()).for_each(|o| bias[from + o] = (fit[(self.width, o)] / beta) as f32);
        let bias_name = self.bias_name(graph).map(str::to_owned);
        if let Some(values) = graph.initializers.get_mut(&self.weights).and_then(Tensor::as_f32_mut) {
            for o in 0..fit.ncols() {
                for i in 0..self.width {
                    values[self.at(i, from + o)] = (fit[(i, o)] / alpha) as f32;
                }
            }
        }
        match bias_name {
            Some(name) => {
                if let Some(values) = graph.initializers.get_mut(&name).and_then(Tensor::as_f32_mut) {
                    values.copy_from_slice(&bias);
                }
            }
            None if self.bias == Bias::Own && bias.iter().any(|&value| value != 0.0) => {
                let name = format!("{}.refit_bias", self.weights);
                if let Ok(tensor) = Tensor::f32([self.outputs], bias) {
                    graph.initializers.insert(name.clone(), tensor);
                    let inputs = &mut graph.nodes[self.node].inputs;
                    inputs.resize(3, String::new());
                    inputs[2] = name;
                }
            }
            None => {}
        }
    }

    fn write_norm(&self, graph: &mut Graph, channel: usize, (factor, constant): (f64, f64)) {
        let node = &graph.nodes[self.node];
        let (Some((mean, deviation)), Some(shift)) = (moments_of(graph, node), node.input(2)) else { return };
        let values = [
            (self.weights.clone(), factor * deviation[channel]),
            (shift.to_owned(), constant + mean[channel] * factor),
        ];
        for (name, value) in values {
            let tensor = graph.initializers.get_mut(&name).and_then(Tensor::as_f32_mut);
            tensor.into_iter().for_each(|tensor| tensor[channel] = value as f32);
        }
    }

    /// Places of one image's output of `shape`.
    pub(crate) fn area(&self, shape: &[usize]) -> usize {
        let places = if self.planes() { shape.get(2..) } else { shape.get(1..shape.len().max(2) - 1) };
        places.map_or(1, |places| places.iter().product())
    }

    /// The value of an output, a tensor of this layer's layout, at an image, a place and a channel.
    pub(crate) fn index(
        &self,
        shape: &[usize],
        area: usize,
        (image, place, channel): (usize, usize, usize),
    ) -> usize {
        match self.planes() {
            true => (image * shape[1] + channel) * area + place,
            false => (image * area + place) * shape[shape.len() - 1] + channel,
        }
    }

    /// Channels of a value of this layer's output layout.
    pub(crate) fn channels(&self, shape: &[usize]) -> usize {
        let axis = if self.planes() { 1 } else { shape.len().max(1) - 1 };
        shape.get(axis).copied().unwrap_or(0)
    }

    /// Whether channels lie along the second axis, places along those behind it.
    fn planes(&self) -> bool {
        matches!(self.kind, Kind::Conv | Kind::Norm)
    }

    /// The unrolled input of one block at the places of `sampling`, row-major `[rows, width + 1]`, each row ending in
    /// the constant 1. `first` is the number of the first image of `x`.
    pub(crate) fn unroll(
        &self,
        graph: &Graph,
        x: &Tensor,
        sampling: &Sampling,
        first: usize,
        block: usize,
    ) -> Option<Vec<f32>> {
        let (shape, data) = (x.shape(), x.as_f32()?);
        let images = *shape.first()?;
        let mut rows = Vec::with_capacity(images * sampling.each * (self.width + 1));
        if self.kind == Kind::Norm {
            if shape.get(1) != Some(&self.blocks) || data.len() != images * self.blocks * sampling.area {
                return None;
            }
            for image in 0..images {
                let plane = &data[(image * self.blocks + block) * sampling.area..];
                sampling.places(first + image).for_each(|place| rows.extend([plane[place], 1.0]));
            }
            return Some(rows);
        }
        if self.kind != Kind::Conv {
            if shape.last() != Some(&self.width) || data.len() != images * sampling.area * self.width {
                return None;
            }
            for image in 0..images {
                for place in sampling.places(first + image) {
                    rows.extend_from_slice(
                        &data[(image * sampling.area + place) * self.width..][..self.width],
                    );
                    rows.push(1.0);
                }
            }
            return Some(rows);
        }
        let kernel = graph.initializers.get(&self.weights)?.shape()[2..].to_vec();
        let window = Window::of(&graph.nodes[self.node], &kernel, &shape[2..])?;
        let depth = self.width / self.taps;
        let plane: usize = shape[2..].iter().product();
        if shape[1] != depth * self.blocks || window.places() != sampling.area {
            return None;
        }
        for image in 0..images {
            let planes = &data[(image * shape[1] + block * depth) * plane..][..depth * plane];
            for place in sampling.places(first + image) {
                window.row(planes, place, &mut rows);
                rows.push(1.0);
            }
        }
        Some(rows)
    }
}

/// What a batch norm subtracts from each channel, and what it divides it by.
fn moments_of(graph: &Graph, node: &Node) -> Option<(Vec<f64>, Vec<f64>)> {
    let values = |slot| graph.initializers.get(node.input(slot)?)?.as_f32();
    let epsilon = node.float("epsilon", 1e-5);
    let mean: Vec<f64> = values(3)?.iter().map(|&mean| f64::from(mean)).collect();
    let deviation: Vec<f64> = values(4)?.iter().map(|&v| f64::from(v + epsilon).sqrt()).collect();
    (mean.len() == deviation.len() && deviation.iter().all(|d| *d > 0.0)).then_some((mean, deviation))
}

/// The constant vector of `outputs` values that the only reader of a node's result adds to it.
fn added_constant(graph: &Graph, index: usize, outputs: usize) -> Option<String> {
    let result = graph.nodes[index].outputs.first()?;
    let mut readers = graph.nodes.iter().filter(|node| node.inputs.contains(result));
    let add = readers.next().filter(|node| node.is("Add") && node.inputs.len() == 2)?;
    let alone = readers.next().is_none() && graph.outputs.iter().all(|output| &output.name != result);
    let other = add.inputs.iter().find(|name| *name != result)?;
    let tensor = graph.initializers.get(other)?;
    let read_once =
        graph.nodes.iter().flat_map(|node| &node.inputs).filter(|name| *name == other).count() == 1;
    let fits =
        tensor.as_f32().is_some() && tensor.len() == outputs && tensor.shape().last() == Some(&outputs);
    (alone && read_once && fits).then(|| other.clone())
}

#[cfg(test)]
mod tests;
