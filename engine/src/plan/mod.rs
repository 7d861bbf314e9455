//! The compiled plan: a graph lowered to operators that the plan knows, fused, laid out, and given kernels.
//!
//! `lower` → `fuse` → `build` (layouts, slots of memory, kernels by trial) → `steps` run in order.

mod blocks;
mod build;
mod convolution;
mod fuse;
mod layout;
mod lower;
mod memory;
mod network;
mod operators;
mod profile;
mod steps;
#[cfg(test)]
mod tests;
mod trial;

use secateur_model::Graph;

use crate::kernels::{Aligned, Isa};
use layout::Layout;
pub(crate) use lower::Reason;
pub use profile::StepTime;
use steps::Step;
pub use trial::KernelChoices;

/// A compiled graph.
pub(crate) struct Plan {
    isa: Isa,
    steps: Vec<Step>,
    /// Floats of each slot of memory.
    slots: Vec<usize>,
    /// Where the first output lies: its slot, and how.
    output: (usize, Layout),
    input_len: usize,
    weight_bytes: usize,
    choices: KernelChoices,
}

/// The memory that one run of a plan needs: one for each run at a time.
pub(crate) struct Arena(Vec<Aligned>);

impl Plan {
    /// Compiles `graph` for one sample on this machine, with the kernels that an `earlier` trial found.
    ///
    /// # Errors
    /// With the reason, where the plan does not cover the graph.
    pub(crate) fn compile(graph: &Graph, earlier: Option<&KernelChoices>) -> Result<Self, Reason> {
        Self::compile_for(graph, Isa::best(), earlier)
    }

    pub(crate) fn compile_for(
        graph: &Graph,
        isa: Isa,
        earlier: Option<&KernelChoices>,
    ) -> Result<Self, Reason> {
        let mut network = lower::lower(graph)?;
        fuse::fuse(&mut network);
        build::build(&network, isa, earlier)
    }

    /// What the trials found.
    pub(crate) fn choices(&self) -> &KernelChoices {
        &self.choices
    }

    /// Memory for one run at a time.
    pub(crate) fn arena(&self) -> Arena {
        Arena(self.slots.iter().map(|&len| Aligned::zeros(len)).collect())
    }

    /// Bytes of one arena: all activations of a run.
    pub(crate) fn arena_bytes(&self) -> usize {
        4 * self.slots.iter().sum::<usize>()
    }

    /// Bytes of the packed weights.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// The first output for one sample; `None` where `input` has another length.
    pub(crate) fn run(&self, arena: &mut Arena, input: &[f32]) -> Option<Vec<f32>> {
        if input.len() != self.input_len {
            return None;
        }
        for step in &self.steps {
            step.run(self.isa, input, &mut arena.0);
        }
        let (slot, layout) = self.output;
        let row = |start: usize| &arena.0[slot][start..start + layout.shape.w];
        Some(layout.rows().flat_map(|start| row(start).iter().copied()).collect())
    }
}
