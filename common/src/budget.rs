//! Budgets: what a device may spend and what it must reach.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::{BYTE_UNITS, COUNT_UNITS, ENERGY_UNITS, TIME_UNITS, parse_scaled};
use crate::{ByteCount, Cost, MacCount, Micros, ParseError};

/// What a budget limits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Multiply-accumulates of one inference.
    Macs,
    /// The variant as stored, bytes.
    ModelBytes,
    /// Weights and live activations at their peak, bytes.
    PeakMemoryBytes,
    /// 95th percentile of the time of one inference, microseconds.
    LatencyP95,
    /// Energy of one inference, microjoules.
    EnergyPerInference,
    /// Received from the coordinator in a day, bytes.
    DownloadBytesPerDay,
    /// Accuracy to reach, 0 to 1: the one metric that is a floor.
    AccuracyMin,
}

impl Metric {
    /// All metrics in the order in which they are told.
    pub const ALL: [Self; 7] = [
        Self::Macs,
        Self::ModelBytes,
        Self::PeakMemoryBytes,
        Self::LatencyP95,
        Self::EnergyPerInference,
        Self::DownloadBytesPerDay,
        Self::AccuracyMin,
    ];

    /// The name in JSON and TOML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macs => "macs",
            Self::ModelBytes => "model_bytes",
            Self::PeakMemoryBytes => "peak_memory_bytes",
            Self::LatencyP95 => "latency_p95",
            Self::EnergyPerInference => "energy_per_inference",
            Self::DownloadBytesPerDay => "download_bytes_per_day",
            Self::AccuracyMin => "accuracy_min",
        }
    }

    /// A value of this metric as people read it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Macs => MacCount(value as u64).to_string(),
            Self::ModelBytes | Self::PeakMemoryBytes | Self::DownloadBytesPerDay => {
                ByteCount(value as u64).to_string()
            }
            Self::LatencyP95 => Micros(value as u64).to_string(),
            Self::EnergyPerInference => format!("{value:.0} µJ"),
            Self::AccuracyMin => format!("{:.2} %", value * 100.0),
        }
    }

    /// `value` or a little looser as a limit: one that [`Self::show`] tells in full, so that what is shown can be typed.
    pub fn shown(self, value: f64) -> f64 {
        /// The coarsest text has two digits: a tenth is looked through.
        const STEPS: u32 = 40;
        const STEP: f64 = 0.003;
        let lower = self == Self::AccuracyMin;
        let value = if lower { value } else { value.ceil() };
        let looser = |step| if lower { 1.0 - STEP * f64::from(step) } else { 1.0 + STEP * f64::from(step) };
        let told = |step| match self.parse(&self.show(value * looser(step))) {
            Ok(Limit::Absolute(told)) if lower == (told <= value) || told == value => Some(told),
            _ => None,
        };
        (0..STEPS).find_map(told).unwrap_or(value)
    }

    fn units(self) -> &'static [(&'static str, f64)] {
        match self {
            Self::Macs => COUNT_UNITS,
            Self::ModelBytes | Self::PeakMemoryBytes | Self::DownloadBytesPerDay => BYTE_UNITS,
            Self::LatencyP95 => TIME_UNITS,
            Self::EnergyPerInference => ENERGY_UNITS,
            Self::AccuracyMin => &[("", 1.0)],
        }
    }

    /// Reads a limit of this metric: absolute (`200KiB`, `5ms`, `1.5M`; an accuracy as `0.88` or `88%`), or relative
    /// to the dense model (`25%`, `3x`: a third).
    ///
    /// # Errors
    /// Where the text is neither, or a limit is zero.
    pub fn parse(self, text: &str) -> Result<Limit, ParseError> {
        let bad = |expected: &str| ParseError::new(self.name(), text, expected);
        let trimmed = text.trim();
        let number = |part: &str| part.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
        if self == Self::AccuracyMin {
            let share = match trimmed.strip_suffix('%') {
                Some(percent) => number(percent).map(|x| x / 100.0),
                None => number(trimmed),
            };
            return share.filter(|x| *x <= 1.0).map(Limit::Absolute).ok_or_else(|| bad("0.88 or 88%"));
        }
        if let Some(percent) = trimmed.strip_suffix('%') {
            let share = number(percent).ok_or_else(|| bad("a positive percentage"))?;
            return Ok(Limit::Relative(share / 100.0));
        }
        if let Some(times) = trimmed.strip_suffix(['x', 'X']) {
            let times = number(times).ok_or_else(|| bad("a positive factor such as 3x"))?;
            return Ok(Limit::Relative(1.0 / times));
        }
        let value = parse_scaled(self.name(), trimmed, self.units())?;
        if value > 0.0 { Ok(Limit::Absolute(value)) } else { Err(bad("more than zero")) }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One limit as an operator writes it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// In the metric's base unit (bytes, MACs, microseconds, microjoules, share).
    Absolute(f64),
    /// A share of the dense model's value.
    Relative(f64),
}

