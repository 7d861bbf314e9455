//! Where the time of a run goes.

use std::time::{Duration, Instant};

use super::Plan;
use super::steps::Kind;

/// One step of a plan, timed.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// What it does.
    pub operator: &'static str,
    /// The kernel that won the trial; empty where there is none to choose.
    pub kernel: String,
    /// Channels, rows and columns of its result.
    pub output: [usize; 3],
    /// Multiply-accumulates by weights that are not zero.
    pub macs: u64,
    /// Multiply-accumulates that the kernel does: zeros in blocks and positions between rows included.
    pub done_macs: u64,
    /// The shortest of the runs.
    pub time: Duration,
}

impl Plan {
    /// Times each step, the shortest of `runs`.
    pub(crate) fn profile(&self, input: &[f32], runs: usize) -> Vec<StepTime> {
        let mut arena = self.arena();
        let mut best = vec![Duration::MAX; self.steps.len()];
        for _ in 0..runs {
            for (step, best) in self.steps.iter().zip(&mut best) {
                let start = Instant::now();
                step.run(self.isa, input, &mut arena.0);
                *best = start.elapsed().min(*best);
            }
        }
        let timed = |(step, time): (&super::Step, Duration)| {
            let shape = step.to.layout.shape;
            let (kernel, [macs, done_macs]) = match &step.kind {
                Kind::Conv { kernel, .. } => (kernel.name(), kernel.macs(shape.h * shape.w)),
                Kind::Dense { kernel, .. } => (kernel.name(), kernel.macs()),
                _ => (String::new(), [0, 0]),
            };
            let output = [shape.c, shape.h, shape.w];
            StepTime { operator: step.kind.name(), kernel, output, macs, done_macs, time }
        };
        self.steps.iter().zip(best).map(timed).collect()
    }

    /// Multiply-accumulates a second that this core can do at most, and the instruction set that the plan is for.
    pub(crate) fn peak(&self) -> (f64, &'static str) {
        (self.isa.macs_per_second(), self.isa.name())
    }
}
