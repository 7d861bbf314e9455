//! The state that all of the coordinator's parts look at: a mirror in memory of what the store holds. Every change is
//! stored before it is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use secateur_common::{
    ByteCount, Cause, DeviceId, FleetSpec, Generation, Ledger, Metric, ModelName, Report, VariantId, caps,
    ledger,
};
use secateur_plan::{Assignment, Ladder};
use tokio::sync::{Notify, watch};

use crate::catalog::{Families, ModelRecord};
use crate::inventory::{DeviceRecord, Shipped};
use crate::rollout::PlanRecord;
use crate::store::records::{self, Counters};
use crate::store::{Change, Store};
use crate::updates::Updates;
use crate::{Config, CoordinatorError};

/// Seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What is known, as stored.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) models: BTreeMap<ModelName, ModelRecord>,
    pub(crate) devices: BTreeMap<DeviceId, DeviceRecord>,
    pub(crate) fleet: FleetSpec,
    pub(crate) plan: PlanRecord,
    pub(crate) counters: Counters,
    /// Sessions, each by a number of its own: the newest of a device is the one that counts.
    pub(crate) sessions: BTreeMap<DeviceId, u64>,
    /// Models whose ladder is being built.
    pub(crate) building: BTreeSet<ModelName>,
    next_session: u64,
}

