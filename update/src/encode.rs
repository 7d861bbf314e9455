//! Making updates: for each tensor every operation that gives it exactly is tried, and the cheapest is kept.

use secateur_common::{Generation, caps};
use secateur_model::{Graph, Tensor, canonical};

use crate::codec::Models;
use crate::gather::{self, IndexSet};
use crate::manifest::{Manifest, SkeletonEntry, check};
use crate::range::Encoder;
use crate::skeleton::Text;
use crate::tensor::{Old, cheapest};
use crate::{EncodeError, text};

/// The update that turns `base` into `target`, exactly; without a base, the full one. It is small where `target` is
/// [published](crate::publish) and resembles `base`.
///
/// # Errors
/// Where `target` is over a limit that decoders enforce.
pub fn encode(base: Option<&Graph>, target: &Graph, generation: Generation) -> Result<Vec<u8>, EncodeError> {
    check_limits(target)?;
    let mut manifest =
        Manifest::new(base.map(canonical::variant_id), canonical::variant_id(target), generation);
    let mut payload = Vec::new();

    let text = Text::of(target);
    let held = base.map(|base| Text::of(base));
    if held.as_ref() != Some(&text) {
        limit("skeleton", text.skeleton.len(), caps::SKELETON_BYTES)?;
        limit("name table", text.names.len(), caps::SKELETON_BYTES)?;
        let stream = text::encode(&held.map(|held| held.joined()).unwrap_or_default(), &text.joined());
        let (skeleton, names, stored) = (text.skeleton.len(), text.names.len(), stream.len());
        manifest.skeleton = Some(SkeletonEntry { skeleton, names, stored });
        payload.extend(stream);
    }

    let gathers = base.map(|base| gather::find(base, target)).unwrap_or_default();
    let sets = coded_sets(&gathers.sets);
    manifest.sets.sizes = gathers.sets.iter().map(|set| (set.base, set.kept.len())).collect();
    manifest.sets.stored = sets.len();
    payload.extend(sets);

    let mut models = Models::default();
    for (name, tensor) in &target.initializers {
        let (entry, stream) = cheapest(&mut models, &Old::of(base, &gathers, name, tensor), tensor);
        manifest.tensors.push(entry);
        payload.extend(stream);
    }
    limit("payload", payload.len(), caps::UPDATE_BYTES)?;
    manifest.frames = payload.chunks(caps::FRAME_BYTES).map(check).collect();
    let mut bytes = manifest.write();
    bytes.extend(payload);
    Ok(bytes)
}

fn check_limits(target: &Graph) -> Result<(), EncodeError> {
    limit("number of tensors", target.initializers.len(), caps::GRAPH_TENSORS)?;
    limit("decoded size", target.initializers.values().map(Tensor::byte_len).sum(), caps::MODEL_BYTES)
}

fn limit(what: &'static str, value: usize, limit: usize) -> Result<(), EncodeError> {
    if value > limit { Err(EncodeError::TooLarge { what, limit }) } else { Ok(()) }
}

fn coded_sets(sets: &[IndexSet]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    for set in sets {
        IndexSet::new(set.base).code(&mut encoder, &mut 0, set.kept.len(), &set.kept);
    }
    encoder.finish()
}
