//! What was seen so far around an element: the running averages and neighbours that serve as its context.

/// Buckets of an average.
pub(crate) const BUCKETS: usize = 16;

/// Averages are in 256ths.
const ONE: u32 = 256;
/// Where magnitudes and changes are cut off, so that one outlier does not spoil an average.
const CUT: u32 = 255;

/// A tensor's columns, and the row being decoded. Memory: one row, a few numbers an element.
pub(crate) struct Trace {
    columns: Vec<Averages>,
    row: Averages,
    levels: Vec<i16>,
    above: Vec<i16>,
}

/// The running averages of a row or a column.
#[derive(Clone, Copy, Default)]
struct Averages {
    /// How often an element is not zero, in 65,536ths.
    density: u16,
    /// The mean magnitude of those, in 256ths of a level.
    magnitude: u16,
    /// How far they are from their old values on average, in 16ths of 16ths of a level.
    change: u16,
    seen: u8,
    nonzero: u8,
    changed: u8,
}

/// The context of one element, as buckets.
pub(crate) struct Line {
    pub(crate) row_density: usize,
    pub(crate) column_density: usize,
    pub(crate) near_density: usize,
    pub(crate) row_magnitude: usize,
    pub(crate) column_magnitude: usize,
    pub(crate) magnitude: usize,
    pub(crate) row_change: usize,
    pub(crate) column_change: usize,
    pub(crate) change: usize,
    /// Which of five neighbours are zero.
    pub(crate) zeros: usize,
    /// The signs to the left and above, each of three.
    pub(crate) signs: usize,
}

impl Trace {
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            columns: vec![Averages::default(); columns],
            row: Averages::default(),
            levels: vec![0; columns],
            above: vec![0; columns],
        }
    }

    pub(crate) fn around(&self, column: usize) -> Line {
        let (row, own) = (&self.row, &self.columns[column]);
        let before = |by: usize| column.checked_sub(by);
        let left = before(1).map_or(0, |at| self.levels[at]);
        let further = before(2).map_or(0, |at| self.levels[at]);
        let above_left = before(1).map_or(0, |at| self.above[at]);
        let above_right = self.above.get(column + 1).copied().unwrap_or(0);
        let above = self.above[column];
        let nonzero = [left, further, above, above_left, above_right].map(|level| usize::from(level != 0));
        let sign = |level: i16| (level.signum() + 1) as usize;
        let density = |at: Option<usize>| {
            at.and_then(|at| self.columns.get(at)).map_or(own.density, |average| average.density)
        };
        let near = (u32::from(density(before(1))) + u32::from(density(Some(column + 1)))) / 2;
        Line {
            row_density: bucket(u32::from(row.density) >> 8, BUCKETS),
            column_density: bucket(u32::from(own.density) >> 8, BUCKETS),
            near_density: bucket(near >> 8, BUCKETS),
            row_magnitude: bucket(u32::from(row.magnitude) >> 7, BUCKETS),
            column_magnitude: bucket(u32::from(own.magnitude) >> 7, BUCKETS),
            magnitude: bucket(mean(row.magnitude, row.nonzero, own.magnitude, own.nonzero) >> 7, BUCKETS),
            row_change: bucket(u32::from(row.change) >> 5, BUCKETS),
            column_change: bucket(u32::from(own.change) >> 5, BUCKETS),
            change: bucket(mean(row.change, row.changed, own.change, own.changed) >> 5, BUCKETS),
            zeros: nonzero.iter().fold(0, |bits, bit| bits << 1 | bit),
            signs: sign(left) * 3 + sign(above),
        }
    }

    pub(crate) fn note(&mut self, column: usize, level: i32, old: i32) {
        self.levels[column] = level as i16; // at most `grid::LEVELS`
        self.row.note(level, old, 32);
        self.columns[column].note(level, old, 24);
    }

    /// Notes a zero that was known beforehand: it tells nothing of its surroundings.
    pub(crate) fn skip(&mut self, column: usize) {
        self.levels[column] = 0;
    }

    /// Ends the row and gives it.
    pub(crate) fn end_row(&mut self) -> &[i16] {
        std::mem::swap(&mut self.levels, &mut self.above);
        self.row = Averages { seen: 0, nonzero: 0, changed: 0, ..self.row };
        &self.above
    }
}

impl Averages {
    fn note(&mut self, level: i32, old: i32, memory: u8) {
        let nonzero = level != 0;
        average(&mut self.density, &mut self.seen, u32::from(nonzero) * 65_535, memory);
        if nonzero {
            average(&mut self.magnitude, &mut self.nonzero, level.unsigned_abs().min(CUT) * ONE, memory);
        }
        if nonzero && old != 0 {
            let change = (level * 16 - old).unsigned_abs().min(16 * CUT);
            average(&mut self.change, &mut self.changed, change * 16, memory);
        }
    }
}

/// Moves an average towards `value`: all seen weigh the same at first, the last `memory` later.
fn average(average: &mut u16, seen: &mut u8, value: u32, memory: u8) {
    *seen = (*seen + 1).min(memory);
    let step = (i64::from(value) - i64::from(*average)) / i64::from(*seen);
    *average = (i64::from(*average) + step) as u16;
}

/// The mean of two averages, each as far as it is known.
fn mean(a: u16, seen_a: u8, b: u16, seen_b: u8) -> u32 {
    let (a, seen_a, b, seen_b) = (u32::from(a), u32::from(seen_a), u32::from(b), u32::from(seen_b));
    (a * seen_a + b * seen_b) / (seen_a + seen_b).max(1)
}

/// Two buckets an octave: 0, 1, 2, 3, 4–5, 6–7, 8–11 …
pub(crate) fn bucket(value: u32, buckets: usize) -> usize {
    let bucket = match value {
        0..4 => value,
        _ => {
            let octave = value.ilog2();
            2 * octave + (value >> (octave - 1) & 1)
        }
    };
    (bucket as usize).min(buckets - 1)
}
