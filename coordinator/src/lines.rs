//! Who is on the line, and what was sent over it today. After a restart devices dial again; what was sent is stored with
//! a device's next change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secateur_common::{Cause, DeviceId, Ledger, ledger};
use tokio::sync::Notify;

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The newest session of each device that has one: it is the one that counts.
    open: BTreeMap<DeviceId, Line>,
    sent: BTreeMap<DeviceId, Ledger>,
    /// The newest download of each device that had one.
    downloads: BTreeMap<DeviceId, u64>,
    numbers: u64,
}

/// One session, as it knows itself.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    number: u64,
    /// Wakes this session alone: its device's assignment changed, or the device dialled anew.
    pub(crate) wake: Arc<Notify>,
}

impl Lines {
    /// Goes on counting from what was stored.
    pub(crate) fn new(sent: impl Iterator<Item = (DeviceId, Ledger)>) -> Self {
        let sent = sent.filter(|(_, ledger)| ledger.total() > 0).collect();
        Self(Mutex::new(Inner { sent, ..Inner::default() }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins; one that the device had before is woken, to end.
    pub(crate) fn open(&self, id: DeviceId) -> Line {
        let mut inner = self.inner();
        inner.numbers += 1;
        let line = Line { number: inner.numbers, wake: Arc::default() };
        if let Some(older) = inner.open.insert(id, line.clone()) {
            older.wake.notify_one();
        }
        line
    }

    /// A session ended.
    pub(crate) fn close(&self, id: DeviceId, line: &Line) {
        let mut inner = self.inner();
        if inner.open.get(&id).is_some_and(|newest| newest.number == line.number) {
            inner.open.remove(&id);
        }
    }

    /// Whether the device has not dialled again since.
    pub(crate) fn is_newest(&self, id: DeviceId, line: &Line) -> bool {
        self.inner().open.get(&id).is_some_and(|newest| newest.number == line.number)
    }

    pub(crate) fn is_open(&self, id: DeviceId) -> bool {
        self.inner().open.contains_key(&id)
    }

    /// A download begins: its number. One that the device had before ends, so that none has two.
    pub(crate) fn download(&self, id: DeviceId) -> u64 {
        let mut inner = self.inner();
        inner.numbers += 1;
        let number = inner.numbers;
        inner.downloads.insert(id, number);
        number
    }

    pub(crate) fn is_newest_download(&self, id: DeviceId, number: u64) -> bool {
        self.inner().downloads.get(&id) == Some(&number)
    }

    /// The devices on the line.
    pub(crate) fn connected(&self) -> Vec<DeviceId> {
        self.inner().open.keys().copied().collect()
    }

    /// Wakes the sessions of `devices`, each by itself.
    pub(crate) fn wake<'d>(&self, devices: impl Iterator<Item = &'d DeviceId>) {
        let inner = self.inner();
        devices.filter_map(|id| inner.open.get(id)).for_each(|line| line.wake.notify_one());
    }

    /// What a device was sent today.
    pub(crate) fn sent(&self, id: DeviceId) -> Ledger {
        self.inner().sent.get(&id).copied().unwrap_or_default()
    }

    /// Counts `bytes` that are about to be sent to a device, unless they would exceed its `cap`. What a crash forgets of
    /// them the device has counted.
    pub(crate) fn charge(
        &self,
        id: DeviceId,
        unix_s: u64,
        cap: Option<u64>,
        (cause, bytes): (Cause, u64),
    ) -> bool {
        let mut inner = self.inner();
        let sent = inner.sent.entry(id).or_default();
        sent.look(unix_s);
        if cap.is_some() && sent.left(cap) < bytes.saturating_add(ledger::LAST_BYTES) {
            return false;
        }
        sent.add(cause, bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_line_of_a_device_counts_and_each_is_woken_alone() {
        let lines = Lines::default();
        let [a, b] = [b"a", b"b"].map(|key| DeviceId::of_credential(key));
        let (older, other) = (lines.open(a), lines.open(b));
        let newer = lines.open(a);
        let woken = |line: &Line| {
            let mut notified = std::pin::pin!(line.wake.notified());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            std::future::Future::poll(notified.as_mut(), &mut context).is_ready()
        };
        assert!(woken(&older) && !woken(&newer) && !woken(&other));
        assert!(!lines.is_newest(a, &older) && lines.is_newest(a, &newer));
        lines.close(a, &older);
        assert!(lines.is_open(a), "the older one's end is not the newer one's");
        lines.wake([b].iter());
        assert!(woken(&other) && !woken(&newer));
        lines.close(a, &newer);
        assert_eq!(lines.connected(), [b]);
    }

    #[test]
    fn a_device_has_one_download() {
        let lines = Lines::default();
        let [a, b] = [b"a", b"b"].map(|key| DeviceId::of_credential(key));
        let (older, other, newer) = (lines.download(a), lines.download(b), lines.download(a));
        assert!(!lines.is_newest_download(a, older));
        assert!(lines.is_newest_download(a, newer) && lines.is_newest_download(b, other));
    }
}
