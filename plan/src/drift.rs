//! Drift told apart from pruning loss.
//!
//! Accuracy that falls with the same variant is the data's doing. But a pruned variant may bear a change of the data
//! worse than the dense model does; then pruning less does help. Devices of the same group that run less pruned rungs
//! tell: where they hold their accuracy, the loss is laid to the pruning.

use secateur_common::VariantId;

use crate::{DeviceView, Ladder};

impl DeviceView {
    /// Whether the accuracy of `variant` fell here since it was activated.
    pub fn drifts(&self, variant: VariantId) -> bool {
        self.measurement(variant).is_some_and(|measurement| measurement.drift().is_some())
    }

    /// This device with what `variant` lost since its activation counted as the variant's own loss.
    pub fn blaming(&self, variant: VariantId) -> Self {
        let mut blaming = self.clone();
        let of_it = blaming.measured.iter_mut().filter(|(measured, _)| *measured == variant);
        of_it.for_each(|(_, measurement)| measurement.first = measurement.accuracy);
        blaming
    }
}

/// Whether most of the devices that run less pruned rungs than `variant` kept their accuracy; `others` are devices of the
/// group with what they run. Where there is none, nobody contradicts the drift.
pub fn pruning_is_to_blame<'d>(
    ladder: &Ladder,
    variant: VariantId,
    others: impl Iterator<Item = (&'d DeviceView, VariantId)>,
) -> bool {
    let Some((_, pruned)) = ladder.find(variant) else { return false };
    let (mut held, mut fell) = (0u64, 0u64);
    for (device, runs) in others {
        let less = ladder.find(runs).is_some_and(|(_, rung)| rung.cost.macs > pruned.cost.macs);
        let measured = device.measurement(runs).filter(|measurement| measurement.first.samples > 0);
        if let (true, Some(_)) = (less, measured) {
            *(if device.drifts(runs) { &mut fell } else { &mut held }) += 1;
        }
    }
    held > fell
}
