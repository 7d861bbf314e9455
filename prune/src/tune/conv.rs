//! The way back through windows: convolution and pooling.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::rules::{Back, Call};
use crate::window::Window;

/// Convolutions over one or two axes.
pub(super) fn back(call: &Call<'_>) -> Option<Back> {
    let (node, slope) = (call.node(), call.slope()?);
    let (x, w) = (call.input(0)?, call.input(1)?);
    let (x_shape, w_shape) = (x.shape(), w.shape());
    if !(3..=4).contains(&x_shape.len()) || node.text("auto_pad").is_some_and(|pad| pad != "NOTSET") {
        return None;
    }
    let window = Window::of(node, &w_shape[2..], &x_shape[2..])?;
    let groups = usize::try_from(node.int("group", 1)).ok().filter(|&groups| groups > 0)?;
    let (images, depth, taps) = (x_shape[0], w_shape[1], window.taps());
    let (area, plane) = (window.places(), window.plane());
    let (width, outputs) = (depth * taps, w_shape[0] / groups);
    if slope.len() != images * w_shape[0] * area || x_shape[1] != depth * groups {
        return None;
    }
    let (x, w) = (x.as_f32()?, w.as_f32()?);
    let mut back = vec![None; call.wanted.len()];
    let mut dx = vec![0.0; if call.wanted[0] { x.len() } else { 0 }];
    let mut dw = vec![0.0; w.len()];
    let mut columns = vec![0.0; width * area];
    let mut unrolled = vec![0.0; width * area];
    for image in 0..images {
        for group in 0..groups {
            let from = (image * groups + group) * depth * plane;
            let planes = &x[from..from + depth * plane];
            let slope = &slope[(image * groups + group) * outputs * area..][..outputs * area];
            let own = group * outputs * width..(group + 1) * outputs * width;
            window.columns(planes, &mut columns);
            let (w, dw) = (&w[own.clone()], &mut dw[own]);
            if outputs == 1 {
                // Too small for a matrix product.
                dw.iter_mut().zip(columns.chunks_exact(area)).for_each(|(dw, row)| *dw += dot(row, slope));
                for (row, w) in unrolled.chunks_exact_mut(area).zip(w) {
                    row.iter_mut().zip(slope).for_each(|(value, slope)| *value = w * slope);
                }
            } else {
                let y = MatRef::from_row_major_slice(slope, outputs, area);
                let c = MatRef::from_row_major_slice(&columns, width, area);
                let into = MatMut::from_row_major_slice_mut(dw, outputs, width);
                matmul(into, Accum::Add, y, c.transpose(), 1.0, Par::Seq);
                let w = MatRef::from_row_major_slice(w, outputs, width);
                let into = MatMut::from_row_major_slice_mut(&mut unrolled, width, area);
                matmul(into, Accum::Replace, w.transpose(), y, 1.0, Par::Seq);
            }
            if call.wanted[0] {
                window.add_columns(&unrolled, &mut dx[from..from + depth * plane]);
            }
        }
    }
    if call.wanted[0] {
        back[0] = Some(dx);
    }
    back[1] = call.wanted[1].then_some(dw);
    if call.wanted.get(2) == Some(&true) {
        let (mut db, ones) = (vec![0.0; w_shape[0]], vec![1.0; area]);
        slope.chunks_exact(area).enumerate().for_each(|(at, row)| db[at % w_shape[0]] += dot(row, &ones));
        back[2] = Some(db);
    }
    Some(back)
}

/// `a · b`, in lanes that a compiler makes vectors of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (a, b) = (a.chunks_exact(lanes.len()), b.chunks_exact(lanes.len()));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    a.zip(b)
        .for_each(|(a, b)| lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b));
    rest + lanes.iter().sum::<f32>()
}

/// Largest or mean of a window.
pub(super) fn pool(call: &Call<'_>) -> Option<Back> {
    let (node, slope, x) = (call.node(), call.slope()?, call.input(0)?);
    let shape = x.shape();
    if !(3..=4).contains(&shape.len())
        || node.text("auto_pad").is_some_and(|pad| pad != "NOTSET")
        || node.int("ceil_mode", 0) != 0
    {
        return None;
    }
    let kernel: Vec<usize> =
        node.ints("kernel_shape")?.iter().map(|&k| usize::try_from(k).ok()).collect::<Option<_>>()?;
    let window = Window::of(node, &kernel, &shape[2..])?;
    let (area, plane, x) = (window.places(), window.plane(), x.as_f32()?);
    if slope.len() != shape[0] * shape[1] * area {
        return None;
    }
    let (largest, padded) = (node.is("MaxPool"), node.int("count_include_pad", 0) != 0);
    let met: Vec<Vec<usize>> = (0..area).map(|place| window.met(place).collect()).collect();
    let mut own = vec![0.0; x.len()];
    let planes = x.chunks_exact(plane).zip(own.chunks_exact_mut(plane)).zip(slope.chunks_exact(area));
    for ((x, own), slope) in planes {
        for (met, slope) in met.iter().zip(slope) {
            if largest {
                let larger = |a: usize, b: usize| if x[b] > x[a] { b } else { a };
                met.iter().copied().reduce(larger).into_iter().for_each(|at| own[at] += slope);
            } else {
                let share = slope / if padded { window.taps() } else { met.len().max(1) } as f32;
                met.iter().for_each(|&at| own[at] += share);
            }
        }
    }
    let mut back = vec![None; call.wanted.len()];
    back[0] = Some(own);
    Some(back)
}