/// The state and what wakes who waits for it.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) updates: Updates,
    pub(crate) families: Families,
    state: Mutex<State>,
    /// Something changed that the planner should see.
    pub(crate) changed: Notify,
    /// Rises with each plan and each session, so that sessions look again.
    pub(crate) looks: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn load(
        clock: Clock,
        config: Config,
        store: Arc<dyn Store>,
    ) -> Result<Self, CoordinatorError> {
        let models: Vec<ModelRecord> = records::all(&*store)?;
        let devices: Vec<DeviceRecord> = records::all(&*store)?;
        let state = State {
            models: models.into_iter().map(|model| (model.ladder.model.clone(), model)).collect(),
            devices: devices.into_iter().map(|device| (device.view.id, device)).collect(),
            fleet: records::all(&*store)?.pop().unwrap_or_default(),
            plan: records::all(&*store)?.pop().unwrap_or_default(),
            counters: records::all(&*store)?.pop().unwrap_or_default(),
            ..State::default()
        };
        let looks = watch::Sender::new(0);
        Ok(Self {
            clock,
            config,
            store,
            updates: Updates::default(),
            families: Families::default(),
            state: Mutex::new(state),
            changed: Notify::new(),
            looks,
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a copy of a device's record, stores it, then lets it be seen.
    pub(crate) fn update_device<T>(
        &self,
        id: DeviceId,
        change: impl FnOnce(&mut DeviceRecord) -> T,
    ) -> Result<T, CoordinatorError> {
        let mut state = self.state();
        let device =
            state.devices.get_mut(&id).ok_or_else(|| CoordinatorError::NotFound(format!("device {id}")))?;
        let mut next = device.clone();
        let result = change(&mut next);
        next.heard_unix_s = (self.clock)();
        self.store.commit(&[records::put(&next)])?;
        *device = next;
        Ok(result)
    }

    /// A device dialled and said what it is; the number of its new session.
    pub(crate) fn connect(
        &self,
        id: DeviceId,
        fresh: impl FnOnce() -> DeviceRecord,
        hello: impl FnOnce(&mut DeviceRecord),
    ) -> Result<u64, CoordinatorError> {
        {
            let mut state = self.state();
            if !state.devices.contains_key(&id) {
                if state.devices.len() >= caps::DEVICES {
                    return Err(CoordinatorError::Refused(format!(
                        "the fleet is full: {} devices",
                        caps::DEVICES
                    )));
                }
                let device = fresh();
                self.store.commit(&[records::put(&device)])?;
                state.devices.insert(id, device);
            }
        }
        self.update_device(id, hello)?;
        let mut state = self.state();
        state.next_session += 1;
        let session = state.next_session;
        state.sessions.insert(id, session);
        drop(state);
        self.changed.notify_one();
        self.look();
        Ok(session)
    }

    pub(crate) fn disconnect(&self, id: DeviceId, session: u64) {
        let mut state = self.state();
        if state.sessions.get(&id) == Some(&session) {
            state.sessions.remove(&id);
        }
    }

    /// A report is durable when this returns.
    pub(crate) fn report(&self, id: DeviceId, report: Report) -> Result<(), CoordinatorError> {
        let at = (self.clock)();
        if self.update_device(id, |device| device.report(report, at))? {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// A device runs what it was assigned.
    pub(crate) fn activated(
        &self,
        id: DeviceId,
        variant: VariantId,
        generation: Generation,
        shipped: Option<(ByteCount, bool)>,
        held: Vec<VariantId>,
    ) -> Result<(), CoordinatorError> {
        self.update_device(id, |device| {
            device.active = Some((variant, generation));
            device.accepted = device.accepted.max(generation);
            device.held = held;
            if let Some((bytes, delta)) = shipped {
                device.shipped = Some(Shipped { variant, bytes, delta });
                device.served = device.served + bytes;
            }
        })?;
        self.changed.notify_one();
        Ok(())
    }

    /// The most that a device may receive in a day, and what it was sent today; none where it is unknown.
    pub(crate) fn allowance(&self, id: DeviceId) -> Option<(Option<u64>, Ledger)> {
        let mut state = self.state();
        let cap =
            state.assignment(id).and_then(|assignment| assignment.budget.get(Metric::DownloadBytesPerDay));
        let device = state.devices.get_mut(&id)?;
        device.sent.look((self.clock)());
        Some((cap.map(|cap| cap as u64), device.sent))
    }

    /// Counts `bytes` that are about to be sent to a device, unless they would exceed its cap. They are stored with the
    /// device's next change: what a crash forgets of them the device has counted.
    pub(crate) fn charge(&self, id: DeviceId, cause: Cause, bytes: u64) -> bool {
        let Some((cap, ledger)) = self.allowance(id) else { return true };
        if cap.is_some() && ledger.left(cap) < bytes.saturating_add(ledger::LAST_BYTES) {
            return false;
        }
        if let Some(device) = self.state().devices.get_mut(&id) {
            device.sent.add(cause, bytes);
        }
        true
    }

    /// Wakes all sessions.
    pub(crate) fn look(&self) {
        self.looks.send_modify(|looks| *looks = looks.wrapping_add(1));
    }

    /// Stores changes and applies their mirror.
    pub(crate) fn commit(
        &self,
        changes: &[Change],
        mirror: impl FnOnce(&mut State),
    ) -> Result<(), CoordinatorError> {
        let mut state = self.state();
        self.store.commit(changes)?;
        mirror(&mut state);
        Ok(())
    }
}

impl State {
    /// The assignment of a device in the newest plan.
    pub(crate) fn assignment(&self, id: DeviceId) -> Option<&Assignment> {
        self.plan.plan.assignments.get(&id)
    }

    pub(crate) fn ladder(&self, assignment: &Assignment) -> Option<&Ladder> {
        self.models.get(assignment.model.as_ref()?).map(|model| &model.ladder)
    }

    /// All ladders, for the planner.
    pub(crate) fn ladders(&self) -> BTreeMap<ModelName, Ladder> {
        self.models.iter().map(|(name, model)| (name.clone(), model.ladder.clone())).collect()
    }

    /// Whether every connected device runs what it should and has reported with it.
    pub(crate) fn settled(&self) -> bool {
        self.sessions.keys().all(|id| match (self.devices.get(id), self.assignment(*id)) {
            (Some(device), Some(assignment)) => device.settled(assignment),
            _ => false,
        })
    }
}

/// The coordinator's clock: seconds since the Unix epoch.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
