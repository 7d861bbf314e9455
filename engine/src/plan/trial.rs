//! Kernels by trial: the fastest of several on this machine, or the one that an earlier trial found.

use std::time::{Duration, Instant};

use crate::kernels::{Aligned, Isa};

/// What the trials of a graph found on a machine, to be kept with the variant: loaded with it, no kernel is tried again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KernelChoices {
    /// The instruction set; on another they count for nothing.
    pub set: String,
    /// Of each convolution and product in order, the way that its kernel packs it.
    pub ways: Vec<String>,
}

/// The trials of one graph.
pub(super) struct Trial<'c> {
    pub(super) isa: Isa,
    /// Memory of a run, as the plan will have it.
    arena: Vec<Aligned>,
    earlier: std::slice::Iter<'c, String>,
    found: Vec<String>,
}

/// Runs of each kernel in its trial, at most, and the time after which no other begins.
const ROUNDS: usize = 12;
const LONGEST: Duration = Duration::from_millis(8);

impl<'c> Trial<'c> {
    /// Trials for slots of so many floats. `earlier` is trusted where it is of this instruction set.
    pub(super) fn new(isa: Isa, slots: &[usize], earlier: Option<&'c KernelChoices>) -> Self {
        let arena = slots.iter().map(|&len| Aligned::zeros(len)).collect();
        let earlier = earlier.filter(|earlier| earlier.set == isa.name());
        let ways = earlier.map_or(&[][..], |earlier| &earlier.ways);
        Self { isa, arena, earlier: ways.iter(), found: Vec::new() }
    }

    /// The way that the next kernel was packed in before.
    pub(super) fn earlier(&mut self) -> Option<&'c str> {
        self.earlier.next().map(String::as_str)
    }

    /// The kernel that runs fastest here and now, with its name. Two at a time take turns, so that a busy moment hits
    /// both, and the shortest run of each counts; no more than two are held at once.
    ///
    /// # Panics
    /// Where there is none.
    pub(super) fn fastest<K>(
        &mut self,
        kernels: impl IntoIterator<Item = (&'static str, K)>,
        run: impl Fn(&K, &mut [Aligned]),
    ) -> K {
        let mut kernels = kernels.into_iter();
        let mut winner = kernels.next().expect("every operator has a kernel");
        for other in kernels {
            let mut best = [Duration::MAX; 2];
            let start = Instant::now();
            for _ in 0..ROUNDS {
                for (best, kernel) in best.iter_mut().zip([&winner.1, &other.1]) {
                    let one = Instant::now();
                    run(kernel, &mut self.arena);
                    *best = one.elapsed().min(*best);
                }
                if start.elapsed() > LONGEST {
                    break;
                }
            }
            if best[1] < best[0] {
                winner = other;
            }
        }
        self.found.push(winner.0.to_owned());
        winner.1
    }

    /// What was found.
    pub(super) fn choices(self) -> KernelChoices {
        KernelChoices { set: self.isa.name().to_owned(), ways: self.found }
    }
}
