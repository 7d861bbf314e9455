//! Sequential least squares: layer after layer of the cut net is regressed, with bias, on the dense net's
//! pre-activations, both run on the same calibration inputs. No labels, no gradients.

use std::collections::HashMap;

use faer::Mat;
use secateur_model::groups::{Groups, KeepSets};
use secateur_model::{Graph, Node, Tensor, eval};

use crate::PruneError;
use crate::oracle::unrunnable;
use crate::random::Random;
use crate::regression::Regression;

/// Inputs taken, at most.
const IMAGES: usize = 2048;
/// Rows of a layer's regression, at most; images are never left out, positions are.
const ROWS: usize = 32_768;

type Live = HashMap<String, Tensor>;

/// A layer that holds at least this share of all weights is a large one, whose refit is held to a share of its inputs.
const LARGE: f64 = 0.1;

/// Fits the weights of `cut` (`dense` without the channels that `keep` leaves out; the same nodes). Of a large layer's inputs,
/// only the `share` that helps most gets new weights: what keeps its value costs almost nothing to ship.
///
/// # Errors
/// Where a node cannot be run on the calibration inputs.
pub(crate) fn refit(
    dense: &Graph,
    cut: &mut Graph,
    groups: &Groups,
    keep: &KeepSets,
    calibration: &Tensor,
    share: f64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), PruneError> {
    let all: usize = cut.initializers.values().filter_map(Tensor::as_f32).map(<[f32]>::len).sum();
    let Some(input) = dense.inputs.first() else { return Ok(()) };
    let images: Vec<usize> = (0..calibration.shape()[0].min(IMAGES)).collect();
    let images = calibration.gathered(0, &images);
    let mut full: Live = HashMap::from([(input.name.clone(), images.clone())]);
    let mut lean: Live = HashMap::from([(input.name.clone(), images)]);
    for index in 0..dense.nodes.len() {
        progress(index, dense.nodes.len());
        step(dense, index, &mut full)?;
        if let Some(rows) = Rows::of(cut, index, &lean) {
            let targets = targets(dense, cut, index, groups, keep, (&full, &lean), &rows)?;
            let present = present(cut, index);
            let large = (present.nrows() * present.ncols()) as f64 >= LARGE * all as f64;
            let inputs = if large { (rows.width as f64 * share).ceil() as usize } else { rows.width };
            let regression = Regression::of(&rows.values, rows.width, &targets, present);
            if let Some(fit) = regression.and_then(|regression| regression.solve(inputs)) {
                write(cut, index, &fit);
            }
        }
        step(cut, index, &mut lean)?;
        let cut: &Graph = cut;
        for (graph, live) in [(dense, &mut full), (cut, &mut lean)] {
            let read_later =
                |name: &String| graph.nodes[index + 1..].iter().any(|node| node.inputs.contains(name));
            live.retain(|name, _| read_later(name));
        }
    }
    Ok(())
}

