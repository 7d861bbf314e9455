//! The records that are stored: a kind, a key, a version byte before what the kind's form writes. Keys of numbers are
//! big-endian, so that they are in order.

use std::error::Error;
use std::sync::Arc;

use secateur_common::{Digest, FleetSpec, ModelName, Name, VariantId};
use secateur_plan::rollout::Rollout;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::compact::{self, Compact};
use super::{Change, Store, StoreError};
use crate::catalog::ModelRecord;
use crate::inventory::DeviceRecord;
use crate::journal::Reports;
use crate::state::{Assigned, PlanRecord, Undo};

/// A record kind: its name for people, the prefix of its keys, its present version, and how it is written.
pub(crate) trait Record: Sized {
    const KIND: &'static str;
    const PREFIX: &'static [u8];
    const VERSION: u8 = 1;
    type Form: Form<Self>;

    /// The key after the prefix.
    fn key(&self) -> Vec<u8>;
}

/// How records are written.
pub(crate) trait Form<R> {
    fn write(record: &R, to: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Result<R, Box<dyn Error + Send + Sync>>;
}

/// As JSON: what an operator's act writes, and what may get fields.
pub(crate) struct Json;

/// Compactly: what each report writes.
pub(crate) struct Compactly;

impl<R: Serialize + DeserializeOwned> Form<R> for Json {
    fn write(record: &R, to: &mut Vec<u8>) {
        // Every record is of maps, lists, numbers and texts, which serde_json can always write.
        serde_json::to_writer(to, record).unwrap_or_default();
    }

    fn read(bytes: &[u8]) -> Result<R, Box<dyn Error + Send + Sync>> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

impl<R: Compact> Form<R> for Compactly {
    fn write(record: &R, to: &mut Vec<u8>) {
        record.put(to);
    }

