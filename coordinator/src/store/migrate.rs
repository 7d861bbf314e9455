//! Brings a store that an older program wrote to the present records. Done when it is opened, in one commit.

use secateur_common::DeviceId;
use secateur_plan::Assignment;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::records::{self, Record};
use super::{Change, Pair, Store, StoreError};
use crate::inventory::DeviceRecord;
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

/// Brings all to the present versions.
pub(crate) fn migrate(store: &dyn Store) -> Result<(), StoreError> {
    let mut changes = plans(store)?;
    changes.extend(devices(store)?);
    if changes.is_empty() { Ok(()) } else { store.commit(&changes) }
}

/// What is stored of a kind in version 1.
fn old<R: Record>(store: &dyn Store) -> Result<Vec<Pair>, StoreError> {
    let mut pairs = Vec::new();
    store.each(R::PREFIX, &mut |key, value| {
        pairs.extend((value.first() == Some(&1)).then(|| (key.to_vec(), value.to_vec())));
        Ok(())
    })?;
    Ok(pairs)
}

fn json<T: DeserializeOwned>(kind: &'static str, value: &[u8]) -> Result<T, StoreError> {
    let damaged = |error: serde_json::Error| StoreError::Damaged { kind, source: Some(error.into()) };
    serde_json::from_slice(&value[1..]).map_err(damaged)
}

/// Plans become the newest one's assignments, a record a device; those before it are forgotten.
fn plans(store: &dyn Store) -> Result<Vec<Change>, StoreError> {
    let old = old::<PlanRecord>(store)?;
    let Some((_, newest)) = old.last() else { return Ok(Vec::new()) };
    let WholePlan { plan, cause } = json("plan of version 1", newest)?;
    let mut changes: Vec<Change> = old.iter().map(|(key, _)| Change::Delete(key.clone())).collect();
    changes.push(records::put(&PlanRecord { id: plan.id, parent: plan.parent, cause, changed: 0 }));
    changes.extend(plan.assignments.into_iter().map(|(device, assignment)| {
        records::put(&Assigned { device, assignment: assignment.into(), history: Default::default() })
    }));
    Ok(changes)
}

/// Devices were JSON.
fn devices(store: &dyn Store) -> Result<Vec<Change>, StoreError> {
    let now = |(_, value): &Pair| Ok(records::put(&json::<DeviceRecord>("device of version 1", value)?));
    old::<DeviceRecord>(store)?.iter().map(now).collect()
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

    #[test]
    fn the_devices_of_an_older_store_are_kept() {
        let store = Memory::default();
        let device = DeviceId::of_credential(b"gateway");
        let variant = "ab".repeat(32);
        let record = serde_json::json!({
            "name": "gw-1",
            "view": { "id": device, "labels": { "site": "north" }, "measured": [[variant, {
                "p95": [1200], "energy_nj": [], "memory_bytes": 3, "model_bytes": 4,
                "accuracy": { "samples": 10, "correct": 9 }, "generation": 1, "reports": 1,
                "first": { "samples": 10, "correct": 9 },
            }]] },
            "held": [variant], "active": [variant, 1], "accepted": 1, "failed": null,
            "newest": { "at_unix_s": 7, "report": {
                "sequence": 5, "model": "m", "variant": variant, "generation": 1,
                "accuracy": { "samples": 10, "correct": 9 },
                "latency": { "count": 1, "p50": 1000, "p95": 1200, "p99": 1300 },
                "memory": { "inference_peak": 3, "process_peak": 9 },
                "model_bytes": 4, "disk_bytes": 5, "wire_bytes": 6,
            } },
            "shipped": { "variant": variant, "bytes": 70, "delta": false },
            "served": 70,
            "sent": { "day": 20000, "update": 70, "control": 8, "report": 9, "behind": null },
            "heard_unix_s": 7,
        });
        let value = [&[1], record.to_string().as_bytes()].concat();
        store.commit(&[Change::Put([&b"d/"[..], device.as_bytes()].concat(), value)]).unwrap();
        for _ in 0..2 {
            let state = State::load(&store).unwrap();
            let kept = &state.devices[&device];
            assert_eq!(kept.view.labels.get("site"), Some("north"));
            assert_eq!(kept.newest.as_ref().unwrap().report.sequence, 5);
            assert_eq!((kept.served.get(), kept.sent.total(), kept.view.measured.len()), (70, 87, 1));
        }
        assert_eq!(store.scan(b"d/").unwrap()[0].1[0], DeviceRecord::VERSION);
    }
}
