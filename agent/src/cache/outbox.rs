//! Reports that wait for their acknowledgement, at most [`caps::OUTBOX_REPORTS`]. Where one more comes, the two oldest of one
//! variant that were never sent become one: answers are added, so that no count is lost, and times are averaged by their
//! numbers. What was sent is never merged, as the coordinator may have counted it; where nothing can be merged (as many
//! variants as places, or none unsent), the oldest goes.

use secateur_common::{Accuracy, ByteCount, LatencySummary, Micros, Report, caps};

use super::kv::Change;
use super::{Cache, CacheError, Result, SENT, SEQUENCE, put, record};

impl Cache {
    /// The next report's number, never given twice, even to a cache that was lost: `floor`, such as the time, is a lower
    /// bound.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn next_sequence(&self, floor: u64) -> Result<u64> {
        let sequence = self.record::<u64>(SEQUENCE)?.unwrap_or(0).saturating_add(1).max(floor);
        self.apply(vec![put(SEQUENCE, &sequence)])?;
        self.flush()?;
        Ok(sequence)
    }

    /// Keeps a report until it is acknowledged.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn post(&self, report: &Report) -> Result<()> {
        let mut batch = Vec::new();
        if self.waiting()? >= caps::OUTBOX_REPORTS {
            let sent = self.record::<u64>(SENT)?.unwrap_or(0);
            let mut waiting = self.outbox()?;
            waiting.push(report.clone());
            while waiting.len() > caps::OUTBOX_REPORTS {
                let (gone, merged) = shorten(&mut waiting, sent);
                batch.push(Change::Delete(key(gone)));
                if let Some(merged) = merged {
                    batch.push(Change::Put(key(merged.sequence), record::encode(&merged)));
                }
            }
        }
        // Merged with the newest, the report is in the batch already.
        let merged =
            batch.iter().any(|change| matches!(change, Change::Put(at, _) if *at == key(report.sequence)));
        if !merged {
            batch.push(Change::Put(key(report.sequence), record::encode(report)));
        }
        self.apply(batch)?;
        self.flush()
    }

    /// The reports up to `sequence` are about to be sent.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn sending(&self, sequence: u64) -> Result<()> {
        self.apply(vec![put(SENT, &sequence)])?;
        self.flush()
    }

    /// The reports that wait, oldest first.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn outbox(&self) -> Result<Vec<Report>> {
        let decode =
            |(_, value): (Vec<u8>, Vec<u8>)| record::decode(&value).ok_or(CacheError::Damaged("report"));
        self.scan(OUTBOX)?.into_iter().map(decode).collect()
    }

    /// How many reports wait.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn waiting(&self) -> Result<usize> {
        Ok(self.keys(OUTBOX)?.len())
    }

    /// The coordinator has this report and all before.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn acknowledged(&self, sequence: u64) -> Result<()> {
        let last = key(sequence);
        self.apply(self.keys(OUTBOX)?.into_iter().filter(|key| *key <= last).map(Change::Delete).collect())
    }
}

const OUTBOX: &[u8] = b"o/";

fn key(sequence: u64) -> Vec<u8> {
    [OUTBOX, &sequence.to_be_bytes()].concat()
}

/// Takes one report out of `waiting`, which is in order: its number, and what the one that it was merged with became.
fn shorten(waiting: &mut Vec<Report>, sent: u64) -> (u64, Option<Report>) {
    let same = |a: &Report, b: &Report| (&a.model, a.variant) == (&b.model, b.variant);
    let unsent = waiting.iter().position(|report| report.sequence > sent).unwrap_or(waiting.len());
    for older in unsent..waiting.len() {
        let newer = (older + 1..waiting.len()).find(|&newer| same(&waiting[older], &waiting[newer]));
        if let Some(newer) = newer {
            let gone = waiting.remove(older);
            let merged = merge(&gone, &waiting[newer - 1]);
            waiting[newer - 1] = merged.clone();
            return (gone.sequence, Some(merged));
        }
    }
    (waiting.remove(0).sequence, None)
}

