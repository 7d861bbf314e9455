//! What an applied fleet comes to, before anything is sent: devices that move, bytes on the link, accuracy expected.

use std::collections::BTreeMap;

use secateur_common::{DeviceId, FleetSpec, Generation, VariantId};
use secateur_plan::Assignment;

use crate::draft::{Draft, moves};
use crate::shared::Shared;
use crate::state::State;

/// What a fleet would lead to, were it applied.
pub(crate) struct Outlook {
    /// Assignments that change at once.
    pub(crate) next: BTreeMap<DeviceId, Assignment>,
    forecast: Forecast,
    cases: Cases,
}

/// What it comes to once every device has moved.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Forecast {
    /// Devices that move.
    pub(crate) devices: u64,
    /// Of these, those that wait for a rollout.
    pub(crate) waiting: u64,
    /// Bytes of all their updates.
    pub(crate) update_bytes: u64,
    /// Devices of whose variants the accuracy is known, the present and the next.
    pub(crate) known: u64,
    /// Mean accuracy of these, before and after.
    pub(crate) accuracy: (f64, f64),
}

/// What brings devices that hold the same to the same variant, and how many there are.
type Cases = BTreeMap<(Vec<VariantId>, VariantId), u64>;

/// The outlook of `fleet`.
pub(crate) fn outlook(shared: &Shared, fleet: &FleetSpec) -> Outlook {
    let state = shared.state();
    let next = drafted(shared, &state, fleet.clone());
    let mut at_once = fleet.clone();
    at_once.rollout = None;
    at_once.groups.iter_mut().for_each(|group| group.rollout = None);
    let last = if at_once == *fleet { next.clone() } else { drafted(shared, &state, at_once) };
    let (forecast, cases) = compare(&state, &next, &last);
    Outlook { next, forecast, cases }
}

impl Outlook {
    /// What it comes to. Slow where updates must be encoded to know their size; devices are then told the sooner.
    pub(crate) fn forecast(self, shared: &Shared) -> Forecast {
        let mut forecast = self.forecast;
        for ((bases, variant), devices) in self.cases {
            // Sizes do not depend on the generation.
            match shared.updates.make(&shared.store, &bases, variant, Generation(1)) {
                Ok(update) => forecast.update_bytes += update.bytes.len() as u64 * devices,
                Err(error) => tracing::error!(%variant, %error, "an update is missing in the forecast"),
            }
        }
        forecast
    }
}

fn drafted(shared: &Shared, state: &State, fleet: FleetSpec) -> BTreeMap<DeviceId, Assignment> {
    let mut draft = Draft::new(state, &shared.lines, (shared.clock)());
    draft.set_fleet(fleet);
    draft.plan();
    draft.assigned()
}

/// `next` is what changes at once, `last` what has changed once nobody waits any more.
fn compare(
    state: &State,
    next: &BTreeMap<DeviceId, Assignment>,
    last: &BTreeMap<DeviceId, Assignment>,
) -> (Forecast, Cases) {
    let (mut forecast, mut cases) = (Forecast::default(), Cases::new());
    let accuracy = |assignment: &Assignment| {
        let (_, rung) = state.ladder(assignment.model.as_ref()?)?.find(assignment.variant?)?;
        rung.accuracy.map(|accuracy| accuracy.value())
    };
    for (id, assignment) in last {
        let before = state.assignment(*id);
        let (Some(variant), Some(device)) = (assignment.variant, state.devices.get(id)) else { continue };
        if !moves(before, assignment) || before.and_then(|before| before.variant) == Some(variant) {
            continue;
        }
        forecast.devices += 1;
        let told = next.get(id).is_some_and(|next| next.variant == Some(variant));
        forecast.waiting += u64::from(!told);
        if let (Some(before), Some(after)) = (before.and_then(accuracy), accuracy(assignment)) {
            forecast.known += 1;
            forecast.accuracy.0 += before;
            forecast.accuracy.1 += after;
        }
        if !device.held.contains(&variant) {
            *cases.entry((state.bases(device), variant)).or_default() += 1;
        }
    }
    let known = forecast.known.max(1) as f64;
    forecast.accuracy = (forecast.accuracy.0 / known, forecast.accuracy.1 / known);
    (forecast, cases)
}
