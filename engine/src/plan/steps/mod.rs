//! What a plan runs, one step after the other.

mod elementwise;
mod moves;
mod pools;

use super::layout::Layout;
use super::network::{Activation, Affine, Binary, Node, Op, ValueId};
use crate::kernels::{Aligned, Convolution, Isa, Matrix};
use secateur_model::eval::Window;

/// Where a value is: its slot of memory, and how it lies there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) slot: usize,
    pub(super) layout: Layout,
}

/// One step.
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) to: Port,
    /// What is left to do to the result.
    pub(super) activation: Activation,
}

/// What a step computes.
pub(super) enum Kind {
    Load(Affine),
    Conv { kernel: Convolution, input: usize, residual: Option<usize> },
    Dense { kernel: Matrix, input: usize },
    Affine { from: Port, affine: Affine },
    Same { from: Port },
    Binary { op: Binary, a: Port, b: Port },
    Pool { from: Port, window: Window, pool: Pool },
    Global { from: Port, max: bool },
    Concat { from: Vec<Port> },
    Reshape { from: Port },
    Upsample { from: Port, rows: usize, columns: usize },
    Pad { from: Port, top: usize, left: usize, value: f32 },
    Softmax { from: Port },
    Phases { from: Port, rows: usize, columns: usize },
}

/// What a pool takes of each window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pool {
    Max,
    /// Of the elements inside, or divided by all of the window.
    Mean {
        count_padding: bool,
    },
}

/// The step of a node that needs no kernel of its own.
pub(super) fn plain(node: &Node, port: &dyn Fn(ValueId) -> Port) -> Kind {
    let from = || port(node.inputs[0]);
    match &node.op {
        Op::Input(affine) => Kind::Load(affine.clone()),
        Op::Affine(affine) => Kind::Affine { from: from(), affine: affine.clone() },
        Op::Same => Kind::Same { from: from() },
        Op::Binary(op) => Kind::Binary { op: *op, a: from(), b: port(node.inputs[1]) },
        Op::MaxPool(window) => Kind::Pool { from: from(), window: *window, pool: Pool::Max },
        Op::AveragePool { window, count_padding } => {
            Kind::Pool { from: from(), window: *window, pool: Pool::Mean { count_padding: *count_padding } }
        }
        Op::GlobalAverage => Kind::Global { from: from(), max: false },
        Op::GlobalMax => Kind::Global { from: from(), max: true },
        Op::Concat => Kind::Concat { from: node.inputs.iter().map(|&value| port(value)).collect() },
        Op::Reshape => Kind::Reshape { from: from() },
        Op::Upsample { rows, columns } => Kind::Upsample { from: from(), rows: *rows, columns: *columns },
        Op::Pad { top, left, value } => Kind::Pad { from: from(), top: *top, left: *left, value: *value },
        Op::Softmax => Kind::Softmax { from: from() },
        Op::Phases { rows, columns } => Kind::Phases { from: from(), rows: *rows, columns: *columns },
        Op::Conv { .. } | Op::Dense { .. } => unreachable!("these get a kernel by trial"),
    }
}

impl Kind {
    /// Bytes of packed weights.
    pub(super) fn weight_bytes(&self) -> usize {
        match self {
            Self::Conv { kernel, .. } => kernel.bytes(),
            Self::Dense { kernel, .. } => kernel.bytes(),
            _ => 0,
        }
    }

    /// What it does, for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Load(_) => "load",
            Self::Conv { .. } => "convolution",
            Self::Dense { .. } => "product",
            Self::Affine { .. } => "scale",
            Self::Same { .. } => "activation",
            Self::Binary { .. } => "binary",
            Self::Pool { .. } => "pool",
            Self::Global { .. } => "global pool",
            Self::Concat { .. } => "concat",
            Self::Reshape { .. } => "reshape",
            Self::Upsample { .. } => "upsample",
            Self::Pad { .. } => "pad",
            Self::Softmax { .. } => "softmax",
            Self::Phases { .. } => "phases",
        }
    }

    /// Whether it writes the columns behind rows, which must hold zeros.
    fn spills(&self) -> bool {
        matches!(self, Self::Conv { kernel, .. } if kernel.spills())
    }

    #[inline(always)]
    fn run(&self, isa: Isa, input: &[f32], slots: &[Aligned], to: &Layout, out: &mut [f32]) {
        match self {
            Self::Load(affine) => elementwise::load(input, affine, to, out),
            Self::Conv { kernel, input, residual } => {
                kernel.run(&slots[*input], residual.map(|slot| &slots[slot][..]), out);
            }
            Self::Dense { kernel, input } => kernel.run(isa, &slots[*input], out),
            Self::Affine { from, affine } => elementwise::affine(affine, from.of(slots), to, out),
            Self::Same { from } => moves::same(from.of(slots), to, out),
            Self::Binary { op, a, b } => elementwise::binary(*op, a.of(slots), b.of(slots), to, out),
            Self::Pool { from, window, pool } => {
                pools::windowed(isa, *pool, window, from.of(slots), to, out);
            }
            Self::Global { from, max } => pools::global(*max, from.of(slots), to, out),
            Self::Concat { from } => moves::concat(from.iter().map(|port| port.of(slots)), to, out),
            Self::Reshape { from } => moves::reshape(from.of(slots), to, out),
            Self::Upsample { from, rows, columns } => {
                moves::upsample(from.of(slots), [*rows, *columns], to, out)
            }
            Self::Pad { from, top, left, value } => {
                moves::pad(from.of(slots), [*top, *left], *value, to, out)
            }
            Self::Softmax { from } => elementwise::softmax(from.of(slots), to, out),
            Self::Phases { from, rows, columns } => {
                moves::phases(isa, from.of(slots), [*rows, *columns], to, out)
            }
        }
    }
}

/// A value to read.
type Source<'s> = (&'s [f32], &'s Layout);

impl Port {
    fn of<'s>(&'s self, slots: &'s [Aligned]) -> Source<'s> {
        (&slots[self.slot], &self.layout)
    }
}

impl Step {
    /// Runs it. `input` is the plan's input.
    pub(super) fn run(&self, isa: Isa, input: &[f32], slots: &mut [Aligned]) {
        let mut out = std::mem::take(&mut slots[self.to.slot]);
        let layout = &self.to.layout;
        isa.vectorised(|| {
            self.kind.run(isa, input, slots, layout, &mut out);
            if self.activation != Activation::None {
                elementwise::activate(self.activation, layout, &mut out);
            }
            if self.kind.spills() {
                layout.clear_columns(&mut out);
            }
        });
        slots[self.to.slot] = out;
    }
}