/// Two reports of one variant as one, in the place of the newer.
fn merge(older: &Report, newer: &Report) -> Report {
    let (a, b) = (older.latency, newer.latency);
    let count = a.count.saturating_add(b.count);
    // Rounded down by the same weights, so the quantiles stay in order.
    let mean = |x: Micros, y: Micros| {
        let sum = u128::from(x.get()) * u128::from(a.count) + u128::from(y.get()) * u128::from(b.count);
        Micros(sum.checked_div(u128::from(count)).map_or(y.get(), |mean| mean.min(u64::MAX.into()) as u64))
    };
    let latency =
        LatencySummary { count, p50: mean(a.p50, b.p50), p95: mean(a.p95, b.p95), p99: mean(a.p99, b.p99) };
    let mut merged = newer.clone();
    merged.latency = latency;
    merged.accuracy = Accuracy {
        samples: older.accuracy.samples.saturating_add(newer.accuracy.samples),
        correct: older.accuracy.correct.saturating_add(newer.accuracy.correct),
    };
    let most = |x: ByteCount, y: ByteCount| x.max(y);
    merged.memory.inference_peak = most(older.memory.inference_peak, newer.memory.inference_peak);
    merged.memory.process_peak = most(older.memory.process_peak, newer.memory.process_peak);
    merged
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use secateur_common::{DeviceMemory, Digest, Generation, VariantId};

    use super::*;
    use crate::cache::simulated::MemoryDisk;

    pub(in crate::cache) fn report(sequence: u64, variant: u8, correct: u64, p95: u64) -> Report {
        Report {
            sequence,
            model: "m".parse().unwrap(),
            variant: VariantId(Digest::from_bytes([variant; 32])),
            generation: Generation(1),
            accuracy: Accuracy { samples: 400, correct },
            latency: LatencySummary { count: 100, p50: Micros(p95 / 2), p95: Micros(p95), p99: Micros(p95) },
            memory: DeviceMemory::default(),
            sensed: Default::default(),
            model_bytes: ByteCount(0),
            disk_bytes: ByteCount(0),
            wire_bytes: ByteCount(0),
            today: Default::default(),
        }
    }

    fn cache() -> Cache {
        MemoryDisk::default().cache()
    }

    #[test]
    fn reports_wait_for_their_acknowledgement() {
        let cache = cache();
        for _ in 0..6 {
            let sequence = cache.next_sequence(0).unwrap();
            cache.post(&report(sequence, 1, 300, 10)).unwrap();
        }
        cache.acknowledged(4).unwrap();
        let sequences: Vec<_> = cache.outbox().unwrap().iter().map(|report| report.sequence).collect();
        assert_eq!(sequences, [5, 6]);
        assert!(cache.next_sequence(1_000_000).unwrap() >= 1_000_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// However many come, of whatever variants: the outbox is bounded, every answer that was never sent is still
        /// counted, for its variant, and the newest report is there.
        #[test]
        fn no_answer_is_lost_when_it_overflows(
            reports in prop::collection::vec((0u8..5, 0u64..400, 1u64..5000), 1..400),
            sent in 0u64..300,
        ) {
            let cache = cache();
            let (mut counted, mut all) = ([0; 5], [0; 5]);
            for (at, &(variant, correct, p95)) in reports.iter().enumerate() {
                let sequence = at as u64 + 1;
                cache.post(&report(sequence, variant, correct, p95)).unwrap();
                if sequence == sent {
                    cache.sending(sequence).unwrap();
                }
                if sequence > sent || reports.len() < sent as usize {
                    all[usize::from(variant)] += correct;
                }
            }
            let waiting = cache.outbox().unwrap();
            prop_assert!(waiting.len() <= caps::OUTBOX_REPORTS);
            prop_assert_eq!(waiting.last().unwrap().sequence, reports.len() as u64);
            for report in waiting.iter().filter(|report| report.sequence > sent || reports.len() < sent as usize) {
                counted[usize::from(report.variant.0.as_bytes()[0])] += report.accuracy.correct;
                prop_assert!(report.latency.p50 <= report.latency.p95 && report.latency.p95 <= report.latency.p99);
                prop_assert!(report.latency.p95.get() < 5000);
            }
            prop_assert_eq!(counted, all);
        }
    }
}
