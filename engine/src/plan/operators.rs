//! Operator by operator: what ONNX says of it, in the plan's terms.

use secateur_model::eval;
use secateur_model::{Node as Source, Tensor};

use super::layout::Shape;
use super::lower::{Lowering, Reason, binary, by_channel, sample};
use super::network::{Activation, Affine, Binary, Op};

/// Adds what `node` does.
pub(super) fn lower(to: &mut Lowering<'_>, node: &Source) -> Result<(), Reason> {
    let output = node.outputs.first().ok_or("no output")?.clone();
    let inputs = |to: &Lowering<'_>| Ok::<_, Reason>(vec![to.data(node, 0)?]);
    match node.op.as_str() {
        "Identity" | "Dropout" => {
            let value = to.data(node, 0)?;
            to.alias(&output, value);
            Ok(())
        }
        "Conv" => convolution(to, node, &output),
        "Gemm" | "MatMul" => product(to, node, &output),
        "BatchNormalization" => {
            let (affine, inputs) = (batch_norm(to, node)?, inputs(to)?);
            to.push(&output, Op::Affine(affine), inputs, Activation::None)
        }
        "Add" | "Sub" | "Mul" | "Div" => arithmetic(to, node, &output),
        "MaxPool" | "AveragePool" => pool(to, node, &output),
        "GlobalAveragePool" | "GlobalMaxPool" => {
            let op = if node.op == "GlobalMaxPool" { Op::GlobalMax } else { Op::GlobalAverage };
            let inputs = inputs(to)?;
            to.push(&output, op, inputs, Activation::None)
        }
        "ReduceMean" => spatial_mean(to, node, &output),
        "Concat" => concat(to, node, &output),
        "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => {
            let inputs = inputs(to)?;
            if sample(to.dims(&output)?)?.len() != to.shape(inputs[0]).len() {
                return Err("the batch does not stay apart".into());
            }
            to.push(&output, Op::Reshape, inputs, Activation::None)
        }
        "Resize" | "Upsample" => upsample(to, node, &output),
        "Pad" => pad(to, node, &output),
        "Softmax" => softmax(to, node, &output),
        _ => {
            let activation = activation(to, node)?.ok_or("the operator is not known")?;
            let inputs = inputs(to)?;
            to.push(&output, Op::Same, inputs, activation)
        }
    }
}

/// The elementwise function that a node is, if it is one.
fn activation(to: &Lowering<'_>, node: &Source) -> Result<Option<Activation>, Reason> {
    Ok(Some(match node.op.as_str() {
        "Relu" => Activation::Clamp { low: 0.0, high: f32::INFINITY },
        "Clip" => {
            let bound = |index: usize, name: &str, default: f32| match node.input(index) {
                None => Ok(node.float(name, default)),
                Some(_) => match to.floats(node, index)? {
                    (_, [bound]) => Ok(*bound),
                    _ => Err("a bound is not one number".to_owned()),
                },
            };
            let (low, high) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
            Activation::Clamp { low, high }
        }
        "LeakyRelu" => Activation::Leaky(node.float("alpha", 0.01)),
        "Sigmoid" => Activation::Sigmoid,
        "HardSigmoid" => {
            Activation::HardSigmoid { scale: node.float("alpha", 0.2), shift: node.float("beta", 0.5) }
        }
        "HardSwish" => Activation::HardSwish,
        "Tanh" => Activation::Tanh,
        _ => return Ok(None),
    }))
}

fn bias(to: &Lowering<'_>, node: &Source, index: usize, outputs: usize) -> Result<Vec<f32>, Reason> {
    if node.input(index).is_none() {
        return Ok(vec![0.0; outputs]);
    }
    match to.floats(node, index)?.1 {
        [one] => Ok(vec![*one; outputs]),
        values if values.len() == outputs => Ok(values.to_vec()),
        values => Err(format!("a bias of {} values for {outputs} outputs", values.len())),
    }
}

fn convolution(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let data = to.data(node, 0)?;
    let shape = to.shape(data);
    let (dims, weights) = to.floats(node, 1)?;
    let [outputs, inputs, kernel @ ..] = dims else { return Err(format!("weights of shape {dims:?}")) };
    let group = usize::try_from(node.int("group", 1)).unwrap_or(0);
    if group == 0 || outputs % group != 0 || inputs * group != shape.c {
        return Err(format!("{group} groups, weights {dims:?} and {} channels do not fit", shape.c));
    }
    let spatial = spatial(to, node)?;
    let window = eval::window(node, kernel, spatial).map_err(|error| error.to_string())?;
    let (weights, bias) = (weights.to_vec(), bias(to, node, 2, *outputs)?);
    let pointwise = shape.h * shape.w == 1 && kernel.iter().product::<usize>() == 1 && group == 1;
    let op = if pointwise && window.output == [1, 1] && window.pad == [0, 0] {
        Op::Dense { weights, bias }
    } else {
        Op::Conv { weights, bias, window, group }
    };
    to.push(output, op, vec![data], Activation::None)
}

