//! What pruning took of each model, so that a rung on demand is a cut and a refit: at hand for a few models, in the store
//! for all. What is lost or damaged is taken again.

use std::sync::{Arc, Mutex, PoisonError};

use secateur_common::{Digest, caps};
use secateur_model::{Graph, Tensor};
use secateur_prune::{Family, Method, Progress, PruneError};

use crate::catalog::SEED;
use crate::store::{Store, records};

/// What models were last pruned from: a rung on demand begins where the ladder did. The store keeps all of it by digest;
/// a few are kept at hand as well: each holds statistics of some ten megabytes.
#[derive(Default)]
pub(crate) struct Families(Mutex<Vec<(Digest, Arc<Family>)>>);

/// Families kept, at most.
const FAMILIES: usize = 2;

impl Families {
    /// By what decides a family: its bytes say of which version they are.
    pub(crate) fn key(model: Digest, calibration: Digest) -> Digest {
        Digest::of(&[model.as_bytes().as_slice(), calibration.as_bytes(), &SEED.to_le_bytes()].concat())
    }

    /// The family of `key`, from memory or the store; made, and stored, where neither has it or it is damaged.
    pub(crate) fn get(
        &self,
        key: Digest,
        store: &dyn Store,
        dense: &Graph,
        inputs: &Tensor,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Arc<Family>, PruneError> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, family)) = kept().iter().find(|(of, _)| *of == key) {
            return Ok(Arc::clone(family));
        }
        // Slow: nobody waits for the lock meanwhile.
        let family = Arc::new(stored_or_made(key, store, dense, inputs, progress)?);
        let mut kept = kept();
        kept.truncate(FAMILIES - 1);
        kept.insert(0, (key, Arc::clone(&family)));
        Ok(family)
    }
}

fn stored_or_made(
    key: Digest,
    store: &dyn Store,
    dense: &Graph,
    inputs: &Tensor,
    progress: &mut dyn FnMut(Progress),
) -> Result<Family, PruneError> {
    let stored = records::family(store, key).unwrap_or_else(|error| {
        tracing::warn!(%error, "statistics are taken again: the stored ones cannot be read");
        None
    });
    if let Some(bytes) = stored
        && let Some(family) = Family::from_bytes(&bytes, dense, Method::Obs, SEED, Some(inputs))?
    {
        return Ok(family);
    }
    let family = Family::new(dense, Method::Obs, SEED, Some(inputs), progress)?;
    let kept =
        family.to_bytes(caps::FAMILY_BYTES).map(|bytes| store.commit(&[records::put_family(key, bytes)]));
    if let Some(Err(error)) = kept {
        tracing::warn!(%error, "statistics are not kept");
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use secateur_engine::Dataset;
    use secateur_model::onnx;

    use super::*;
    use crate::store::Memory;

    #[test]
    fn a_family_outlives_a_restart_and_damage() {
        let dense = onnx::read(include_bytes!("../../examples/lenet5.onnx")).unwrap();
        let data = Dataset::from_npz(include_bytes!("../../examples/calibration.npz")).unwrap();
        let (inputs, store, key) = (data.subset(0..32).inputs(), Memory::default(), Digest::of(b"key"));
        // Whether statistics were taken by a coordinator that just started.
        let took = || {
            let mut took = false;
            let mut told = |at: Progress| took |= at.stage == "statistics";
            Families::default().get(key, &store, &dense, &inputs, &mut told).unwrap();
            took
        };
        assert_eq!([took(), took()], [true, false]);
        let mut bytes = records::family(&store, key).unwrap().unwrap();
        bytes[1000] ^= 1;
        store.commit(&[records::put_family(key, bytes)]).unwrap();
        assert_eq!([took(), took()], [true, false]);
    }
}
