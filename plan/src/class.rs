//! What devices of one class measured. A class is hardware that is alike; devices say which one they are by a label.

use std::collections::BTreeMap;

use secateur_common::{DeviceId, Labels, Metric, VariantId};

use crate::{DeviceView, Measurement};

/// Classes, by the value of their label. A function of the devices alone: nothing of it needs to be stored.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Classes(BTreeMap<Box<str>, Class>);

/// One class: what was measured of each variant, by some of its devices.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Class(BTreeMap<VariantId, Members>);

/// What is predicted from what others measured, in the order of [`Values`].
const METRICS: [Metric; 3] = [Metric::LatencyP95, Metric::EnergyPerInference, Metric::PeakMemoryBytes];

/// A value of each of [`METRICS`], where it is known.
pub(crate) type Values = [Option<f64>; METRICS.len()];

/// The devices that measured a variant, ascending, and the medians of what they measured.
#[derive(Clone, PartialEq, Debug, Default)]
struct Members {
    values: Vec<(DeviceId, Values)>,
    medians: Values,
}

/// Devices of a class that count for a variant, those with the least ids: enough for a median that no single device
/// can move far.
const MEMBERS: usize = 31;
/// Variants of a class, those with the least ids.
const VARIANTS: usize = 256;

impl Classes {
    /// The label that names a device's class.
    pub const LABEL: &str = "class";

    /// Takes in what `device` has measured by now.
    pub fn learn(&mut self, device: &DeviceView) {
        let Some(name) = device.labels.get(Self::LABEL) else { return };
        if device.measured.is_empty() {
            return;
        }
        if !self.0.contains_key(name) {
            self.0.insert(name.into(), Class::default());
        }
        let Some(class) = self.0.get_mut(name) else { return };
        for (variant, measurement) in &device.measured {
            class.learn(device.id, *variant, values(measurement));
        }
    }

    /// Forgets what `device` has measured: it is of another class from now on.
    pub fn forget(&mut self, device: &DeviceView) {
        let Some(name) = device.labels.get(Self::LABEL) else { return };
        let Some(class) = self.0.get_mut(name) else { return };
        class.0.retain(|_, members| {
            members.set(device.id, Values::default());
            !members.values.is_empty()
        });
        if class.0.is_empty() {
            self.0.remove(name);
        }
    }

    /// The class of a device with these labels; one that knows nothing, where it has none.
    pub fn of(&self, labels: &Labels) -> &Class {
        labels.get(Self::LABEL).and_then(|name| self.0.get(name)).unwrap_or(Class::unknown())
    }
}

impl<'d> FromIterator<&'d DeviceView> for Classes {
    fn from_iter<I: IntoIterator<Item = &'d DeviceView>>(devices: I) -> Self {
        let mut classes = Self::default();
        devices.into_iter().for_each(|device| classes.learn(device));
        classes
    }
}

impl Class {
    /// The class of a device of which nothing but itself is known.
    pub fn unknown() -> &'static Self {
        static UNKNOWN: Class = Class(BTreeMap::new());
        &UNKNOWN
    }

    fn learn(&mut self, device: DeviceId, variant: VariantId, values: Values) {
        self.0.entry(variant).or_default().set(device, values);
        if self.0.len() > VARIANTS {
            self.0.pop_last();
        }
    }

    /// What its devices measured of `variant`: the median.
    pub fn typical(&self, variant: VariantId, metric: Metric) -> Option<f64> {
        self.0.get(&variant)?.medians[index(metric)?]
    }

    /// How `device` stands to its class: for each metric by what factor it measures more, at the median of the variants
    /// that both know.
    pub(crate) fn pace(&self, device: &DeviceView) -> Values {
        let ratios = device.measured.iter().filter_map(|(variant, own)| {
            let typical = self.0.get(variant)?.medians;
            let ratio = |(own, typical): (Option<f64>, Option<f64>)| Some(own? / typical?);
            let own = values(own);
            Some(std::array::from_fn(|metric| ratio((own[metric], typical[metric]))))
        });
        medians(&ratios.collect::<Vec<_>>())
    }
}

impl Members {
    /// What `device` measured; if nothing, it is none of them.
    fn set(&mut self, device: DeviceId, values: Values) {
        let known = values.iter().any(Option::is_some);
        match self.values.binary_search_by_key(&device, |(device, _)| *device) {
            Ok(at) if self.values[at].1 == values => return,
            Ok(at) if known => self.values[at].1 = values,
            Ok(at) => drop(self.values.remove(at)),
            Err(at) if known && at < MEMBERS => {
                self.values.insert(at, (device, values));
                self.values.truncate(MEMBERS);
            }
            Err(_) => return,
        }
        let values: Vec<Values> = self.values.iter().map(|(_, values)| *values).collect();
        self.medians = medians(&values);
    }
}

pub(crate) fn index(metric: Metric) -> Option<usize> {
    METRICS.iter().position(|known| *known == metric)
}

fn values(measurement: &Measurement) -> Values {
    METRICS.map(|metric| measurement.value(metric))
}

/// For each metric the median of those that are known; of an even number the lower of the middle two.
fn medians(values: &[Values]) -> Values {
    std::array::from_fn(|metric| {
        let mut known: Vec<f64> = values.iter().filter_map(|values| values[metric]).collect();
        let middle = known.len().checked_sub(1)? / 2;
        Some(*known.select_nth_unstable_by(middle, f64::total_cmp).1)
    })
}
