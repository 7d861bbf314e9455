//! Pools over windows and over all positions.

use rayon::prelude::*;

use super::conv::Window;
use super::{Call, Depth, Fault, zeros};
use crate::Tensor;

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "MaxPool" if call.input(0)?.shape().len() == 5 => Ok(vec![super::volume::max_pool(call)?]),
        "MaxPool" | "AveragePool" => Ok(vec![windowed(call)?]),
        "GlobalAveragePool" => {
            Ok(vec![global(call, |plane| plane.iter().sum::<f32>() / plane.len() as f32)?])
        }
        "GlobalMaxPool" => {
            Ok(vec![global(call, |plane| plane.iter().copied().fold(f32::NEG_INFINITY, f32::max))?])
        }
        _ => Err(Fault::Unknown),
    }
}

pub(super) fn windowed(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (shape, x) = call.floats(0)?;
    let kernel = call.node.ints("kernel_shape").ok_or("kernel_shape is missing")?;
    if kernel.iter().any(|&k| !(1..=1 << 20).contains(&k)) {
        return Err(format!("bad `kernel_shape` {kernel:?}").into());
    }
    let kernel: Vec<usize> = kernel.iter().map(|&k| k as usize).collect();
    if shape.len() != kernel.len() + 2 {
        return Err(format!("input {shape:?} and kernel {kernel:?} do not fit").into());
    }
    let window = Window::of(call.node, &kernel, &shape[2..])?;
    let mut out_shape = shape[..2].to_vec();
    out_shape.extend(if shape.len() == 3 { &window.output[1..] } else { &window.output[..] });
    let mut out = zeros(out_shape)?;
    let (in_plane, out_plane): (usize, usize) =
        (window.input.iter().product(), window.output.iter().product());
    if call.depth == Depth::Shapes || in_plane == 0 || out_plane == 0 {
        return Ok(out);
    }
    let max = call.node.op == "MaxPool";
    let count_padding = call.node.int("count_include_pad", 0) != 0;
    let y = out.as_f32_mut().ok_or("unreachable")?;
    y.par_chunks_exact_mut(out_plane).zip(x.par_chunks_exact(in_plane)).for_each(|(y, x)| {
        for (index, value) in y.iter_mut().enumerate() {
            let (oy, ox) = (index / window.output[1], index % window.output[1]);
            let mut seen = 0;
            let mut result = if max { f32::NEG_INFINITY } else { 0.0 };
            for iy in window.met(0, oy).filter_map(|k| window.at(0, oy, k)) {
                for ix in window.met(1, ox).filter_map(|k| window.at(1, ox, k)) {
                    let element = x[iy * window.input[1] + ix];
                    result = if max { result.max(element) } else { result + element };
                    seen += 1;
                }
            }
            let divisor = if count_padding { window.kernel[0] * window.kernel[1] } else { seen.max(1) };
            *value = if max { result } else { result / divisor as f32 };
        }
    });
    Ok(out)
}

fn global(call: &Call<'_>, reduce: impl Fn(&[f32]) -> f32 + Sync + Send) -> Result<Tensor, Fault> {
    let (shape, x) = call.floats(0)?;
    if shape.len() < 3 {
        return Err(format!("input {shape:?} has no spatial dimensions").into());
    }
    let plane: usize = shape[2..].iter().product();
    let mut out_shape = shape[..2].to_vec();
    out_shape.resize(shape.len(), 1);
    if call.skips(shape) {
        return super::blank(crate::DType::F32, out_shape);
    }
    let values = if plane == 0 {
        vec![0.0; out_shape.iter().product()]
    } else {
        x.par_chunks_exact(plane).map(reduce).collect()
    };
    Ok(Tensor::f32(out_shape, values)?)
}
