//! Convolution and maximum over three axes, as those over two, plane by plane of the first.

use super::conv::{self, Window};
use super::{Call, Depth, Fault, pool, zeros};
use crate::{Attribute, Node, Tensor};

/// A convolution's planes are sums over the planes of its kernel.
pub(super) fn conv(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (weights, bias) = (call.input(1)?, call.optional(2));
    if weights.shape().len() != 5 {
        return Err(format!("weights {:?} for three axes", weights.shape()).into());
    }
    let bias = bias.map(|_| call.floats(2)).transpose()?.map(|(_, bias)| bias);
    let kernel = weights.shape()[2..].to_vec();
    let mut plane = |call: &Call<'_>, x: &Tensor, k: usize| {
        let w = weights.gathered(2, &[k]);
        let w = w.reshaped([&w.shape()[..2], &w.shape()[3..]].concat())?;
        conv::conv(&Call { inputs: vec![Some(x), Some(&w)], ..*call })
    };
    let mut y = over_planes(call, &kernel, 0.0, &mut plane, |a, b| a + b)?;
    if let (Some(bias), Depth::Values) = (bias, call.depth) {
        let (outputs, inner) = (y.shape()[1], y.shape()[2..].iter().product::<usize>().max(1));
        if bias.len() != outputs {
            return Err("the bias does not fit".into());
        }
        let values = y.as_f32_mut().ok_or("unreachable")?;
        values.iter_mut().enumerate().for_each(|(index, value)| *value += bias[index / inner % outputs]);
    }
    Ok(y)
}

/// A pool's planes are maxima over the planes of its window.
pub(super) fn max_pool(call: &Call<'_>) -> Result<Tensor, Fault> {
    let kernel = call.node.ints("kernel_shape").ok_or("kernel_shape is missing")?;
    let kernel: Option<Vec<usize>> =
        kernel.iter().map(|&k| usize::try_from(k).ok().filter(|k| (1..=1 << 20).contains(k))).collect();
    let kernel = kernel.filter(|kernel| kernel.len() == 3).ok_or("bad `kernel_shape`")?;
    let mut plane =
        |call: &Call<'_>, x: &Tensor, _: usize| pool::windowed(&Call { inputs: vec![Some(x)], ..*call });
    over_planes(call, &kernel, f32::NEG_INFINITY, &mut plane, f32::max)
}

/// Joins what `plane` makes of each plane of the input that a plane of the result meets, for each offset of the kernel.
fn over_planes(
    call: &Call<'_>,
    kernel: &[usize],
    start: f32,
    plane: &mut dyn FnMut(&Call<'_>, &Tensor, usize) -> Result<Tensor, Fault>,
    join: impl Fn(f32, f32) -> f32,
) -> Result<Tensor, Fault> {
    let x = call.input(0)?;
    let &[n, channels, depth, height, width] = x.shape() else {
        return Err(format!("input {:?} has not three axes", x.shape()).into());
    };
    let (first, flat) = divided(call.node)?;
    let window = Window::of(&first, &kernel[..1], &[depth])?;
    let planes = window.output[1];
    let call = Call { node: &flat, inputs: Vec::new(), ..*call };
    let of = |at: usize| x.gathered(2, &[at]).reshaped([n, channels, height, width]);
    let shape =
        plane(&Call { depth: Depth::Shapes, inputs: Vec::new(), ..call }, &of(0)?, 0)?.shape().to_vec();
    let (outer, inner) = (shape[0] * shape[1], shape[2] * shape[3]);
    let mut out = zeros(vec![shape[0], shape[1], planes, shape[2], shape[3]])?;
    if call.depth == Depth::Shapes || out.is_empty() {
        return Ok(out);
    }
    let y = out.as_f32_mut().ok_or("unreachable")?;
    y.fill(start);
    for o in 0..planes {
        for k in window.met(1, o) {
            let Some(at) = window.at(1, o, k) else { continue };
            let part = plane(&call, &of(at)?, k)?;
            for (index, row) in part.as_f32().ok_or("unreachable")?.chunks(inner).enumerate().take(outer) {
                let target = &mut y[(index * planes + o) * inner..][..inner];
                target.iter_mut().zip(row).for_each(|(value, &x)| *value = join(*value, x));
            }
        }
    }
    Ok(out)
}

/// The node with what its attributes say of the first spatial axis, and of the others.
fn divided(node: &Node) -> Result<(Node, Node), Fault> {
    let (mut first, mut rest) = (node.clone(), node.clone());
    for name in ["strides", "dilations", "kernel_shape", "pads"] {
        let Some(values) = node.ints(name) else { continue };
        let (of_first, of_rest) = match (name, values) {
            ("pads", &[a, b, c, d, e, f]) => (vec![a, d], vec![b, c, e, f]),
            ("strides" | "dilations" | "kernel_shape", &[a, b, c]) => (vec![a], vec![b, c]),
            _ => return Err(format!("bad `{name}`").into()),
        };
        first.attributes.insert(name.into(), Attribute::Ints(of_first));
        rest.attributes.insert(name.into(), Attribute::Ints(of_rest));
    }
    Ok((first, rest))
}
