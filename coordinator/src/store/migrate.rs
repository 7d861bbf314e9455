//! Brings a store that an older program wrote to the present records. Done when it is opened, in one commit.

use secateur_common::DeviceId;
use secateur_plan::Assignment;
use serde::Deserialize;

use super::records::{self, Record};
use super::{Change, Store, StoreError};
use crate::state::{Assigned, PlanRecord};

/// A plan of version 1: one record with the assignments of all devices.
#[derive(Deserialize)]
struct WholePlan {
    plan: Whole,
    cause: String,
}

#[derive(Deserialize)]
struct Whole {
    id: u64,
    parent: u64,
    assignments: Vec<(DeviceId, Assignment)>,
}

/// Plans of version 1 become the newest one's assignments, a record a device; those before it are forgotten.
pub(crate) fn migrate(store: &dyn Store) -> Result<(), StoreError> {
    let whole = store.scan(PlanRecord::PREFIX)?;
    let old: Vec<_> = whole.iter().filter(|(_, value)| value.first() == Some(&1)).collect();
    let Some((_, newest)) = old.last() else { return Ok(()) };
    let damaged = |source| StoreError::Damaged { kind: "plan of version 1", source: Some(source) };
    let WholePlan { plan, cause } = serde_json::from_slice(&newest[1..]).map_err(damaged)?;
    let mut changes: Vec<Change> = old.iter().map(|(key, _)| Change::Delete(key.clone())).collect();
    changes.push(records::put(&PlanRecord { id: plan.id, parent: plan.parent, cause, changed: 0 }));
    changes.extend(
        plan.assignments
            .into_iter()
            .map(|(device, assignment)| records::put(&Assigned { device, assignment, history: Vec::new() })),
    );
    store.commit(&changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use crate::store::Memory;

    #[test]
    fn the_newest_plan_of_an_older_store_is_kept() {
        let store = Memory::default();
        let device = DeviceId::of_credential(b"gateway");
        let plan = |id: u64, generation: u64| {
            let assignment = serde_json::json!({
                "group": "all", "model": null, "variant": null, "generation": generation,
                "budget": secateur_common::Budget::default(), "feasible": false, "reason": "no_group",
            });
            let whole =
                serde_json::json!({ "id": id, "parent": id - 1, "assignments": [[device, assignment]] });
            let record = serde_json::json!({ "plan": whole, "cause": "a test" });
            let value = [&[1], record.to_string().as_bytes()].concat();
            Change::Put([&b"p/"[..], &id.to_be_bytes()].concat(), value)
        };
        store.commit(&[plan(1, 1), plan(2, 7)]).unwrap();
        for _ in 0..2 {
            migrate(&store).unwrap();
            let state = State::load(&store).unwrap();
            assert_eq!((state.plan().id, state.plan().parent, state.plans.len()), (2, 1, 1));
            assert_eq!(state.assignment(device).unwrap().generation.0, 7);
        }
    }
}