/// The spatial axes of a node's data.
fn spatial<'l>(to: &'l Lowering<'_>, node: &Source) -> Result<&'l [usize], Reason> {
    match to.dims(node.input(0).unwrap_or_default())? {
        [_, _, spatial @ ..] if matches!(spatial.len(), 1 | 2) => Ok(spatial),
        dims => Err(format!("data of shape {dims:?}")),
    }
}

fn product(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let data = to.data(node, 0)?;
    let rank = to.dims(node.input(0).unwrap_or_default())?.len();
    let gemm = node.op == "Gemm";
    let (alpha, beta) = if gemm { (node.float("alpha", 1.0), node.float("beta", 1.0)) } else { (1.0, 1.0) };
    let &([rows, columns], weights) = &(match to.floats(node, 1)? {
        (&[rows, columns], weights) => ([rows, columns], weights),
        (dims, _) => return Err(format!("weights of shape {dims:?}")),
    });
    let transposed = gemm && node.int("transB", 0) != 0;
    let (inputs, outputs) = if transposed { (columns, rows) } else { (rows, columns) };
    if rank != 2 || gemm && node.int("transA", 0) != 0 || inputs != to.shape(data).c {
        return Err("the product is not of a matrix with one vector".into());
    }
    let at = |output: usize, input: usize| {
        if transposed { weights[output * columns + input] } else { weights[input * columns + output] }
    };
    let own = (0..outputs).flat_map(|output| (0..inputs).map(move |input| (output, input)));
    let weights = own.map(|(output, input)| alpha * at(output, input)).collect();
    let mut bias = if gemm { bias(to, node, 2, outputs)? } else { vec![0.0; outputs] };
    bias.iter_mut().for_each(|bias| *bias *= beta);
    to.push(output, Op::Dense { weights, bias }, vec![data], Activation::None)
}

fn batch_norm(to: &Lowering<'_>, node: &Source) -> Result<Affine, Reason> {
    let parameters: Vec<&[f32]> =
        (1..5).map(|index| Ok(to.floats(node, index)?.1)).collect::<Result<_, Reason>>()?;
    let epsilon = node.float("epsilon", 1e-5);
    let channels = to.shape(to.data(node, 0)?).c;
    if parameters.iter().any(|values| values.len() != channels) {
        return Err("parameters and channels differ in number".into());
    }
    let scale: Vec<f32> =
        (0..channels).map(|c| parameters[0][c] / (parameters[3][c] + epsilon).sqrt()).collect();
    let shift = (0..channels).map(|c| parameters[1][c] - parameters[2][c] * scale[c]).collect();
    Ok(Affine { scale, shift })
}

fn arithmetic(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let op = binary(&node.op).ok_or("the operator is not known")?;
    match (to.constant(node, 0).is_some(), to.constant(node, 1).is_some()) {
        (false, false) => {
            let (a, b) = (to.data(node, 0)?, to.data(node, 1)?);
            let (first, second) = (to.shape(a), to.shape(b));
            let gates = |full: Shape, gate: Shape| gate == Shape { c: full.c, h: 1, w: 1 };
            let ranks = [0, 1].map(|i| to.dims(node.input(i).unwrap_or_default()).map(<[usize]>::len));
            let same_rank = ranks[0] == ranks[1];
            let inputs = if same_rank && (first == second || gates(first, second)) {
                vec![a, b]
            } else if same_rank && gates(second, first) && matches!(op, Binary::Add | Binary::Mul) {
                vec![b, a]
            } else {
                return Err(format!("{first:?} and {second:?} are neither alike nor a gate"));
            };
            to.push(output, Op::Binary(op), inputs, Activation::None)
        }
        (first, _) => {
            let (data, constant) = if first { (1, 0) } else { (0, 1) };
            let value = to.data(node, data)?;
            let dims = to.dims(node.input(data).unwrap_or_default())?;
            let (shape, values) = to.floats(node, constant)?;
            let values = by_channel(dims, shape, values).ok_or("the constant is not one a channel")?;
            let affine = constant_affine(op, first, values)?;
            to.push(output, Op::Affine(affine), vec![value], Activation::None)
        }
    }
}

/// `x op c`, or `c op x` where the constant comes first.
fn constant_affine(op: Binary, first: bool, c: &[f32]) -> Result<Affine, Reason> {
    let ones = vec![1.0; c.len()];
    let zeros = vec![0.0; c.len()];
    let negative = || c.iter().map(|c| -c).collect();
    Ok(match (op, first) {
        (Binary::Add, _) => Affine { scale: ones, shift: c.to_vec() },
        (Binary::Sub, false) => Affine { scale: ones, shift: negative() },
        (Binary::Sub, true) => Affine { scale: vec![-1.0; c.len()], shift: c.to_vec() },
        (Binary::Mul, _) => Affine { scale: c.to_vec(), shift: zeros },
        (Binary::Div, false) => Affine { scale: c.iter().map(|c| 1.0 / c).collect(), shift: zeros },
        (Binary::Div, true) => return Err("it divides by the data".into()),
    })
}