/// Limits as an operator writes them. Serialised, each is a text such as `"200KiB"` or `"25%"`.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each field is the metric of its name
pub struct BudgetSpec {
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::macs")]
    pub macs: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::model_bytes")]
    pub model_bytes: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::peak_memory_bytes")]
    pub peak_memory_bytes: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::latency_p95")]
    pub latency_p95: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::energy_per_inference")]
    pub energy_per_inference: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::download_bytes_per_day")]
    pub download_bytes_per_day: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::accuracy_min")]
    pub accuracy_min: Option<Limit>,
}

impl BudgetSpec {
    /// The limit of `metric`, if there is one.
    pub fn get(&self, metric: Metric) -> Option<Limit> {
        match metric {
            Metric::Macs => self.macs,
            Metric::ModelBytes => self.model_bytes,
            Metric::PeakMemoryBytes => self.peak_memory_bytes,
            Metric::LatencyP95 => self.latency_p95,
            Metric::EnergyPerInference => self.energy_per_inference,
            Metric::DownloadBytesPerDay => self.download_bytes_per_day,
            Metric::AccuracyMin => self.accuracy_min,
        }
    }

    /// Sets or clears the limit of `metric`.
    pub fn set(&mut self, metric: Metric, limit: Option<Limit>) {
        *match metric {
            Metric::Macs => &mut self.macs,
            Metric::ModelBytes => &mut self.model_bytes,
            Metric::PeakMemoryBytes => &mut self.peak_memory_bytes,
            Metric::LatencyP95 => &mut self.latency_p95,
            Metric::EnergyPerInference => &mut self.energy_per_inference,
            Metric::DownloadBytesPerDay => &mut self.download_bytes_per_day,
            Metric::AccuracyMin => &mut self.accuracy_min,
        } = limit;
    }

    /// The absolute budget, with relative limits taken of what `dense` answers for a metric.
    ///
    /// # Errors
    /// Names the first metric with a relative limit for which `dense` has no value.
    pub fn resolve(&self, dense: impl Fn(Metric) -> Option<f64>) -> Result<Budget, Metric> {
        let mut budget = Budget::default();
        for metric in Metric::ALL {
            let value = match self.get(metric) {
                None => continue,
                Some(Limit::Absolute(value)) => value,
                Some(Limit::Relative(share)) => share * dense(metric).ok_or(metric)?,
            };
            budget.limits.push((metric, value));
        }
        Ok(budget)
    }
}

/// Absolute limits in each metric's base unit, in the order of [`Metric::ALL`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Budget {
    limits: Vec<(Metric, f64)>,
}

/// A limit and what exceeds it (for [`Metric::AccuracyMin`]: what falls short of it).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// The limit that is broken.
    pub metric: Metric,
    /// Its value.
    pub limit: f64,
    /// What was found.
    pub actual: f64,
}

impl Budget {
    /// The limit of `metric`, if there is one.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.limits.iter().find(|(m, _)| *m == metric).map(|(_, limit)| *limit)
    }

    /// This budget with `metric` limited to `limit`.
    #[must_use]
    pub fn with(mut self, metric: Metric, limit: f64) -> Self {
        self.limits.retain(|(m, _)| *m != metric);
        self.limits.push((metric, limit));
        self.limits.sort_by_key(|(m, _)| *m);
        self
    }

    /// All limits.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, f64)> {
        self.limits.iter().copied()
    }

    /// Whether there is no limit at all.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// The limits that `actual` breaks; a metric of which it knows nothing breaks none.
    pub fn violations(&self, actual: impl Fn(Metric) -> Option<f64>) -> Vec<Violation> {
        let broken = |(metric, limit): (Metric, f64)| {
            let actual = actual(metric)?;
            let bad = if metric == Metric::AccuracyMin { actual < limit } else { actual > limit };
            bad.then_some(Violation { metric, limit, actual })
        };
        self.iter().filter_map(broken).collect()
    }
}

