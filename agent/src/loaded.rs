//! A variant in memory: compiled once, then served and measured alike.

use secateur_common::{ByteCount, VariantId, probe_input};
use secateur_engine::{EngineError, Session};
use secateur_model::{Graph, ValueInfo};

use crate::cache::Cache;

/// The heap, as counted by the program's allocator (zeros where the program does not install it).
const HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
/// Runs before it is served, so that no request pays for cold memory.
const WARM_RUNS: usize = 2;

/// A compiled variant.
pub(crate) struct Loaded {
    pub(crate) session: Session,
    /// The graph's first input and output, as the file names them.
    pub(crate) input: ValueInfo,
    pub(crate) output: ValueInfo,
    /// Elements of the output.
    pub(crate) outputs: usize,
    /// Heap that compiling and running it took at the peak, above what was in use before.
    pub(crate) heap_peak: ByteCount,
}

impl Loaded {
    /// Compiles the variant's `graph` with the kernels that an earlier trial found on this device, or tries them and keeps
    /// what is found in the cache.
    ///
    /// # Errors
    /// Where the engine cannot run it.
    pub(crate) fn load(cache: &Cache, variant: VariantId, graph: &Graph) -> Result<Self, EngineError> {
        // Without the cache all is only tried again.
        let earlier = cache.kernels(variant).unwrap_or_default();
        let (before, _) = (HEAP.current_usage(), HEAP.reset_peak_usage());
        let session = Session::load_with(graph, earlier.as_ref())?;
        let loaded = Self::of(graph, session, before)?;
        if let Some(found) = loaded.session.choices().filter(|found| earlier.as_ref() != Some(found))
            && let Err(error) = cache.keep_kernels(variant, found)
        {
            tracing::warn!("cannot keep what the trial of kernels found: {:#}", anyhow::Error::from(error));
        }
        Ok(loaded)
    }

    fn of(graph: &Graph, session: Session, heap_before: usize) -> Result<Self, EngineError> {
        let probe = probe_input(0, session.input_shape().iter().product());
        let mut outputs = 0;
        for _ in 0..WARM_RUNS {
            outputs = session.run(&probe)?.len();
        }
        let first = |values: &[ValueInfo]| values.first().cloned();
        let nameless = || ValueInfo { name: String::new(), dtype: 1, shape: None };
        Ok(Self {
            session,
            input: first(&graph.inputs).unwrap_or_else(nameless),
            output: first(&graph.outputs).unwrap_or_else(nameless),
            outputs,
            heap_peak: ByteCount(HEAP.peak_usage().saturating_sub(heap_before) as u64),
        })
    }

    /// Compiles a graph that is in no cache.
    #[cfg(test)]
    pub(crate) fn fresh(graph: &Graph) -> Self {
        Self::of(graph, Session::load(graph).unwrap(), HEAP.current_usage()).unwrap()
    }
}
