//! Transposed convolution: a product, then each column's window added where it lies.

use rayon::prelude::*;

use super::conv::planar;
use super::matmul::sgemm;
use super::{Call, Depth, Fault, zeros, zeros_count};
use crate::{Node, Tensor};

/// Every length, stride, dilation and pad, at most: beyond it no result is within the caps.
const LENGTH: i64 = 1 << 20;

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "ConvTranspose" => Ok(vec![conv_transpose(call)?]),
        _ => Err(Fault::Unknown),
    }
}

/// Two spatial axes; one-dimensional ones have a height of 1.
struct Reach {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
}

fn conv_transpose(call: &Call<'_>) -> Result<Tensor, Fault> {
    let ((x_shape, x), (w_shape, w)) = (call.floats(0)?, call.floats(1)?);
    let bias = call.optional(2).map(|_| call.floats(2)).transpose()?.map(|(_, bias)| bias);
    if x_shape.len() < 3 || x_shape.len() != w_shape.len() {
        return Err(format!("input {x_shape:?} and weights {w_shape:?} do not fit").into());
    }
    let groups = usize::try_from(call.node.int("group", 1)).unwrap_or(0);
    let channels = x_shape[1];
    let outputs = w_shape[1].checked_mul(groups).unwrap_or(0);
    let fits = groups > 0
        && channels == w_shape[0]
        && channels.is_multiple_of(groups)
        && bias.is_none_or(|bias| bias.len() == outputs);
    if !fits {
        return Err(
            format!("{channels} channels in {groups} groups and weights {w_shape:?} do not fit").into()
        );
    }
    let reach = Reach::of(call.node, &w_shape[2..], &x_shape[2..])?;
    let mut shape = vec![x_shape[0], outputs];
    shape.extend(if x_shape.len() == 3 { &reach.output[1..] } else { &reach.output[..] });
    let mut out = zeros(shape)?;
    let positions: usize = reach.input.iter().product();
    let plane: usize = reach.output.iter().product();
    let (in_size, out_size) = (channels * positions, outputs * plane);
    if call.depth == Depth::Shapes || in_size == 0 || out_size == 0 {
        return Ok(out);
    }
    let (depth, taps) = (channels / groups, w_shape[1] * reach.kernel.iter().product::<usize>());
    zeros_count(&[taps, positions])?; // what a group's columns take
    let flipped = transposed(w, groups, depth, taps);
    let y = out.as_f32_mut().ok_or("unreachable")?;
    y.par_chunks_exact_mut(out_size).zip(x.par_chunks_exact(in_size)).for_each(|(y, x)| {
        for g in 0..groups {
            let mut columns = vec![0.0; taps * positions];
            let w = &flipped[g * taps * depth..(g + 1) * taps * depth];
            sgemm(
                taps,
                depth,
                positions,
                w,
                &x[g * depth * positions..(g + 1) * depth * positions],
                &mut columns,
            );
            reach.add(&columns, &mut y[g * out_size / groups..(g + 1) * out_size / groups]);
        }
        for (plane, &bias) in y.chunks_exact_mut(plane).zip(bias.into_iter().flatten()) {
            plane.iter_mut().for_each(|value| *value += bias);
        }
    });
    Ok(out)
}

/// Weights `[groups, depth, taps]` as `[groups, taps, depth]`.
fn transposed(w: &[f32], groups: usize, depth: usize, taps: usize) -> Vec<f32> {
    let mut flipped = Vec::with_capacity(w.len());
    for g in 0..groups {
        for tap in 0..taps {
            flipped.extend((0..depth).map(|channel| w[(g * depth + channel) * taps + tap]));
        }
    }
    flipped
}

impl Reach {
    fn of(node: &Node, kernel: &[usize], input: &[usize]) -> Result<Self, Fault> {
        let rank = kernel.len();
        let list = |name: &str, default: i64, length: usize| -> Result<Vec<i64>, Fault> {
            let values = node.ints(name).map_or_else(|| vec![default; length], <[i64]>::to_vec);
            let good = values.len() == length && values.iter().all(|v| (0..=LENGTH).contains(v));
            if good { Ok(values) } else { Err(format!("bad `{name}`").into()) }
        };
        let (stride, dilation) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
        let (extra, pads) = (list("output_padding", 0, rank)?, list("pads", 0, 2 * rank)?);
        if stride.contains(&0) || dilation.contains(&0) || kernel.contains(&0) {
            return Err("a kernel, stride or dilation of zero".into());
        }
        let auto = node.text("auto_pad").unwrap_or("NOTSET");
        let (mut begin, mut output) = (vec![0; rank], vec![0; rank]);
        for axis in 0..rank {
            let (length, taps) = (input[axis] as i64, kernel[axis] as i64);
            if length > LENGTH || taps > LENGTH {
                return Err("an axis is over the limit".into());
            }
            let full = stride[axis] * (length - 1) + extra[axis] + (taps - 1) * dilation[axis] + 1;
            let asked = match node.ints("output_shape") {
                Some(shape) => Some(*shape.get(axis).ok_or("bad `output_shape`")?),
                None if auto.starts_with("SAME") => Some(length * stride[axis]),
                None => None,
            };
            let total = match asked {
                Some(asked) => full.saturating_sub(asked).max(0),
                None if auto == "VALID" => 0,
                None => pads[axis] + pads[axis + rank],
            };
            begin[axis] = match asked {
                Some(_) if auto == "SAME_LOWER" => total - total / 2,
                Some(_) => total / 2,
                None => pads[axis].min(total),
            };
            output[axis] = match asked {
                Some(asked) => asked,
                None => full - total,
            };
        }
        let two = |values: &[i64], fill: usize| -> Result<[usize; 2], Fault> {
            let length = |v: i64| usize::try_from(v).map_err(|_| "the pads cut away more than there is");
            match *values {
                [w] => Ok([fill, length(w)?]),
                [h, w] => Ok([length(h)?, length(w)?]),
                _ => Err(format!("{} spatial dimensions are not supported", values.len()).into()),
            }
        };
        Ok(Self {
            kernel: planar(kernel)?,
            stride: two(&stride, 1)?,
            dilation: two(&dilation, 1)?,
            pad: two(&begin, 0)?,
            input: planar(input)?,
            output: two(&output, 1)?,
        })
    }

    /// Adds `columns[(c·kh·kw + k), p]` where position `p` reaches with tap `k`.
    fn add(&self, columns: &[f32], y: &mut [f32]) {
        let ([rows, cols], [height, width]) = (self.input, self.output);
        let taps = self.kernel[0] * self.kernel[1];
        let at = |axis: usize, i: usize, k: usize| {
            let full = i * self.stride[axis] + k * self.dilation[axis];
            full.checked_sub(self.pad[axis]).filter(|&o| o < self.output[axis])
        };
        for (row, column) in columns.chunks_exact(rows * cols).enumerate() {
            let (channel, tap) = (row / taps, row % taps);
            let plane = &mut y[channel * height * width..(channel + 1) * height * width];
            for (p, &value) in column.iter().enumerate() {
                let (oy, ox) = (at(0, p / cols, tap / self.kernel[1]), at(1, p % cols, tap % self.kernel[1]));
                if let (Some(oy), Some(ox)) = (oy, ox) {
                    plane[oy * width + ox] += value;
                }
            }
        }
    }
}
