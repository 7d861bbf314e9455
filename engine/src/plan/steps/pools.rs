//! Pools over windows and over planes.

use secateur_model::eval::Window;

use super::{Pool, Source};
use crate::kernels::{Halving, Into, Isa};
use crate::plan::layout::{Layout, SLACK, Shape};

/// Over windows.
#[inline(always)]
pub(super) fn windowed(
    isa: Isa,
    pool: Pool,
    window: &Window,
    source: Source<'_>,
    to: &Layout,
    out: &mut [f32],
) {
    let fits = |axis: usize| {
        let end = (window.output[axis] - 1) * window.stride[axis] + window.kernel[axis];
        window.pad[axis] == 0 && window.dilation[axis] == 1 && end <= window.input[axis]
    };
    let halves = window.kernel == [2, 2] && window.stride == [2, 2] && fits(0) && fits(1);
    if pool == Pool::Max && halves && halved(isa, source, to, out) {
        return;
    }
    let (data, from) = source;
    let Shape { c, h, w } = to.shape;
    for channel in 0..c {
        for y in 0..h {
            for x in 0..w {
                let (mut seen, mut result) = (0, if pool == Pool::Max { f32::NEG_INFINITY } else { 0.0 });
                for iy in window.met(0, y).filter_map(|k| window.at(0, y, k)) {
                    for ix in window.met(1, x).filter_map(|k| window.at(1, x, k)) {
                        let element = data[from.at(channel, iy, ix)];
                        result = if pool == Pool::Max { f32::max(result, element) } else { result + element };
                        seen += 1;
                    }
                }
                let [height, width] = window.kernel;
                out[to.at(channel, y, x)] = match pool {
                    Pool::Max => result,
                    Pool::Mean { count_padding: true } => result / (height * width) as f32,
                    Pool::Mean { count_padding: false } => result / seen.max(1) as f32,
                };
            }
        }
    }
}

/// The largest of each two by two, eight at a time, where there is room for that.
#[inline(always)]
fn halved(isa: Isa, (data, from): Source<'_>, to: &Layout, out: &mut [f32]) -> bool {
    let Shape { c, h, w } = to.shape;
    let halving = Halving {
        planes: c,
        rows: h,
        width: 2 * w,
        source: from.at(0, 0, 0),
        from: [from.plane, 2 * from.stride],
        into: Into::Maxima { to: to.at(0, 0, 0), below: from.stride },
        to: [to.plane, to.stride],
    };
    // What is written behind a row is written again with the next, be it of the next plane; behind the last is slack.
    halving.run(isa, SLACK, data, out)
}

/// Over whole planes.
#[inline(always)]
pub(super) fn global(max: bool, (data, from): Source<'_>, to: &Layout, out: &mut [f32]) {
    let Shape { c, h, w } = from.shape;
    for channel in 0..c {
        let plane = &data[from.at(channel, 0, 0)..][..(h - 1) * from.stride + w];
        out[to.at(channel, 0, 0)] = if max {
            let rows = plane.chunks(from.stride).map(|row| &row[..w]);
            rows.flatten().copied().fold(f32::NEG_INFINITY, f32::max)
        } else {
            // Gaps hold zeros.
            sum(plane) / (h * w) as f32
        };
    }
}

/// Eight sums at once, so that the compiler can use vectors.
#[inline(always)]
fn sum(row: &[f32]) -> f32 {
    let (eights, rest) = row.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, x)| *sum += x);
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}