    fn read(bytes: &[u8]) -> Result<R, Box<dyn Error + Send + Sync>> {
        Ok(compact::whole(bytes)?)
    }
}

impl Record for ModelRecord {
    const KIND: &'static str = "model";
    const PREFIX: &'static [u8] = b"m/";
    type Form = Json;
    fn key(&self) -> Vec<u8> {
        self.ladder.model.as_str().as_bytes().to_vec()
    }
}

impl Record for DeviceRecord {
    const KIND: &'static str = "device";
    const PREFIX: &'static [u8] = b"d/";
    const VERSION: u8 = 2;
    type Form = Compactly;
    fn key(&self) -> Vec<u8> {
        self.view.id.as_bytes().to_vec()
    }
}

impl Record for Reports {
    const KIND: &'static str = "reports";
    const PREFIX: &'static [u8] = b"r/";
    type Form = Compactly;
    fn key(&self) -> Vec<u8> {
        self.number.to_be_bytes().to_vec()
    }
}

impl Record for Assigned {
    const KIND: &'static str = "assignment";
    const PREFIX: &'static [u8] = b"a/";
    type Form = Json;
    fn key(&self) -> Vec<u8> {
        self.device.as_bytes().to_vec()
    }
}

impl Record for PlanRecord {
    const KIND: &'static str = "plan";
    const PREFIX: &'static [u8] = b"p/";
    const VERSION: u8 = 2;
    type Form = Json;
    fn key(&self) -> Vec<u8> {
        self.id.to_be_bytes().to_vec()
    }
}

impl Record for Undo {
    const KIND: &'static str = "undo of a plan";
    const PREFIX: &'static [u8] = b"q/";
    type Form = Json;
    fn key(&self) -> Vec<u8> {
        self.plan.to_be_bytes().to_vec()
    }
}

impl Record for Rollout {
    const KIND: &'static str = "rollout";
    const PREFIX: &'static [u8] = b"o/";
    type Form = Json;
    fn key(&self) -> Vec<u8> {
        self.group.as_str().as_bytes().to_vec()
    }
}

impl Record for FleetSpec {
    const KIND: &'static str = "fleet";
    const PREFIX: &'static [u8] = b"f/";
    type Form = Json;
    fn key(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// What is counted over the coordinator's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Moves of devices that a measurement or a changed budget caused.
    pub reprunes: u64,
}

impl Record for Counters {
    const KIND: &'static str = "counters";
    const PREFIX: &'static [u8] = b"c/";
    type Form = Json;
    fn key(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// The change that stores `record`.
pub(crate) fn put<R: Record>(record: &R) -> Change {
    let mut value = vec![R::VERSION];
    R::Form::write(record, &mut value);
    Change::Put([R::PREFIX, &record.key()].concat(), value)
}

fn delete<R: Record>(key: &[u8]) -> Change {
    Change::Delete([R::PREFIX, key].concat())
}

/// The change that removes the model `name`.
pub(crate) fn delete_model(name: &ModelName) -> Change {
    delete::<ModelRecord>(name.as_str().as_bytes())
}

/// The change that forgets the rollouts of `group`.
pub(crate) fn delete_rollout(group: &Name) -> Change {
    delete::<Rollout>(group.as_str().as_bytes())
}

/// The change that forgets the reports of `number`.
pub(crate) fn delete_reports(number: u64) -> Change {
    delete::<Reports>(&number.to_be_bytes())
}

/// All records of a kind, in the order of their keys.
pub(crate) fn all<R: Record>(store: &dyn Store) -> Result<Vec<R>, StoreError> {
    let mut all = Vec::new();
    each(store, |record| all.push(record))?;
    Ok(all)
}

/// Gives `to` all records of a kind, one after the other, in the order of their keys.
pub(crate) fn each<R: Record>(store: &dyn Store, mut to: impl FnMut(R)) -> Result<(), StoreError> {
    store.each(R::PREFIX, &mut |_, value| {
        to(decode(value)?);
        Ok(())
    })
}

/// What leads from the plan `id` back to its parent, if it is still kept.
pub(crate) fn undo(store: &dyn Store, id: u64) -> Result<Option<Undo>, StoreError> {
    let value = store.get(&[Undo::PREFIX, &id.to_be_bytes()].concat())?;
    value.map(|value| decode(&value)).transpose()
}

/// The changes that forget the plan `id`.
pub(crate) fn delete_plan(id: u64) -> [Change; 2] {
    [delete::<PlanRecord>(&id.to_be_bytes()), delete::<Undo>(&id.to_be_bytes())]
}

fn decode<R: Record>(value: &[u8]) -> Result<R, StoreError> {
    let damaged = |source| StoreError::Damaged { kind: R::KIND, source };
    let (&version, written) = value.split_first().ok_or(damaged(None))?;
    if version != R::VERSION {
        return Err(StoreError::Version { kind: R::KIND, version });
    }
    R::Form::read(written).map_err(|error| damaged(Some(error)))
}

/// The change that stores `bytes` under their digest.
pub(crate) fn put_blob(digest: Digest, bytes: Vec<u8>) -> Change {
    Change::Put(blob_key(digest), bytes)
}

/// The bytes with `digest`.
pub(crate) fn blob(store: &Arc<dyn Store>, digest: Digest) -> Result<Vec<u8>, StoreError> {
    store.get(&blob_key(digest))?.ok_or(StoreError::Damaged { kind: "blob", source: None })
}

/// The change that stores a family under its key.
pub(crate) fn put_family(key: Digest, bytes: Vec<u8>) -> Change {
    Change::Put(family_key(key), bytes)
}

/// The change that removes it.
pub(crate) fn delete_family(key: Digest) -> Change {
    Change::Delete(family_key(key))
}

/// The family under `key`, if it was stored; it says itself of which version it is and whether it is whole.
pub(crate) fn family(store: &dyn Store, key: Digest) -> Result<Option<Vec<u8>>, StoreError> {
    store.get(&family_key(key))
}

fn family_key(key: Digest) -> Vec<u8> {
    [&b"s/"[..], key.as_bytes()].concat()
}

fn blob_key(digest: Digest) -> Vec<u8> {
    [&b"b/"[..], digest.as_bytes()].concat()
}

/// Updates that are kept, at most; where there are more, all but the newest go, as they can be made again.
const UPDATES: usize = 512;
const UPDATE_PREFIX: &[u8] = b"u/";

/// The update of a pair of variants, if it was encoded before.
pub(crate) fn update(
    store: &dyn Store,
    base: Option<VariantId>,
    target: VariantId,
) -> Result<Option<Vec<u8>>, StoreError> {
    store.get(&update_key(base, target))
}

/// The changes that keep the update of a pair.
pub(crate) fn put_update(
    store: &dyn Store,
    base: Option<VariantId>,
    target: VariantId,
    bytes: Vec<u8>,
) -> Result<Vec<Change>, StoreError> {
    let kept = store.scan(UPDATE_PREFIX)?;
    let surplus = if kept.len() >= UPDATES { kept } else { Vec::new() };
    let mut changes: Vec<Change> = surplus.into_iter().map(|(key, _)| Change::Delete(key)).collect();
    changes.push(Change::Put(update_key(base, target), bytes));
    Ok(changes)
}

fn update_key(base: Option<VariantId>, target: VariantId) -> Vec<u8> {
    let base = base.map(|base| base.0.as_bytes().to_vec()).unwrap_or_default();
    [UPDATE_PREFIX, target.0.as_bytes(), &base].concat()
}
