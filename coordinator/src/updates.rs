//! Updates, encoded once a pair and generation and shared by all devices that need them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use secateur_common::{Digest, Generation, VariantId, probe_input};
use secateur_engine::Session;
use secateur_update as update;

use crate::CoordinatorError;
use crate::catalog::{self, SEED};
use crate::store::{Store, records};

/// Updates kept in memory. They are made again, to the same bytes, when they are asked for again.
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

/// The cache: whole updates in memory, and in the store, for each pair of variants, the update that serves every device and
/// generation.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    kept: Mutex<VecDeque<Arc<Encoded>>>,
    /// Held while a pair is encoded, so that who asks for it meanwhile finds it done.
    encoding: Mutex<usize>,
}

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

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Encoded>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
        let pair = self.pair(store, base, target)?;
        let bytes = update::with_generation(&pair, generation)
            .map_err(|error| CoordinatorError::bad("a stored update", error))?;
        let id = Digest::of(&bytes);
        let encoded = Arc::new(Encoded { id, base, target, generation, bytes: bytes.into() });
        let mut kept = self.kept();
        kept.push_back(encoded.clone());
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(encoded)
    }

    /// The update of a pair, from the store, where it was encoded before.
    fn pair(
        &self,
        store: &Arc<dyn Store>,
        base: Option<VariantId>,
        target: VariantId,
    ) -> Result<Vec<u8>, CoordinatorError> {
        let mut encodings = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = records::update(&**store, base, target)? {
            // One of another version of the format is made anew.
            if update::Manifest::read(&bytes).is_ok_and(|held| (held.base, held.target) == (base, target)) {
                return Ok(bytes);
            }
        }
        let base_graph = base.map(|base| catalog::graph(store, base)).transpose()?;
        let bytes = update::encode(base_graph.as_ref(), &catalog::graph(store, target)?, Generation(0))
            .map_err(|error| CoordinatorError::bad("a variant", error))?;
        *encodings += 1;
        store.commit(&records::put_update(&**store, base, target, bytes.clone())?)?;
        Ok(bytes)
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

#[cfg(test)]
mod tests {
    use secateur_model::{Graph, OpSet, Tensor, canonical, onnx};

    use super::*;
    use crate::store::Memory;

    fn stored(store: &Arc<dyn Store>, shift: u16) -> VariantId {
        let values = (0..600u16).map(|at| f32::from((at * 37 + shift) % 101)).collect();
        let tensor = Tensor::f32([30, 20], values).unwrap();
        let opsets = vec![OpSet { domain: String::new(), version: 17 }];
        let initializers = [("w".to_owned(), tensor)].into_iter().collect();
        let graph = Graph { opsets, ir_version: 8, initializers, ..Graph::default() };
        let variant = canonical::variant_id(&graph);
        store.commit(&[records::put_blob(variant.0, onnx::write(&graph))]).unwrap();
        variant
    }

    #[test]
    fn twenty_devices_cost_one_encoding_of_each_pair_over_restarts() {
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let (old, new) = (stored(&store, 1), stored(&store, 2));
        let updates = Updates::default();
        std::thread::scope(|scope| {
            for device in 0..20 {
                let (store, updates) = (&store, &updates);
                scope.spawn(move || {
                    let generation = Generation(device % 4 + 1);
                    let made = updates.make(store, &[old], new, generation).unwrap();
                    let said = update::Manifest::read(&made.bytes).unwrap();
                    assert_eq!((said.target, said.generation), (new, generation));
                    assert_eq!(made.id, Digest::of(&made.bytes));
                });
            }
        });
        assert_eq!(*updates.encoding.lock().unwrap(), 2, "the full one and the delta");
        let again = Updates::default();
        let made = again.make(&store, &[old], new, Generation(1)).unwrap();
        assert_eq!(made.bytes, updates.make(&store, &[old], new, Generation(1)).unwrap().bytes);
        assert_eq!(*again.encoding.lock().unwrap(), 0, "a restart encodes nothing again");
        store.commit(&records::put_update(&*store, Some(old), new, vec![1, 2, 3]).unwrap()).unwrap();
        let mended = Updates::default();
        assert_eq!(mended.make(&store, &[old], new, Generation(1)).unwrap().bytes, made.bytes);
    }
}
