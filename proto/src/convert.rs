//! Conversions between wire types and the vocabulary. What comes from a peer goes through `TryFrom` and is checked.

use std::collections::HashMap;

use secateur_common::{
    Accuracy, Budget, BudgetSpec, ByteCount, Cost, DeviceMemory, Digest, FleetSpec, Generation, GroupSpec,
    Labels, LatencySummary, Ledger, Limit, MacCount, Metric, Micros, ParseError, Report, RolloutPolicy,
    Selector, Sensed, VariantId, caps,
};

use crate::v1;

/// What is wrong with a peer's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is missing.
    #[error("the message lacks `{0}`")]
    Missing(&'static str),
    /// A field's value is not what it must be.
    #[error(transparent)]
    Bad(#[from] ParseError),
    /// A field is longer or larger than its cap.
    #[error("`{0}` is over its limit of {1}")]
    OverLimit(&'static str, usize),
}

/// A variant's id from its 32 bytes.
///
/// # Errors
/// Where there are not 32 of them.
pub fn variant_id(bytes: &[u8]) -> Result<VariantId, WireError> {
    Ok(VariantId(Digest::try_from(bytes)?))
}

impl From<&Report> for v1::Report {
    fn from(report: &Report) -> Self {
        Self {
            sequence: report.sequence,
            model: report.model.to_string(),
            variant: report.variant.0.as_bytes().to_vec(),
            generation: report.generation.0,
            samples: report.accuracy.samples,
            correct: report.accuracy.correct,
            latency_count: report.latency.count,
            latency_p50_us: report.latency.p50.get(),
            latency_p95_us: report.latency.p95.get(),
            latency_p99_us: report.latency.p99.get(),
            inference_peak_bytes: report.memory.inference_peak.get(),
            process_peak_bytes: report.memory.process_peak.get(),
            energy_per_inference_nj: report.sensed.energy_per_inference_nj,
            temperature_millidegrees: report.sensed.temperature_millidegrees,
            throttled: report.sensed.throttled,
            energy_declared: report.sensed.energy_declared,
            model_bytes: report.model_bytes.get(),
            disk_bytes: report.disk_bytes.get(),
            wire_bytes: report.wire_bytes.get(),
            today: Some(v1::Traffic {
                day: report.today.day,
                update_bytes: report.today.update,
                control_bytes: report.today.control,
                report_bytes: report.today.report,
            }),
        }
    }
}

impl TryFrom<&v1::Report> for Report {
    type Error = WireError;

    fn try_from(wire: &v1::Report) -> Result<Self, WireError> {
        if wire.correct > wire.samples {
            return Err(ParseError::new("correct", &wire.correct.to_string(), "at most `samples`").into());
        }
        if !(wire.latency_p50_us <= wire.latency_p95_us && wire.latency_p95_us <= wire.latency_p99_us) {
            let got = format!("{}, {}, {}", wire.latency_p50_us, wire.latency_p95_us, wire.latency_p99_us);
            return Err(ParseError::new("latency quantiles", &got, "p50 ≤ p95 ≤ p99").into());
        }
        Ok(Self {
            sequence: wire.sequence,
            model: wire.model.parse()?,
            variant: variant_id(&wire.variant)?,
            generation: Generation(wire.generation),
            accuracy: Accuracy { samples: wire.samples, correct: wire.correct },
            latency: LatencySummary {
                count: wire.latency_count,
                p50: Micros(wire.latency_p50_us),
                p95: Micros(wire.latency_p95_us),
                p99: Micros(wire.latency_p99_us),
            },
            memory: DeviceMemory {
                inference_peak: ByteCount(wire.inference_peak_bytes),
                process_peak: ByteCount(wire.process_peak_bytes),
            },
            sensed: Sensed {
                energy_per_inference_nj: wire.energy_per_inference_nj,
                temperature_millidegrees: wire.temperature_millidegrees,
                throttled: wire.throttled,
                energy_declared: wire.energy_declared,
            },
            model_bytes: ByteCount(wire.model_bytes),
            disk_bytes: ByteCount(wire.disk_bytes),
            wire_bytes: ByteCount(wire.wire_bytes),
            today: wire.today.as_ref().map_or_else(Ledger::default, |today| {
                Ledger::of(today.day, today.update_bytes, today.control_bytes, today.report_bytes)
            }),
        })
    }
}

impl From<&Cost> for v1::Cost {
    fn from(cost: &Cost) -> Self {
        Self {
            macs: cost.macs.get(),
            dense_macs: cost.dense_macs.get(),
            parameters: cost.parameters,
            nonzero: cost.nonzero,
            model_bytes: cost.model_bytes.get(),
            peak_memory_bytes: cost.peak_memory_bytes.get(),
        }
    }
}

impl From<&v1::Cost> for Cost {
    fn from(wire: &v1::Cost) -> Self {
        Self {
            macs: MacCount(wire.macs),
            dense_macs: MacCount(wire.dense_macs),
            parameters: wire.parameters,
            nonzero: wire.nonzero,
            model_bytes: ByteCount(wire.model_bytes),
            peak_memory_bytes: ByteCount(wire.peak_memory_bytes),
        }
    }
}

impl From<&BudgetSpec> for v1::Budget {
    fn from(spec: &BudgetSpec) -> Self {
        let wire = |limit| {
            let kind = match limit {
                Limit::Absolute(value) => v1::limit::Kind::Absolute(value),
                Limit::Relative(share) => v1::limit::Kind::Relative(share),
            };
            v1::Limit { kind: Some(kind) }
        };
        let limits = Metric::ALL.into_iter().filter_map(|m| Some((m.name().to_owned(), wire(spec.get(m)?))));
        Self { limits: limits.collect() }
    }
}

impl From<&Budget> for v1::Budget {
    fn from(budget: &Budget) -> Self {
        let wire = |value| v1::Limit { kind: Some(v1::limit::Kind::Absolute(value)) };
        Self { limits: budget.iter().map(|(m, value)| (m.name().to_owned(), wire(value))).collect() }
    }
}

impl TryFrom<&v1::Budget> for BudgetSpec {
    type Error = WireError;

    fn try_from(wire: &v1::Budget) -> Result<Self, WireError> {
        let mut spec = Self::default();
        for (name, limit) in &wire.limits {
            let metric: Metric = name.parse()?;
            let (value, limit) = match limit.kind {
                Some(v1::limit::Kind::Absolute(value)) => (value, Limit::Absolute(value)),
                Some(v1::limit::Kind::Relative(share)) => (share, Limit::Relative(share)),
                None => return Err(WireError::Missing("limit.kind")),
            };
            let whole_share =
                metric == Metric::AccuracyMin && (value > 1.0 || limit == Limit::Relative(value));
            if !value.is_finite() || value <= 0.0 || whole_share {
                return Err(ParseError::new(metric.name(), &value.to_string(), "a positive limit").into());
            }
            spec.set(metric, Some(limit));
        }
        Ok(spec)
    }
}

impl TryFrom<&v1::Budget> for Budget {
    type Error = WireError;

    fn try_from(wire: &v1::Budget) -> Result<Self, WireError> {
        let spec = BudgetSpec::try_from(wire)?;
        spec.resolve(|_| None)
            .map_err(|metric| ParseError::new(metric.name(), "a share", "an absolute limit").into())
    }
}

impl From<&FleetSpec> for v1::FleetSpec {
    fn from(spec: &FleetSpec) -> Self {
        let group = |group: &GroupSpec| v1::Group {
            name: group.name.to_string(),
            selector: labels_to_wire(&group.selector.0),
            model: group.model.to_string(),
            budget: Some((&group.budget).into()),
            rollout: group.rollout.as_ref().map(Into::into),
        };
        Self {
            groups: spec.groups.iter().map(group).collect(),
            rollout: spec.rollout.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<&v1::FleetSpec> for FleetSpec {
    type Error = WireError;

    fn try_from(wire: &v1::FleetSpec) -> Result<Self, WireError> {
        if wire.groups.len() > caps::GROUPS {
            return Err(WireError::OverLimit("groups", caps::GROUPS));
        }
        let group = |wire: &v1::Group| -> Result<GroupSpec, WireError> {
            Ok(GroupSpec {
                name: wire.name.parse()?,
                selector: Selector(labels_from_wire(&wire.selector)?),
                model: wire.model.parse()?,
                budget: wire.budget.as_ref().map_or(Ok(BudgetSpec::default()), BudgetSpec::try_from)?,
                rollout: wire.rollout.as_ref().map(RolloutPolicy::try_from).transpose()?,
            })
        };
        let spec = Self {
            groups: wire.groups.iter().map(group).collect::<Result<_, _>>()?,
            rollout: wire.rollout.as_ref().map(RolloutPolicy::try_from).transpose()?,
        };
        spec.check()?;
        Ok(spec)
    }
}

/// Labels as the wire carries them.
pub fn labels_to_wire(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Labels from a peer.
///
/// # Errors
/// Where there are too many, or one is empty, too long or has a reserved character.
pub fn labels_from_wire(wire: &HashMap<String, String>) -> Result<Labels, WireError> {
    if wire.len() > caps::LABELS {
        return Err(WireError::OverLimit("labels", caps::LABELS));
    }
    let map = wire
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<std::collections::BTreeMap<_, _>>();
    Ok(Labels::try_from(map)?)
}
