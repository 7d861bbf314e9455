//! Where the elements of a value lie: planes of rows, with gaps of zeros that stand for a convolution's padding.

/// A value of one sample: channels of planes. A vector has planes of one element.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Shape {
    pub(crate) c: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
}

impl Shape {
    pub(crate) fn len(self) -> usize {
        self.c * self.h * self.w
    }
}

/// Rows above and below each plane, and columns beside each row, that hold zeros. Neighbours share them: the columns
/// to the right of a row are those to the left of the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gap {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Whether each row, with its columns on both sides, lies on a cache line of its own, where it fits.
    pub(crate) lines: bool,
}

impl Gap {
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            columns: self.columns.max(other.columns),
            lines: self.lines || other.lines,
        }
    }
}

/// A shape with its gaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) shape: Shape,
    /// From a row to the next.
    pub(crate) stride: usize,
    /// From a plane to the next.
    pub(crate) plane: usize,
    /// The first element.
    pub(crate) origin: usize,
}

/// Floats of a cache line.
const LINE: usize = 16;

/// Floats behind the last plane that a vector may read, or write zeros to.
pub(crate) const SLACK: usize = 16;

impl Layout {
    /// Where the vectors of the machine are `widest` floats at most. A line is either one vector, and rows start where lines
    /// do, or more, and no vector of a row reaches out of its line.
    pub(crate) fn new(shape: Shape, gap: Gap, widest: usize) -> Self {
        let whole = widest == LINE && 2 * shape.w > LINE;
        let sides = if whole { 1 } else { 2 };
        let lines = gap.lines && shape.w + sides * gap.columns <= LINE;
        let stride = if lines { LINE } else { shape.w + gap.columns };
        let first = gap.rows * stride + gap.columns;
        let origin = if lines && whole { first.next_multiple_of(LINE) } else { first };
        Self { shape, stride, plane: (shape.h + gap.rows) * stride, origin }
    }

    pub(crate) fn at(&self, c: usize, y: usize, x: usize) -> usize {
        self.origin + c * self.plane + y * self.stride + x
    }

    /// Floats that it takes, gaps and what a vector may read behind them included.
    pub(crate) fn len(&self) -> usize {
        self.origin + self.shape.c * self.plane + SLACK
    }

    /// Whether the elements follow each other without gaps.
    pub(crate) fn is_dense(&self) -> bool {
        self.origin == 0 && self.plane == self.shape.h * self.shape.w
    }

    /// Where each row starts, in order.
    pub(crate) fn rows(self) -> impl Iterator<Item = usize> {
        let Shape { c, h, .. } = self.shape;
        (0..c).flat_map(move |c| (0..h).map(move |y| self.at(c, y, 0)))
    }

    /// Whether both have their planes, rows and gaps at the same places, be it for other numbers of channels.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let lines =
            |layout: &Self| (layout.origin, layout.plane, layout.stride, layout.shape.h, layout.shape.w);
        lines(self) == lines(other)
    }

    /// Zeros the columns behind each row.
    pub(crate) fn clear_columns(&self, data: &mut [f32]) {
        let columns = self.stride - self.shape.w;
        if columns == 1 {
            self.rows().for_each(|start| data[start + self.shape.w] = 0.0);
        } else if columns > 1 {
            self.rows().for_each(|start| data[start + self.shape.w..][..columns].fill(0.0));
        }
    }
}
