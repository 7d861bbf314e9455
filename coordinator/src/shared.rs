//! What all of the coordinator's parts share: the state, the store under it, the writer's queue, and who is on the line.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secateur_common::{ByteCount, Cause, DeviceId, Generation, ModelName, Report, VariantId, caps};
use tokio_util::sync::DropGuard;

use crate::families::Families;
use crate::inventory::{DeviceRecord, Hello, Shipped};
use crate::lines::Lines;
use crate::pruning::Pruning;
use crate::rollout::Found;
use crate::state::State;
use crate::store::Store;
use crate::updates::Updates;
use crate::writer::{Orders, Queue, orders};
use crate::{Config, CoordinatorError};

/// Lines that are taken up in a second without anybody noticing.
const DIALS_A_SECOND: u64 = 1000;

/// Seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The state and what is done with it.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) updates: Updates,
    pub(crate) found: Found,
    pub(crate) families: Families,
    pub(crate) lines: Lines,
    pub(crate) orders: Orders,
    pub(crate) pruning: Pruning,
    /// Models whose ladder is being built.
    pub(crate) building: Mutex<BTreeSet<ModelName>>,
    /// Written by the writer alone.
    pub(crate) state: RwLock<State>,
    pub(crate) store: Arc<dyn Store>,
    /// Tells that the store is closed: it is dropped after it.
    _closed: DropGuard,
}

impl Shared {
    /// Reads what the store has; changes wait in the queue for the writer.
    pub(crate) fn load(
        clock: Clock,
        config: Config,
        store: Arc<dyn Store>,
        closed: DropGuard,
    ) -> Result<(Self, Queue), CoordinatorError> {
        let state = State::load(&*store)?;
        let lines = Lines::new(state.devices.iter().map(|(id, device)| (*id, device.sent)));
        let (orders, queue) = orders();
        let shared = Self {
            clock,
            config,
            updates: Updates::default(),
            found: Found::default(),
            families: Families::default(),
            lines,
            orders,
            pruning: Pruning::default(),
            building: Mutex::default(),
            state: RwLock::new(state),
            store,
            _closed: closed,
        };
        Ok((shared, queue))
    }

    /// The present state, to be read; not to be held over an await.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device's record, to be changed; stored when this returns.
    async fn update<T: Send + 'static>(
        &self,
        id: DeviceId,
        change: impl FnOnce(&mut DeviceRecord) -> T + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        let at = (self.clock)();
        let changed = self.orders.change(move |draft| {
            let device = draft.device_mut(id)?;
            device.heard_unix_s = at;
            let result = change(device);
            draft.due(id);
            Ok(result)
        });
        changed.await
    }

    /// A device dialled and said what it is.
    pub(crate) async fn greet(&self, id: DeviceId, hello: Hello) -> Result<(), CoordinatorError> {
        let at = (self.clock)();
        let greeted = self.orders.change(move |draft| {
            if draft.device(id).is_none() {
                if draft.devices() >= caps::DEVICES {
                    let full = format!("the fleet is full: {} devices", caps::DEVICES);
                    return Err(CoordinatorError::Refused(full));
                }
                draft.add_device(DeviceRecord::new(id, hello.name.clone()));
            }
            let device = draft.device_mut(id)?;
            device.heard_unix_s = at;
            device.hello(hello);
            draft.due(id);
            Ok(())
        });
        greeted.await
    }

    /// Reports are durable when this returns. The device waits for nothing meanwhile.
    pub(crate) async fn reports(&self, id: DeviceId, reports: Vec<Report>) -> Result<(), CoordinatorError> {
        let taken_in = self.orders.change_patiently(move |draft| draft.report(id, reports));
        taken_in.await
    }

    /// A device runs what it was assigned.
    pub(crate) async fn activated(
        &self,
        id: DeviceId,
        (variant, generation): (VariantId, Generation),
        shipped: Option<(ByteCount, bool)>,
        held: Vec<VariantId>,
    ) -> Result<(), CoordinatorError> {
        let activated = move |device: &mut DeviceRecord| {
            device.active = Some((variant, generation));
            device.accepted = device.accepted.max(generation);
            device.held = held;
            if let Some((bytes, delta)) = shipped {
                device.shipped = Some(Shipped { variant, bytes, delta });
                device.served = device.served + bytes;
            }
        };
        self.update(id, activated).await
    }

    /// A device could not bring about what it was assigned; `mendable`: another update will do.
    pub(crate) async fn failed(
        &self,
        id: DeviceId,
        (generation, line): (Generation, String),
        mendable: bool,
        held: Vec<VariantId>,
    ) -> Result<(), CoordinatorError> {
        let at = (self.clock)();
        let failed = self.orders.change(move |draft| {
            let device = draft.device_mut(id)?;
            (device.heard_unix_s, device.held) = (at, held);
            if !mendable {
                device.failed = Some(generation);
            }
            draft.note(id, line);
            Ok(())
        });
        failed.await
    }

    /// The most that a device may receive in a day.
    pub(crate) fn cap(&self, id: DeviceId) -> Option<u64> {
        self.state().cap(id)
    }

    /// Within what time devices are to dial again where all lines break at once.
    pub(crate) fn spread(&self) -> Duration {
        Duration::from_millis(self.state().devices.len() as u64 * 1000 / DIALS_A_SECOND)
    }

    /// Counts `bytes` that are about to be sent to a device, unless they would exceed its cap.
    pub(crate) fn charge(&self, id: DeviceId, cause: Cause, bytes: u64) -> bool {
        self.lines.charge(id, (self.clock)(), self.cap(id), (cause, bytes))
    }

    /// Whether every connected device runs what it should and has reported with it.
    pub(crate) fn settled(&self) -> bool {
        let state = self.state();
        self.lines.connected().iter().all(|id| match (state.devices.get(id), state.assignment(*id)) {
            (Some(device), Some(assignment)) => device.settled(assignment),
            _ => false,
        })
    }
}

/// The coordinator's clock: seconds since the Unix epoch.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
