//! What all devices of a trial share: what they saw, and the wish to cut their lines.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::watch;

/// All devices.
pub(crate) struct Crowd {
    began: Instant,
    pub(crate) report_every: Duration,
    /// Raised when all lines are to be cut.
    pub(crate) cut: watch::Sender<u64>,
    on_line: AtomicUsize,
    settled: AtomicUsize,
    acknowledged: AtomicU64,
    /// When each device was last assigned something, µs since the beginning; 0 for never.
    assigned: Vec<AtomicU64>,
    /// How long each of the newest acknowledgements took, µs.
    waits: Vec<AtomicU64>,
}

impl Crowd {
    pub(crate) fn new(devices: usize, report_every: Duration) -> Self {
        let zeros = || (0..devices).map(|_| AtomicU64::new(0)).collect();
        Self {
            began: Instant::now(),
            report_every,
            cut: watch::channel(0).0,
            on_line: AtomicUsize::new(0),
            settled: AtomicUsize::new(0),
            acknowledged: AtomicU64::new(0),
            assigned: zeros(),
            waits: zeros(),
        }
    }

    /// Microseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    pub(crate) fn on_line(&self) -> usize {
        self.on_line.load(Ordering::Relaxed)
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn welcomed(&self) {
        self.on_line.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn away(&self) {
        self.on_line.fetch_sub(1, Ordering::Relaxed);
    }

    /// A device was assigned something.
    pub(crate) fn assign(&self, index: usize) {
        self.assigned[index].store(self.now(), Ordering::Relaxed);
    }

    /// A device runs what it was assigned.
    pub(crate) fn settle(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }

    /// A report that was sent at `sent_us` is durable.
    pub(crate) fn acknowledge(&self, index: usize, sent_us: u64) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.waits[index].store(self.now() - sent_us, Ordering::Relaxed);
    }

    /// When the devices were assigned something after `since_us`, in order.
    pub(crate) fn assigned_since(&self, since_us: u64) -> Vec<u64> {
        let times = self.assigned.iter().map(|at| at.load(Ordering::Relaxed));
        let mut times: Vec<u64> = times.filter(|&at| at > since_us).collect();
        times.sort_unstable();
        times
    }

    /// How long acknowledgements take, µs, in order.
    pub(crate) fn waits(&self) -> Vec<u64> {
        let mut waits: Vec<u64> = self.waits.iter().map(|wait| wait.load(Ordering::Relaxed)).collect();
        waits.sort_unstable();
        waits
    }
}

/// The value below which `share` of the sorted `values` lie.
pub(crate) fn quantile(values: &[u64], share: f64) -> u64 {
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).ceil() as usize).copied().unwrap_or_default()
}

/// Waits until `holds`; how long that took.
pub(crate) async fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<Duration> {
    let began = Instant::now();
    while !holds() {
        ensure!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(began.elapsed())
}
