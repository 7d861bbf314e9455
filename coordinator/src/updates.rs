//! Updates, encoded once a pair and generation and shared by all devices that need them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use secateur_common::{Digest, Generation, VariantId, probe_input};
use secateur_engine::Session;
use secateur_update as update;

use crate::CoordinatorError;
use crate::catalog::{self, SEED};
use crate::store::Store;

/// Encoded updates kept in memory. They are made again, to the same bytes, when they are asked for again.
const KEPT: usize = 64;
/// Largest difference of a self-test, relative to the largest expected output.
pub(crate) const TOLERANCE: f32 = 1e-3;

/// One encoded update.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) id: Digest,
    pub(crate) base: Option<VariantId>,
    pub(crate) target: VariantId,
    pub(crate) generation: Generation,
    pub(crate) bytes: bytes::Bytes,
}

/// The cache.
#[derive(Debug, Default)]
pub(crate) struct Updates(Mutex<VecDeque<Arc<Encoded>>>);

impl Updates {
    /// The update from the best of `bases` to `target`: the delta where it is smaller than the full one. Slow.
    pub(crate) fn make(
        &self,
        store: &Arc<dyn Store>,
        bases: &[VariantId],
        target: VariantId,
        generation: Generation,
    ) -> Result<Arc<Encoded>, CoordinatorError> {
        let full = self.encoded(store, None, target, generation)?;
        let mut best = full;
        for &base in bases {
            let delta = self.encoded(store, Some(base), target, generation)?;
            if delta.bytes.len() < best.bytes.len() {
                best = delta;
            }
        }
        Ok(best)
    }

    /// An update that was made lately, by its id.
    pub(crate) fn find(&self, id: Digest) -> Option<Arc<Encoded>> {
        self.kept().iter().find(|encoded| encoded.id == id).cloned()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Encoded>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encoded(
        &self,
        store: &Arc<dyn Store>,
        base: Option<VariantId>,
        target: VariantId,
        generation: Generation,
    ) -> Result<Arc<Encoded>, CoordinatorError> {
        let same = |e: &&Arc<Encoded>| (e.base, e.target, e.generation) == (base, target, generation);
        if let Some(encoded) = self.kept().iter().find(same) {
            return Ok(encoded.clone());
        }
        let base_graph = base.map(|base| catalog::graph(store, base)).transpose()?;
        let bytes = update::encode(base_graph.as_ref(), &catalog::graph(store, target)?, generation)
            .map_err(|error| CoordinatorError::bad("a variant", error))?;
        let id = Digest::of(&bytes);
        let encoded = Arc::new(Encoded { id, base, target, generation, bytes: bytes.into() });
        let mut kept = self.kept();
        kept.push_back(encoded.clone());
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(encoded)
    }
}

/// The outputs that a device must find on the self-test's input.
pub(crate) fn probe(store: &Arc<dyn Store>, variant: VariantId) -> Result<Vec<f32>, CoordinatorError> {
    let bad = |error| CoordinatorError::bad("a variant", error);
    let session = Session::load(&catalog::graph(store, variant)?).map_err(bad)?;
    let input = probe_input(SEED, session.input_shape().iter().product());
    let mut outputs = session.run(&input).map_err(bad)?;
    outputs.truncate(secateur_common::caps::PROBE_VALUES);
    Ok(outputs)
}
