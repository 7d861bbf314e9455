//! A matrix times one vector: dense, sparse in blocks of eight outputs, sparse row by row, or by tables of inputs.

use super::bodies::{BlockArgs, CHAINS, RowArgs};
use super::look_up::LookUp;
use super::simd::LANES;
use super::{Aligned, Clamp, Isa};

/// How a matrix is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Storage {
    /// All weights, in blocks of up to 32 outputs.
    Dense,
    /// Blocks of eight outputs, each with the inputs that any of them reads.
    Blocks,
    /// Rows, each with its nonzero weights.
    Rows,
    /// The same sixteen rows at a time, see [`LookUp`].
    Tables,
}

impl Storage {
    /// Its name, for people and for what is kept of a trial.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Blocks => "8 × 1 blocks",
            Self::Rows => "sparse rows",
            Self::Tables => "tables",
        }
    }
}

/// Outputs that are computed together.
struct Block {
    vectors: usize,
    outputs: std::ops::Range<usize>,
    indices: std::ops::Range<usize>,
    weights: usize,
}

/// A packed matrix with its bias.
pub(crate) struct Matrix {
    storage: Storage,
    blocks: Vec<Block>,
    indices: Vec<u32>,
    /// For rows: where each starts; the last is the end.
    starts: Vec<usize>,
    columns: Vec<u16>,
    tables: LookUp,
    weights: Aligned,
    /// Padded to whole blocks.
    bias: Aligned,
    clamp: Clamp,
    inputs: usize,
    outputs: usize,
}

impl Matrix {
    /// Packs `weights`, `[bias.len(), inputs]` row-major; `None` where the storage cannot hold it,
    /// or the machine has no kernel for it.
    pub(crate) fn new(
        isa: Isa,
        storage: Storage,
        weights: &[f32],
        bias: &[f32],
        inputs: usize,
        clamp: Clamp,
    ) -> Option<Self> {
        let outputs = bias.len();
        let mut padded = bias.to_vec();
        padded.resize(outputs + 4 * LANES, 0.0);
        let mut packed = Self {
            storage,
            blocks: Vec::new(),
            indices: Vec::new(),
            starts: Vec::new(),
            columns: Vec::new(),
            tables: LookUp::default(),
            weights: Aligned::default(),
            bias: Aligned::from_slice(&padded),
            clamp,
            inputs,
            outputs,
        };
        match storage {
            Storage::Rows if inputs > usize::from(u16::MAX) + 1 => return None,
            Storage::Rows => packed.pack_rows(weights),
            Storage::Tables => packed.tables = LookUp::new(isa, weights, inputs, outputs)?,
            Storage::Dense | Storage::Blocks => packed.pack_blocks(weights),
        }
        Some(packed)
    }

    fn pack_rows(&mut self, weights: &[f32]) {
        let mut kept = Vec::new();
        self.starts.push(0);
        for row in weights.chunks_exact(self.inputs.max(1)) {
            for (column, &weight) in row.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
                kept.push(weight);
                self.columns.push(column as u16);
            }
            let whole = kept.len().next_multiple_of(CHAINS);
            kept.resize(whole, 0.0);
            self.columns.resize(whole, 0);
            self.starts.push(whole);
        }
        // A matrix without inputs has rows all the same.
        self.starts.resize(self.outputs + 1, kept.len());
        self.weights = Aligned::from_slice(&kept);
    }

    fn pack_blocks(&mut self, weights: &[f32]) {
        let dense = self.storage == Storage::Dense;
        let at = |output: usize, input: usize| {
            if output < self.outputs { weights[output * self.inputs + input] } else { 0.0 }
        };
        let (mut kept, mut first) = (Vec::new(), 0);
        while first < self.outputs {
            let vectors = match (dense, (self.outputs - first).div_ceil(LANES)) {
                (false, _) | (_, 1) => 1,
                (_, 2) => 2,
                _ => 4,
            };
            let outputs = first..first + vectors * LANES;
            let (start, from) = (kept.len(), self.indices.len());
            for input in 0..self.inputs {
                if dense || outputs.clone().any(|output| at(output, input) != 0.0) {
                    kept.extend(outputs.clone().map(|output| at(output, input)));
                    if !dense {
                        self.indices.push(input as u32);
                    }
                }
            }
            let end = outputs.end.min(self.outputs);
            let indices = from..self.indices.len();
            self.blocks.push(Block { vectors, outputs: first..end, indices, weights: start });
            first = end;
        }
        self.weights = Aligned::from_slice(&kept);
    }

    /// How it is kept.
    pub(crate) fn name(&self) -> String {
        self.storage.name().into()
    }

    /// Multiply-accumulates of a run: those by weights that are not zero, and all.
    pub(crate) fn macs(&self) -> [u64; 2] {
        if self.storage == Storage::Tables {
            return self.tables.macs();
        }
        let nonzero = self.weights.iter().filter(|weight| **weight != 0.0).count();
        [nonzero as u64, self.weights.len() as u64]
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.weights.len() + self.indices.len() + self.bias.len())
            + 2 * self.columns.len()
            + 8 * self.starts.len()
            + self.tables.bytes()
    }

    /// Computes `output` from `input`.
    ///
    /// # Panics
    /// Where a slice is shorter than the matrix asks for.
    pub(crate) fn run(&self, isa: Isa, input: &[f32], output: &mut [f32]) {
        let (input, output) = (&input[..self.inputs], &mut output[..self.outputs]);
        match self.storage {
            Storage::Rows => self.run_rows(isa, input, output),
            Storage::Tables => self.tables.run(isa, input, &self.bias[..self.outputs], output, self.clamp),
            Storage::Dense | Storage::Blocks => self.run_blocks(isa, input, output),
        }
    }

    fn run_rows(&self, isa: Isa, input: &[f32], output: &mut [f32]) {
        let row = isa.kernels().row;
        for (index, output) in output.iter_mut().enumerate() {
            let span = self.starts[index]..self.starts[index + 1];
            let args = RowArgs {
                input: input.as_ptr(),
                indices: self.columns[span.clone()].as_ptr(),
                weights: self.weights[span.clone()].as_ptr(),
                len: span.len(),
            };
            // SAFETY: `pack_rows` took columns below `inputs`, which `input` has, and padded to whole chains.
            *output = self.clamp.of(self.bias[index] + unsafe { row(&args) });
        }
    }

    fn run_blocks(&self, isa: Isa, input: &[f32], output: &mut [f32]) {
        let dense = self.storage == Storage::Dense;
        for block in &self.blocks {
            let indices = &self.indices[block.indices.clone()];
            let args = BlockArgs {
                input: input.as_ptr(),
                indices: if dense { std::ptr::null() } else { indices.as_ptr() },
                weights: self.weights[block.weights..].as_ptr(),
                len: if dense { self.inputs } else { indices.len() },
                bias: self.bias[block.outputs.start..].as_ptr(),
                output: output[block.outputs.clone()].as_mut_ptr(),
                lanes: block.outputs.len(),
                clamp: self.clamp,
            };
            // SAFETY: `pack_blocks` took indices below `inputs`, which `input` has, as many weights as the block has
            // of both, and the bias is padded by the widest block.
            unsafe { ((isa.kernels().block)(block.vectors))(&args) }
        }
    }
}