fn pool(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let data = to.data(node, 0)?;
    let kernel = node.ints("kernel_shape").ok_or("kernel_shape is missing")?;
    let kernel: Vec<usize> =
        kernel.iter().map(|&k| usize::try_from(k)).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let window = eval::window(node, &kernel, spatial(to, node)?).map_err(|error| error.to_string())?;
    let op = if node.op == "MaxPool" {
        Op::MaxPool(window)
    } else {
        Op::AveragePool { window, count_padding: node.int("count_include_pad", 0) != 0 }
    };
    to.push(output, op, vec![data], Activation::None)
}

/// A mean over all spatial axes.
fn spatial_mean(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let data = to.data(node, 0)?;
    let rank = to.dims(node.input(0).unwrap_or_default())?.len() as i64;
    let axes = node.ints("axes").or_else(|| to.constant(node, 1).and_then(Tensor::as_i64));
    let mut axes: Vec<i64> = axes
        .ok_or("its axes are not known")?
        .iter()
        .map(|&axis| if axis < 0 { axis + rank } else { axis })
        .collect();
    axes.sort_unstable();
    if rank < 3 || axes != (2..rank).collect::<Vec<_>>() {
        return Err(format!("a mean over axes {axes:?}"));
    }
    to.push(output, Op::GlobalAverage, vec![data], Activation::None)
}

fn concat(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let inputs = (0..node.inputs.len()).map(|index| to.data(node, index)).collect::<Result<Vec<_>, _>>()?;
    let rank = to.dims(output)?.len() as i64;
    if ![1, 1 - rank].contains(&node.int("axis", 0)) {
        return Err("the axis is not the channels'".into());
    }
    to.push(output, Op::Concat, inputs, Activation::None)
}

fn upsample(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let data = to.data(node, 0)?;
    let (from, into) = (to.shape(data), sample(to.dims(output)?)?);
    let text = |name: &str, default: &'static str| node.text(name).unwrap_or(default).to_owned();
    let coordinates = text("coordinate_transformation_mode", "half_pixel");
    let exact = match (node.op.as_str(), coordinates.as_str()) {
        ("Upsample", _) => true,
        // Of a whole factor both find the element that is repeated.
        (_, "asymmetric") => text("nearest_mode", "round_prefer_floor") == "floor",
        (_, "half_pixel" | "pytorch_half_pixel") => {
            text("nearest_mode", "round_prefer_floor").starts_with("round")
        }
        _ => false,
    };
    let whole = into.h % from.h == 0 && into.w % from.w == 0 && into.c == from.c;
    if text("mode", "nearest") != "nearest" || !exact || !whole {
        return Err("only nearest neighbours by whole factors are known".into());
    }
    let op = Op::Upsample { rows: into.h / from.h, columns: into.w / from.w };
    to.push(output, op, vec![data], Activation::None)
}

fn pad(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let data = to.data(node, 0)?;
    let rank = to.dims(output)?.len();
    let pads = node.ints("pads").or_else(|| to.constant(node, 1).and_then(Tensor::as_i64));
    let pads = pads.ok_or("its widths are not known")?;
    let constant = node.text("mode").unwrap_or("constant") == "constant" && node.input(3).is_none();
    let value = match node.input(2) {
        Some(_) => *to.floats(node, 2)?.1.first().ok_or("no value to pad with")?,
        None => node.float("value", 0.0),
    };
    let inside = pads.len() == 2 * rank
        && pads.iter().all(|&pad| pad >= 0)
        && [0, 1].iter().all(|&axis| pads[axis] == 0 && pads[axis + rank] == 0);
    if !constant || !inside || rank < 3 {
        return Err("only borders of planes, of one value, are known".into());
    }
    let (top, left) = if rank == 3 { (0, pads[2]) } else { (pads[2], pads[3]) };
    let op = Op::Pad { top: top as usize, left: left as usize, value };
    to.push(output, op, vec![data], Activation::None)
}

fn softmax(to: &mut Lowering<'_>, node: &Source, output: &str) -> Result<(), Reason> {
    let data = to.data(node, 0)?;
    let old = to.graph.opset() < 13;
    let axis = node.int("axis", if old { 1 } else { -1 });
    if to.dims(output)?.len() != 2 || ![1, -1].contains(&axis) {
        return Err("only a softmax over a vector is known".into());
    }
    to.push(output, Op::Softmax, vec![data], Activation::None)
}
