//! A sparse matrix whose rows lie in lanes: each table of inputs is held in registers, where every row looks up its own.

use super::bodies::{LookUpArgs, TABLE};
use super::simd::MOST_LANES as LANES;
use super::{Aligned, Clamp, Isa};

/// Vectors of a block.
const VECTORS: usize = 4;

/// What a step costs for each vector, and what a product by itself does, in cycles.
const STEP: f64 = 1.5;
const LONE: f64 = 2.0;

/// Rows that are computed together.
struct Block {
    vectors: usize,
    outputs: std::ops::Range<usize>,
    /// Where its steps' numbers start, and its steps.
    counts: usize,
    steps: usize,
}

/// A packed matrix.
#[derive(Default)]
pub(super) struct LookUp {
    blocks: Vec<Block>,
    /// Steps of each block and table.
    counts: Vec<u16>,
    /// Of each step, a weight and a place in the table for each lane.
    weights: Aligned,
    places: Vec<u8>,
    /// What is left over where few rows have more than the others: row, input and weight.
    lone: Vec<(u32, u32, f32)>,
}

impl LookUp {
    /// Packs `weights`, `[outputs, inputs]` row-major; `None` where the machine has no kernel for it.
    pub(super) fn new(isa: Isa, weights: &[f32], inputs: usize, outputs: usize) -> Option<Self> {
        isa.kernels().look_up?;
        let mut packed = Self::default();
        let mut kept = Vec::new();
        for first in (0..outputs).step_by(VECTORS * LANES) {
            let rows = first..outputs.min(first + VECTORS * LANES);
            let (counts, start) = (packed.counts.len(), packed.places.len());
            for table in (0..inputs).step_by(TABLE) {
                let columns = table..inputs.min(table + TABLE);
                packed.pack_table(weights, inputs, &rows, columns, &mut kept);
            }
            let vectors = rows.len().div_ceil(LANES);
            packed.blocks.push(Block { vectors, outputs: rows, counts, steps: start });
        }
        packed.weights = Aligned::from_slice(&kept);
        Some(packed)
    }

    /// Packs what some rows take of one table: steps as long as they pay, the rest one by one.
    fn pack_table(
        &mut self,
        weights: &[f32],
        inputs: usize,
        rows: &std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        kept: &mut Vec<f32>,
    ) {
        let taken = |row: usize| -> Vec<(usize, f32)> {
            let all = columns.clone().map(|column| (column, weights[row * inputs + column]));
            all.filter(|(_, weight)| *weight != 0.0).collect()
        };
        let taken: Vec<Vec<(usize, f32)>> = rows.clone().map(taken).collect();
        let lanes = rows.len().next_multiple_of(LANES);
        let pays = |step: &usize| {
            let busy = taken.iter().filter(|row| row.len() > *step).count();
            busy as f64 * LONE > (lanes / LANES) as f64 * STEP
        };
        let steps = (0..columns.len()).take_while(pays).count();
        for step in 0..steps {
            for lane in 0..lanes {
                let one = taken.get(lane).and_then(|row| row.get(step));
                let &(column, weight) = one.unwrap_or(&(columns.start, 0.0));
                kept.push(weight);
                self.places.push((column - columns.start) as u8);
            }
        }
        for (row, taken) in rows.clone().zip(&taken) {
            let rest = taken.iter().skip(steps);
            self.lone.extend(rest.map(|&(column, weight)| (row as u32, column as u32, weight)));
        }
        self.counts.push(steps as u16);
    }

    /// Multiply-accumulates of a run: those by weights that are not zero, and all.
    pub(super) fn macs(&self) -> [u64; 2] {
        let nonzero = self.weights.iter().filter(|weight| **weight != 0.0).count();
        [nonzero, self.weights.len()].map(|count| (count + self.lone.len()) as u64)
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        4 * self.weights.len() + self.places.len() + 2 * self.counts.len() + 12 * self.lone.len()
    }

    /// Computes `output`, as long as `bias`, from `input`.
    pub(super) fn run(&self, isa: Isa, input: &[f32], bias: &[f32], output: &mut [f32], clamp: Clamp) {
        let Some(kernel) = isa.kernels().look_up else { return };
        output.copy_from_slice(bias);
        for &(row, column, weight) in &self.lone {
            output[row as usize] += weight * input[column as usize];
        }
        for block in &self.blocks {
            let args = LookUpArgs {
                input: input.as_ptr(),
                inputs: input.len(),
                steps: self.counts[block.counts..].as_ptr(),
                weights: self.weights[block.steps..].as_ptr(),
                indices: self.places[block.steps..].as_ptr(),
                output: output[block.outputs.clone()].as_mut_ptr(),
                outputs: block.outputs.len(),
                clamp,
            };
            // SAFETY: `new` packed a count for each table of the inputs, and as many lanes as the counts say; the caller
            // gives as many inputs, see `Matrix::run`.
            unsafe { kernel(block.vectors)(&args) }
        }
    }
}
