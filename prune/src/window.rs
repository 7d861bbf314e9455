//! Windows of convolutions and pools, as the interpreter has them, and the way back through them.

use secateur_model::{Node, eval};

/// Where a kernel over one or two axes meets its input.
pub(crate) struct Window(eval::Window);

impl Window {
    /// The window that `node`'s attributes describe, of `kernel` over `input`; `None` where it does not fit.
    pub(crate) fn of(node: &Node, kernel: &[usize], input: &[usize]) -> Option<Self> {
        eval::window(node, kernel, input).ok().map(Self)
    }

    /// Appends the inputs under the window of output `place`: channel by channel, tap by tap.
    pub(crate) fn row(&self, planes: &[f32], place: usize, row: &mut Vec<f32>) {
        for plane in planes.chunks_exact(self.plane()) {
            row.extend(self.under(place).map(|element| element.map_or(0.0, |element| plane[element])));
        }
    }

    /// Places of the output.
    pub(crate) fn places(&self) -> usize {
        self.0.output.iter().product()
    }

    /// Elements of one channel of the input.
    pub(crate) fn plane(&self) -> usize {
        self.0.input.iter().product()
    }

    /// Places of the kernel.
    pub(crate) fn taps(&self) -> usize {
        self.0.kernel.iter().product()
    }

    /// The elements of a plane under the window of output `place`.
    pub(crate) fn met(&self, place: usize) -> impl Iterator<Item = usize> {
        self.under(place).flatten()
    }

    /// The element of a plane under each tap of the window of output `place`; none in the padding.
    fn under(&self, place: usize) -> impl Iterator<Item = Option<usize>> {
        let (window, [rows, columns]) = (&self.0, self.0.kernel);
        let (oy, ox) = (place / window.output[1], place % window.output[1]);
        let at =
            move |ky: usize, kx: usize| Some(window.at(0, oy, ky)? * window.input[1] + window.at(1, ox, kx)?);
        (0..rows).flat_map(move |ky| (0..columns).map(move |kx| at(ky, kx)))
    }

    /// Unrolls `planes`: a row for each channel and tap, a column for each output, row-major.
    pub(crate) fn columns(&self, planes: &[f32], columns: &mut Vec<f32>) {
        self.0.im2col(planes, columns);
    }

    /// The way back of [`Self::columns`]: what lies in `columns` is added to where it came from.
    pub(crate) fn add_columns(&self, columns: &[f32], planes: &mut [f32]) {
        let (window, [rows, cols]) = (&self.0, self.0.output);
        for (channel, plane) in planes.chunks_exact_mut(self.plane()).enumerate() {
            for tap in 0..self.taps() {
                let (ky, kx) = (tap / window.kernel[1], tap % window.kernel[1]);
                let Some((from, to)) = window.inside(1, kx) else { continue };
                for oy in 0..rows {
                    let (Some(y), Some(x)) = (window.at(0, oy, ky), window.at(1, from, kx)) else { continue };
                    let column = ((channel * self.taps() + tap) * rows + oy) * cols;
                    let columns = &columns[column + from..column + to];
                    let plane = &mut plane[y * window.input[1] + x..];
                    if window.stride[1] == 1 {
                        plane.iter_mut().zip(columns).for_each(|(to, from)| *to += from);
                    } else {
                        let plane = plane.iter_mut().step_by(window.stride[1]);
                        plane.zip(columns).for_each(|(to, from)| *to += from);
                    }
                }
            }
        }
    }
}
