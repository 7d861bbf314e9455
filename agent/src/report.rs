//! Measuring on schedule, connected or not. What is worth telling waits in the outbox until the coordinator has it.

use std::time::{SystemTime, UNIX_EPOCH};

use secateur_common::{ByteCount, Ledger, Report};
use secateur_engine::Dataset;

use crate::cache::Cache;
use crate::core::telling::Telling;
use crate::loaded::Loaded;
use crate::measure::measure;
use crate::serve::Serving;

/// Measures what is in force, on a device that takes so many `watts` if it cannot tell, and posts a report. None where there
/// is nothing to tell, nothing runs, or it cannot be measured, which ends nothing.
pub(crate) fn take(
    cache: &Cache,
    telling: &mut Telling,
    loaded: Option<&Loaded>,
    (shard, watts): (Option<&Dataset>, Option<f64>),
    serving: Option<&Serving>,
    unix_s: u64,
    today: Ledger,
) -> anyhow::Result<Option<Report>> {
    let (Some(loaded), Some(active)) = (loaded, cache.held()?.active) else { return Ok(None) };
    let measured = match measure(loaded, shard, watts) {
        Ok(measured) => measured,
        Err(error) => {
            // The line is good and the variant serves: what cannot be measured is no reason to end either.
            tracing::error!("cannot measure: {:#}", anyhow::Error::from(error));
            return Ok(None);
        }
    };
    // Labels that applications told count beside the shard.
    let labelled = serving.map(|serving| serving.labelled(active.variant)).unwrap_or_default();
    let mut report = Report {
        sequence: 0,
        model: active.model,
        variant: active.variant,
        generation: active.generation,
        accuracy: measured.accuracy + labelled,
        latency: measured.latency,
        memory: measured.memory,
        sensed: measured.sensed,
        model_bytes: cache.stored_bytes(active.variant)?.unwrap_or(ByteCount(0)),
        disk_bytes: cache.disk_bytes(),
        wire_bytes: cache.received()?,
        today,
    };
    if !telling.tells(&report, labelled.samples > 0, unix_s) {
        return Ok(None);
    }
    report.sequence = cache.next_sequence(unix_s)?;
    cache.post(&report)?;
    Ok(Some(report))
}

/// Seconds since the Unix epoch by this device's clock.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
