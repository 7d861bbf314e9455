//! Windows of convolutions and pools.

use secateur_model::Node;

/// Where a kernel over one or two axes meets its input.
pub(crate) struct Window {
    kernel: [usize; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    pad: [i64; 2],
    input: [usize; 2],
    out: [usize; 2],
}

impl Window {
    /// The window that `node`'s attributes describe, of `kernel` over `input`; `None` where it does not fit.
    pub(crate) fn of(node: &Node, kernel: &[usize], input: &[usize]) -> Option<Self> {
        let two = |values: &[usize]| match *values {
            [w] => [1, w],
            [h, w] => [h, w],
            _ => [0, 0],
        };
        let rank = kernel.len();
        let list = |name: &str, default: i64, end: usize| -> [i64; 2] {
            let values = node.ints(name);
            let at =
                |axis: usize| values.and_then(|values| values.get(axis + end)).copied().unwrap_or(default);
            if rank == 1 { [default, at(0)] } else { [at(0), at(1)] }
        };
        let (stride, dilation) = (list("strides", 1, 0), list("dilations", 1, 0));
        let (pad, pad_end) = (list("pads", 0, 0), list("pads", 0, rank));
        let (kernel, input) = (two(kernel), two(input));
        let mut out = [0; 2];
        for axis in 0..2 {
            let extent = dilation[axis] * (kernel[axis] as i64 - 1) + 1;
            let room = input[axis] as i64 + pad[axis] + pad_end[axis] - extent;
            out[axis] = usize::try_from(room.checked_div(stride[axis])? + 1).ok()?;
        }
        Some(Self { kernel, stride, dilation, pad, input, out })
    }

    /// Appends the inputs under the window of output `place`: channel by channel, tap by tap.
    pub(crate) fn row(&self, planes: &[f32], place: usize, row: &mut Vec<f32>) {
        let [height, width] = self.input;
        let top = (place / self.out[1]) as i64 * self.stride[0] - self.pad[0];
        let left = (place % self.out[1]) as i64 * self.stride[1] - self.pad[1];
        for plane in planes.chunks_exact(height * width) {
            for ky in 0..self.kernel[0] as i64 {
                let y = top + ky * self.dilation[0];
                for kx in 0..self.kernel[1] as i64 {
                    let x = left + kx * self.dilation[1];
                    let inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
                    row.push(if inside { plane[y as usize * width + x as usize] } else { 0.0 });
                }
            }
        }
    }

    /// Places of the output.
    pub(crate) fn places(&self) -> usize {
        self.out.iter().product()
    }

    /// Elements of one channel of the input.
    pub(crate) fn plane(&self) -> usize {
        self.input.iter().product()
    }

    /// Places of the kernel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// The elements of a plane under the window of output `place`.
    pub(crate) fn met(&self, place: usize) -> impl Iterator<Item = usize> {
        let [height, width] = self.input.map(|length| length as i64);
        let top = (place / self.out[1]) as i64 * self.stride[0] - self.pad[0];
        let left = (place % self.out[1]) as i64 * self.stride[1] - self.pad[1];
        let (kernel, dilation) = (self.kernel.map(|length| length as i64), self.dilation);
        (0..kernel[0]).flat_map(move |ky| (0..kernel[1]).map(move |kx| (ky, kx))).filter_map(
            move |(ky, kx)| {
                let (y, x) = (top + ky * dilation[0], left + kx * dilation[1]);
                ((0..height).contains(&y) && (0..width).contains(&x)).then(|| (y * width + x) as usize)
            },
        )
    }

    /// For output row `oy` under kernel row `ky` and column `kx`: the outputs `from..to` of it that meet the input, and
    /// the element that the first of them meets.
    fn stretch(&self, oy: usize, ky: usize, kx: usize) -> Option<(usize, usize, usize)> {
        let [height, width] = self.input.map(|length| length as i64);
        let y = oy as i64 * self.stride[0] + ky as i64 * self.dilation[0] - self.pad[0];
        let left = kx as i64 * self.dilation[1] - self.pad[1];
        let stride = self.stride[1].max(1);
        let from = (-left).max(0).div_euclid(stride) + i64::from((-left).max(0).rem_euclid(stride) != 0);
        let to = ((width - 1 - left).div_euclid(stride) + 1).clamp(0, self.out[1] as i64);
        let inside = (0..height).contains(&y) && from < to;
        inside.then(|| (from as usize, to as usize, (y * width + left + from * stride) as usize))
    }

    /// Unrolls `planes`: a row for each channel and tap, a column for each output, row-major.
    pub(crate) fn columns(&self, planes: &[f32], columns: &mut [f32]) {
        columns.fill(0.0);
        self.each(planes.len() / self.plane().max(1), |column, from, count, stride| {
            let columns = &mut columns[column..column + count];
            if stride == 1 {
                return columns.copy_from_slice(&planes[from..from + count]);
            }
            columns.iter_mut().zip(planes[from..].iter().step_by(stride)).for_each(|(to, from)| *to = *from);
        });
    }

    /// The way back of [`Self::columns`]: what lies in `columns` is added to where it came from.
    pub(crate) fn add_columns(&self, columns: &[f32], planes: &mut [f32]) {
        self.each(planes.len() / self.plane().max(1), |column, from, count, stride| {
            let columns = &columns[column..column + count];
            if stride == 1 {
                return planes[from..].iter_mut().zip(columns).for_each(|(to, from)| *to += from);
            }
            planes[from..].iter_mut().step_by(stride).zip(columns).for_each(|(to, from)| *to += from);
        });
    }

    /// Calls `at` with each stretch of unrolled columns: where it begins, which element its first comes from, how many
    /// there are and how far apart in the plane.
    fn each(&self, channels: usize, mut at: impl FnMut(usize, usize, usize, usize)) {
        let ([rows, cols], stride) = (self.out, self.stride[1].max(1) as usize);
        for channel in 0..channels {
            for tap in 0..self.taps() {
                let (ky, kx) = (tap / self.kernel[1], tap % self.kernel[1]);
                for oy in 0..rows {
                    let Some((from, to, element)) = self.stretch(oy, ky, kx) else { continue };
                    let column = ((channel * self.taps() + tap) * rows + oy) * cols + from;
                    at(column, channel * self.plane() + element, to - from, stride);
                }
            }
        }
    }
}
