//! The update state machine, without I/O: what is held and what is wanted go in, the next step comes out. By level: it
//! is asked again after each step and each change, and never needs to remember an event. Beside it, as pure: what is worth
//! [`telling`], and how the line's [`pulse`] is felt.

pub mod pulse;
pub mod telling;

use std::collections::BTreeSet;

use secateur_common::{ByteCount, Digest, Generation, ModelName, VariantId};
use serde::{Deserialize, Serialize};

/// What the coordinator wants this device to run.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    /// Its generation: an older one than was accepted is refused.
    pub generation: Generation,
    /// The model.
    pub model: ModelName,
    /// The variant.
    pub variant: VariantId,
    /// How to come to it; none where the coordinator believes it is held.
    pub update: Option<UpdateRef>,
}

/// An update that can be downloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpdateRef {
    /// The digest of its bytes.
    pub id: Digest,
    /// How many.
    pub size: ByteCount,
    /// What it starts from; none for a full one.
    pub base: Option<VariantId>,
}

/// A variant in force.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Active {
    /// The model.
    pub model: ModelName,
    /// The variant.
    pub variant: VariantId,
    /// The generation by which it came into force.
    pub generation: Generation,
}

/// What the device holds, all of it on disk.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Held {
    /// In force.
    pub active: Option<Active>,
    /// Stored whole and checked.
    pub variants: BTreeSet<VariantId>,
    /// The newest generation accepted.
    pub accepted: Generation,
}

/// What to do next.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Nothing: what is wanted runs.
    Rest,
    /// The wanted generation is older than one that was accepted.
    RefuseOld,
    /// The base is not held, or there is no update: a full one is needed.
    AskForFull,
    /// Download, check and store.
    Fetch(UpdateRef),
    /// Self-test and bring into force what is stored.
    Activate,
}

/// The next step from `held` to `wanted`.
pub fn next(held: &Held, wanted: &Wanted) -> Step {
    if wanted.generation < held.accepted {
        return Step::RefuseOld;
    }
    let runs = |active: &Active| active.variant == wanted.variant && active.generation == wanted.generation;
    if held.active.as_ref().is_some_and(runs) {
        return Step::Rest;
    }
    if held.variants.contains(&wanted.variant) {
        return Step::Activate;
    }
    match wanted.update {
        Some(update) if update.base.is_none_or(|base| held.variants.contains(&base)) => Step::Fetch(update),
        _ => Step::AskForFull,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> VariantId {
        VariantId(Digest::from_bytes([byte; 32]))
    }

    fn wanted(generation: u64, variant: u8, base: Option<u8>) -> Wanted {
        let update = UpdateRef { id: Digest::from_bytes([9; 32]), size: ByteCount(1), base: base.map(id) };
        let model = "m".parse().unwrap();
        Wanted { generation: Generation(generation), model, variant: id(variant), update: Some(update) }
    }

    #[test]
    fn steps_lead_from_nothing_to_the_wanted_variant() {
        let mut held = Held::default();
        let first = wanted(1, 1, None);
        assert!(matches!(next(&held, &first), Step::Fetch(_)));
        held.variants.insert(id(1));
        assert_eq!(next(&held, &first), Step::Activate);
        held.active = Some(Active { model: first.model.clone(), variant: id(1), generation: Generation(1) });
        held.accepted = Generation(1);
        assert_eq!(next(&held, &first), Step::Rest);
        assert!(matches!(next(&held, &wanted(2, 2, Some(1))), Step::Fetch(_)));
        assert_eq!(next(&held, &wanted(2, 2, Some(3))), Step::AskForFull);
        assert_eq!(next(&held, &wanted(0, 2, None)), Step::RefuseOld);
    }

    proptest::proptest! {
        /// Whatever is held and wanted, in whatever order: a step never goes back, never starts from what is not held,
        /// and following the steps always ends, with the wanted variant in force or a plain refusal.
        #[test]
        fn every_state_leads_to_an_end(
            held in proptest::collection::btree_set(0u8..5, 0..4),
            active in proptest::option::of((0u8..5, 0u64..4)),
            accepted in 0u64..4,
            generation in 0u64..5,
            variant in 0u8..5,
            base in proptest::option::of(0u8..5),
        ) {
            let wanted = wanted(generation, variant, base);
            let active = active.map(|(variant, generation)| Active {
                model: wanted.model.clone(),
                variant: id(variant),
                generation: Generation(generation),
            });
            let variants = held.into_iter().map(id).chain(active.as_ref().map(|active| active.variant)).collect();
            let mut held = Held { active, variants, accepted: Generation(accepted) };
            for _ in 0..3 {
                match next(&held, &wanted) {
                    Step::RefuseOld => {
                        proptest::prop_assert!(wanted.generation < held.accepted);
                        return Ok(());
                    }
                    Step::AskForFull => {
                        proptest::prop_assert!(base.is_some_and(|base| !held.variants.contains(&id(base))));
                        return Ok(());
                    }
                    Step::Fetch(update) => {
                        proptest::prop_assert!(update.base.is_none_or(|base| held.variants.contains(&base)));
                        held.accepted = wanted.generation;
                        held.variants.insert(wanted.variant);
                    }
                    Step::Activate => {
                        proptest::prop_assert!(held.variants.contains(&wanted.variant));
                        let (model, variant) = (wanted.model.clone(), wanted.variant);
                        held.active = Some(Active { model, variant, generation: wanted.generation });
                        held.accepted = wanted.generation;
                    }
                    Step::Rest => {
                        let active = held.active.as_ref().map(|active| (active.variant, active.generation));
                        proptest::prop_assert_eq!(active, Some((wanted.variant, wanted.generation)));
                        return Ok(());
                    }
                }
            }
            proptest::prop_assert_eq!(next(&held, &wanted), Step::Rest);
        }
    }
}
