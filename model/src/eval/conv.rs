//! Convolution: im2col and sgemm a sample, direct for depthwise; samples run in parallel.

use std::ops::Range;

use rayon::prelude::*;

use super::{Call, Depth, Fault, zeros, zeros_count};
use crate::{Node, Tensor};

/// The window of a convolution or pool over two spatial axes. One-dimensional ones have a height of 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Rows above and columns left.
    pub pad: [usize; 2],
    pub input: [usize; 2],
    pub output: [usize; 2],
}

/// Spatial dimensions as two, with a height of 1 where there is one.
pub(crate) fn planar(spatial: &[usize]) -> Result<[usize; 2], Fault> {
    match *spatial {
        [w] => Ok([1, w]),
        [h, w] => Ok([h, w]),
        _ => Err(format!("{} spatial dimensions are not supported", spatial.len()).into()),
    }
}

impl Window {
    /// The window that `node`'s attributes describe, of `kernel` over `input`.
    pub(crate) fn of(node: &Node, kernel: &[usize], input: &[usize]) -> Result<Self, Fault> {
        let rank = kernel.len();
        let list = |name: &str, default: usize, length: usize| -> Result<Vec<usize>, Fault> {
            let Some(values) = node.ints(name) else { return Ok(vec![default; length]) };
            let good = values.len() == length && values.iter().all(|&v| (0..=1 << 20).contains(&v));
            if good {
                Ok(values.iter().map(|&v| v as usize).collect())
            } else {
                Err(format!("bad `{name}`").into())
            }
        };
        let (stride, dilation) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
        if stride.contains(&0) || dilation.contains(&0) || kernel.contains(&0) {
            return Err("a kernel, stride or dilation of zero".into());
        }
        let extent =
            |axis: usize| (kernel[axis] - 1).checked_mul(dilation[axis]).map_or(usize::MAX / 4, |e| e + 1);
        let (mut begin, mut end) = (vec![0; rank], vec![0; rank]);
        match node.text("auto_pad").unwrap_or("NOTSET") {
            "VALID" => {}
            "NOTSET" => {
                let pads = list("pads", 0, 2 * rank)?;
                begin.copy_from_slice(&pads[..rank]);
                end.copy_from_slice(&pads[rank..]);
            }
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                for axis in 0..rank {
                    let out = input[axis].div_ceil(stride[axis]);
                    let total =
                        (out.saturating_sub(1) * stride[axis] + extent(axis)).saturating_sub(input[axis]);
                    begin[axis] = if same == "SAME_LOWER" { total.div_ceil(2) } else { total / 2 };
                    end[axis] = total - begin[axis];
                }
            }
            other => return Err(format!("auto_pad `{other}` is not known").into()),
        }
        let ceil = node.int("ceil_mode", 0) != 0;
        let mut output = vec![0; rank];
        for axis in 0..rank {
            let padded = input[axis] + begin[axis] + end[axis];
            let room =
                padded.checked_sub(extent(axis)).ok_or("the kernel is larger than its padded input")?;
            output[axis] = if ceil { room.div_ceil(stride[axis]) } else { room / stride[axis] } + 1;
            // With ceil_mode a last window that would start in the padding at the end is left out.
            if ceil && (output[axis] - 1) * stride[axis] >= input[axis] + begin[axis] {
                output[axis] -= 1;
            }
        }
        let two = |values: &[usize], fill: usize| match *values {
            [w] => [fill, w],
            [h, w, ..] => [h, w],
            [] => [fill, fill],
        };
        Ok(Self {
            kernel: two(kernel, 1),
            stride: two(&stride, 1),
            dilation: two(&dilation, 1),
            pad: two(&begin, 0),
            input: planar(input)?,
            output: two(&output, 1),
        })
    }

    /// The input position that kernel offset `k` meets at output `o` along `axis`, unless it is padding.
    pub fn at(&self, axis: usize, o: usize, k: usize) -> Option<usize> {
        (o * self.stride[axis] + k * self.dilation[axis])
            .checked_sub(self.pad[axis])
            .filter(|&position| position < self.input[axis])
    }

    /// The kernel offsets that meet the input and not its padding at output `o` along `axis`: as many as the input is
    /// long, at most, whatever the kernel.
    pub fn met(&self, axis: usize, o: usize) -> Range<usize> {
        let offset_of = |padded: usize| {
            padded.saturating_sub(o * self.stride[axis]).div_ceil(self.dilation[axis]).min(self.kernel[axis])
        };
        offset_of(self.pad[axis])..offset_of(self.pad[axis] + self.input[axis])
    }

    /// The outputs `from..to` along `axis` whose kernel offset `k` meets the input and not its padding.
    pub fn inside(&self, axis: usize, k: usize) -> Option<(usize, usize)> {
        let (offset, pad, stride) = (k * self.dilation[axis], self.pad[axis], self.stride[axis]);
        let from = pad.saturating_sub(offset).div_ceil(stride);
        let to = (self.input[axis] + pad).saturating_sub(offset).div_ceil(stride).min(self.output[axis]);
        (from < to).then_some((from, to))
    }

    /// Whether the window is a single element that visits each position once.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0, 0] && self.input == self.output
    }

    /// Rows of `channels × kernel`, a column an output position: `columns[(c·kh·kw + k), p]`.
    pub fn im2col(&self, planes: &[f32], columns: &mut Vec<f32>) {
        let [height, width] = self.input;
        let [rows, cols] = self.output;
        columns.clear();
        for plane in planes.chunks_exact(height * width) {
            for ky in 0..self.kernel[0] {
                for kx in 0..self.kernel[1] {
                    let inside = self.inside(1, kx);
                    for y in 0..rows {
                        let start = columns.len();
                        columns.resize(start + cols, 0.0);
                        let (Some(iy), Some((from, to))) = (self.at(0, y, ky), inside) else { continue };
                        let first = iy * width + from * self.stride[1] + kx * self.dilation[1] - self.pad[1];
                        let target = &mut columns[start + from..start + to];
                        if self.stride[1] == 1 {
                            target.copy_from_slice(&plane[first..first + to - from]);
                        } else {
                            let source = plane[first..].iter().step_by(self.stride[1]);
                            target.iter_mut().zip(source).for_each(|(value, &x)| *value = x);
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "Conv" if call.input(0)?.shape().len() == 5 => Ok(vec![super::volume::conv(call)?]),
        "Conv" => Ok(vec![conv(call)?]),
        _ => Err(Fault::Unknown),
    }
}

pub(super) fn conv(call: &Call<'_>) -> Result<Tensor, Fault> {
    let ((x_shape, x), (w_shape, w)) = (call.floats(0)?, call.floats(1)?);
    let bias = call.optional(2).map(|_| call.floats(2)).transpose()?.map(|(_, bias)| bias);
    if x_shape.len() < 3 || x_shape.len() != w_shape.len() {
        return Err(format!("input {x_shape:?} and weights {w_shape:?} do not fit").into());
    }
    let groups = usize::try_from(call.node.int("group", 1)).unwrap_or(0);
    let (channels, outputs) = (x_shape[1], w_shape[0]);
    let fits = groups > 0
        && channels == w_shape[1].saturating_mul(groups)
        && outputs.is_multiple_of(groups)
        && bias.is_none_or(|bias| bias.len() == outputs);
    if !fits {
        return Err(
            format!("{channels} channels in {groups} groups and weights {w_shape:?} do not fit").into()
        );
    }
    let window = Window::of(call.node, &w_shape[2..], &x_shape[2..])?;
    let mut shape = vec![x_shape[0], outputs];
    shape.extend(if x_shape.len() == 3 { &window.output[1..] } else { &window.output[..] });
    let mut out = zeros(shape)?;
    let (in_size, out_size) = (
        channels * window.input.iter().product::<usize>(),
        outputs * window.output.iter().product::<usize>(),
    );
    if call.depth == Depth::Shapes || in_size == 0 || out_size == 0 {
        return Ok(out);
    }
    zeros_count(&[w.len() / outputs, out_size / outputs])?; // what a group's columns take
    let y = out.as_f32_mut().ok_or("unreachable")?;
    y.par_chunks_exact_mut(out_size).zip(x.par_chunks_exact(in_size)).for_each_init(
        Vec::new,
        |columns, (y, x)| {
            let (y_group, x_group) = (out_size / groups, in_size / groups);
            let w_group = w.len() / groups;
            for g in 0..groups {
                let (y, x) = (&mut y[g * y_group..(g + 1) * y_group], &x[g * x_group..(g + 1) * x_group]);
                let w = &w[g * w_group..(g + 1) * w_group];
                if channels == groups {
                    depthwise(&window, w, x, y)
                } else {
                    product(&window, w, x, y, columns)
                }
            }
            if let Some(bias) = bias {
                for (plane, bias) in y.chunks_exact_mut(out_size / outputs).zip(bias) {
                    plane.iter_mut().for_each(|value| *value += bias);
                }
            }
        },
    );
    Ok(out)
}

/// One group of one sample as a matrix product: `y[m, p] = w[m, k] · columns[k, p]`.
fn product(window: &Window, w: &[f32], x: &[f32], y: &mut [f32], columns: &mut Vec<f32>) {
    let positions: usize = window.output.iter().product();
    let columns = if window.is_pointwise() {
        x
    } else {
        window.im2col(x, columns);
        columns.as_slice()
    };
    super::matmul::sgemm(y.len() / positions, columns.len() / positions, positions, w, columns, y);
}

/// One input channel to the outputs of its group, tap by tap.
fn depthwise(window: &Window, w: &[f32], x: &[f32], y: &mut [f32]) {
    let ([rows, cols], width) = (window.output, window.input[1]);
    let taps = window.kernel[0] * window.kernel[1];
    for (plane, w) in y.chunks_exact_mut(rows * cols).zip(w.chunks_exact(taps)) {
        for (tap, &weight) in w.iter().enumerate() {
            let (ky, kx) = (tap / window.kernel[1], tap % window.kernel[1]);
            let Some((from, to)) = window.inside(1, kx) else { continue };
            for (oy, out) in plane.chunks_exact_mut(cols).enumerate() {
                let Some(iy) = window.at(0, oy, ky) else { continue };
                let first = iy * width + from * window.stride[1] + kx * window.dilation[1] - window.pad[1];
                let out = &mut out[from..to];
                if window.stride[1] == 1 {
                    // Whole slices: a compiler makes vectors of them, of steps it does not.
                    let source = &x[first..first + out.len()];
                    out.iter_mut().zip(source).for_each(|(value, &x)| *value += weight * x);
                } else {
                    let source = x[first..].iter().step_by(window.stride[1]);
                    out.iter_mut().zip(source).for_each(|(value, &x)| *value += weight * x);
                }
            }
        }
    }
}