/// Runs one node on what is live.
fn step(graph: &Graph, index: usize, live: &mut Live) -> Result<(), PruneError> {
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

/// A layer's inputs as rows of a regression, and where each row's outputs lie.
struct Rows {
    count: usize,
    /// Inputs of a row, the constant 1 not among them.
    width: usize,
    values: Vec<f32>,
    /// Image and position of each row.
    at: Vec<(usize, usize)>,
}

impl Rows {
    /// The rows of a dense convolution over two axes or of a `Gemm`; `None` for any other node.
    fn of(graph: &Graph, index: usize, live: &Live) -> Option<Self> {
        let node = &graph.nodes[index];
        let x = live.get(node.input(0)?)?;
        let w = graph.initializers.get(node.input(1)?)?;
        if node.is("Gemm") && w.shape().len() == 2 && x.shape().len() == 2 {
            let [count, width] = [x.shape()[0], x.shape()[1]];
            let at = (0..count).map(|image| (image, 0)).collect();
            return Some(Self { count, width, values: x.as_f32()?.to_vec(), at });
        }
        let (&[images, channels, height, width], &[_, depth, kh, kw]) = (x.shape(), w.shape()) else {
            return None;
        };
        let explicit = node.text("auto_pad").is_none_or(|pad| pad == "NOTSET");
        if !node.is("Conv") || depth != channels || !explicit {
            return None;
        }
        let get =
            |name: &str, default: i64, axis: usize| node.ints(name).map_or(default, |values| values[axis]);
        let window = |axis: usize, length: usize, kernel: usize| {
            let (stride, dilation) = (get("strides", 1, axis), get("dilations", 1, axis));
            let (before, after) = (get("pads", 0, axis), get("pads", 0, axis + 2));
            let out = (length as i64 + before + after - dilation * (kernel as i64 - 1) - 1) / stride + 1;
            (stride, dilation, before, out as usize)
        };
        let (sy, dy, py, oh) = window(0, height, kh);
        let (sx, dx, px, ow) = window(1, width, kw);
        let each = (ROWS / images.max(1)).clamp(1, oh * ow);
        let mut random = Random::new(index as u64);
        let mut places: Vec<usize> = (0..oh * ow).collect();
        let (data, columns) = (x.as_f32()?, depth * kh * kw);
        let mut values = Vec::with_capacity(images * each * columns);
        let mut at = Vec::with_capacity(images * each);
        for image in 0..images {
            random.shuffle(&mut places);
            for &place in &places[..each] {
                at.push((image, place));
                let (y0, x0) = ((place / ow) as i64 * sy - py, (place % ow) as i64 * sx - px);
                for c in 0..channels {
                    for a in 0..kh as i64 {
                        for b in 0..kw as i64 {
                            let (y, x) = (y0 + a * dy, x0 + b * dx);
                            let inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
                            let offset = (image * channels + c) * height * width;
                            values.push(if inside {
                                data[offset + y as usize * width + x as usize]
                            } else {
                                0.0
                            });
                        }
                    }
                }
            }
        }
        Some(Self { count: at.len(), width: columns, values, at })
    }
}

/// Targets `[rows, outputs]`: the dense pre-activations at the kept channels. Where the result is only added to a
/// value that is there already, what that value has drifted by is made good too.
fn targets(
    dense: &Graph,
    cut: &Graph,
    index: usize,
    groups: &Groups,
    keep: &KeepSets,
    (full, lean): (&Live, &Live),
    rows: &Rows,
) -> Result<Mat<f64>, PruneError> {
    let output = &dense.nodes[index].outputs[0];
    let kept = groups.kept(output, keep).map_err(unrunnable)?;
    let whole = &full[output];
    let kept = kept.map_or_else(|| (0..whole.shape()[1]).collect(), |(_, kept)| kept);
    let value = |tensor: &Tensor, (image, place): (usize, usize), channel: usize| -> f64 {
        let channels = tensor.shape()[1];
        let area: usize = tensor.shape()[2..].iter().product();
        tensor.as_f32().map_or(0.0, |values| f64::from(values[(image * channels + channel) * area + place]))
    };
    let drifted = added_to(cut, index).and_then(|name| full.get(name).zip(lean.get(name)));
    let drifted = drifted.filter(|(full, _)| full.shape() == whole.shape());
    Ok(Mat::from_fn(rows.count, kept.len(), |row, column| {
        let at = rows.at[row];
        let drift =
            drifted.map_or(0.0, |(full, lean)| value(full, at, kept[column]) - value(lean, at, column));
        value(whole, at, kept[column]) + drift
    }))
}

/// The other operand, where a node's result is read by one `Add` only.
fn added_to(graph: &Graph, index: usize) -> Option<&str> {
    let output = &graph.nodes[index].outputs[0];
    let mut readers = graph.nodes.iter().filter(|node| node.inputs.contains(output));
    let add = readers.next().filter(|node| node.is("Add"))?;
    if readers.next().is_some() || graph.outputs.iter().any(|value| &value.name == output) {
        return None;
    }
    add.inputs.iter().find(|name| *name != output).map(String::as_str)
}

/// A layer's weights as they are, `[width, outputs]`.
fn present(graph: &Graph, index: usize) -> Mat<f64> {
    let node = &graph.nodes[index];
    let tensor = node.input(1).and_then(|name| graph.initializers.get(name));
    let Some((values, shape)) = tensor.and_then(|tensor| Some((tensor.as_f32()?, tensor.shape()))) else {
        return Mat::zeros(0, 0);
    };
    let by_input = node.is("Gemm") && node.int("transB", 0) == 0;
    let outputs = shape[usize::from(by_input)];
    let alpha = if node.is("Gemm") { f64::from(node.float("alpha", 1.0)) } else { 1.0 };
    let (width, rows) = (values.len() / outputs.max(1), if by_input { outputs } else { 1 });
    let at = |i: usize, o: usize| if by_input { i * rows + o } else { o * width + i };
    Mat::from_fn(width, outputs, |i, o| f64::from(values[at(i, o)]) * alpha)
}

/// Writes a fit into a layer's weights and bias.
fn write(graph: &mut Graph, index: usize, fit: &Mat<f64>) {
    let node: &Node = &graph.nodes[index];
    let (weights, outputs) = (node.inputs[1].clone(), fit.ncols());
    let (alpha, beta) = match node.is("Gemm") {
        true => (f64::from(node.float("alpha", 1.0)), f64::from(node.float("beta", 1.0))),
        false => (1.0, 1.0),
    };
    let by_input = node.is("Gemm") && node.int("transB", 0) == 0;
    let width = fit.nrows() - 1;
    for (at, value) in
        graph.initializers.get_mut(&weights).and_then(Tensor::as_f32_mut).into_iter().flatten().enumerate()
    {
        let (i, o) = if by_input { (at / outputs, at % outputs) } else { (at % width, at / width) };
        *value = (fit[(i, o)] / alpha) as f32;
    }
    let bias = (0..outputs).map(|o| (fit[(width, o)] / beta) as f32).collect();
    let Ok(bias) = Tensor::f32([outputs], bias) else { return };
    let inputs = &mut graph.nodes[index].inputs;
    inputs.resize(3, String::new());
    if inputs[2].is_empty() {
        inputs[2] = format!("{weights}.refit_bias");
    }
    let name = inputs[2].clone();
    graph.initializers.insert(name, bias);
}