impl Cost {
    /// The value of `metric`, where the cost alone tells it.
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Macs => Some(self.macs.get() as f64),
            Metric::ModelBytes => Some(self.model_bytes.get() as f64),
            Metric::PeakMemoryBytes => Some(self.peak_memory_bytes.get() as f64),
            _ => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metric, limit, actual) = (self.metric, self.limit, self.actual);
        let than = if metric == Metric::AccuracyMin { "under" } else { "over" };
        write!(f, "{metric} {} {than} the limit {}", metric.show(actual), metric.show(limit))
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no limits");
        }
        let sign = |metric| if metric == Metric::AccuracyMin { "≥" } else { "≤" };
        let all: Vec<_> =
            self.iter().map(|(m, limit)| format!("{m} {} {}", sign(m), m.show(limit))).collect();
        f.write_str(&all.join(", "))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(value) => write!(f, "{value}"),
            Self::Relative(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

/// Serde for one limit of a known metric, as text.
mod text {
    use super::*;

    fn write<S: Serializer>(metric: Metric, limit: &Option<Limit>, serializer: S) -> Result<S::Ok, S::Error> {
        match limit {
            None => serializer.serialize_none(),
            Some(Limit::Absolute(value)) if metric == Metric::LatencyP95 => {
                serializer.collect_str(&format_args!("{value}us"))
            }
            Some(Limit::Absolute(value)) if metric == Metric::EnergyPerInference => {
                serializer.collect_str(&format_args!("{value}uJ"))
            }
            Some(limit) => serializer.collect_str(limit),
        }
    }

    fn read<'de, D: Deserializer<'de>>(metric: Metric, deserializer: D) -> Result<Option<Limit>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| metric.parse(&text)).transpose().map_err(serde::de::Error::custom)
    }

    macro_rules! metric_text {
        ($($module:ident $metric:ident)*) => {$(
            pub(super) mod $module {
                use super::*;
                pub(crate) fn serialize<S: Serializer>(limit: &Option<Limit>, s: S) -> Result<S::Ok, S::Error> {
                    write(Metric::$metric, limit, s)
                }
                pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Limit>, D::Error> {
                    read(Metric::$metric, d)
                }
            }
        )*};
    }

    metric_text! {
        macs Macs
        model_bytes ModelBytes
        peak_memory_bytes PeakMemoryBytes
        latency_p95 LatencyP95
        energy_per_inference EnergyPerInference
        download_bytes_per_day DownloadBytesPerDay
        accuracy_min AccuracyMin
    }
}

impl FromStr for Metric {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let all = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|m| m.name() == text).ok_or_else(|| ParseError::new("metric", text, &all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_absolute_or_relative() {
        assert_eq!(Metric::Macs.parse("1.5M"), Ok(Limit::Absolute(1.5e6)));
        assert_eq!(Metric::Macs.parse("25%"), Ok(Limit::Relative(0.25)));
        assert_eq!(Metric::ModelBytes.parse("3x"), Ok(Limit::Relative(1.0 / 3.0)));
        assert_eq!(Metric::AccuracyMin.parse("88%"), Ok(Limit::Absolute(0.88)));
        for bad in ["", "0", "-5", "0%", "0x", "NaN", "inf%", "5 elephants"] {
            assert!(Metric::Macs.parse(bad).is_err(), "{bad:?}");
        }
        assert!(Metric::AccuracyMin.parse("3x").is_err() && Metric::AccuracyMin.parse("120%").is_err());
    }

    #[test]
    fn relative_limits_need_a_dense_value() {
        let mut spec = BudgetSpec::default();
        spec.set(Metric::LatencyP95, Some(Limit::Relative(0.5)));
        assert_eq!(spec.resolve(|_| None), Err(Metric::LatencyP95));
        let budget = spec.resolve(|_| Some(300.0)).unwrap();
        assert_eq!(budget.get(Metric::LatencyP95), Some(150.0));
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for metric in Metric::ALL {
            for value in [0.031, 0.4, 0.7349, 1.0].into_iter().chain((0..60).map(|at| 1.3f64.powi(at))) {
                let lower = metric == Metric::AccuracyMin;
                if lower && value > 1.0 {
                    continue;
                }
                let shown = metric.shown(value);
                assert_eq!(metric.parse(&metric.show(shown)), Ok(Limit::Absolute(shown)), "{metric} {value}");
                let near = if lower { 0.95 * value..=value } else { value..=(1.12 * value).max(value + 1.0) };
                assert!(near.contains(&shown), "{metric} {value}: {shown}");
            }
        }
    }

    #[test]
    fn violations_name_the_limit() {
        let budget = Budget::default().with(Metric::Macs, 100.0).with(Metric::AccuracyMin, 0.9);
        let broken = budget.violations(|m| Some(if m == Metric::Macs { 150.0 } else { 0.95 }));
        assert_eq!(broken, [Violation { metric: Metric::Macs, limit: 100.0, actual: 150.0 }]);
        assert!(budget.violations(|_| None).is_empty());
    }
}
