//! The table of a device class: what inferences take there, as a file in TOML or JSON.

use std::collections::BTreeMap;
use std::path::Path;

use secateur_model::timing::{Amounts, Energy, Timing, Work};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, OrFail, Outcome};
use crate::files;

/// What to do about a table that cannot be used.
const ADVICE: &str =
    "write one by `secateur bench MODEL --table table.json` on a device of the class (docs/prune.md)";

/// A table as it is written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// What people call the class.
    pub(super) name: String,
    /// Output channels that a kernel computes together.
    pub(super) lanes: usize,
    /// The 95th percentile of an inference's time over its median.
    tail: f64,
    /// What energy an inference takes, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    energy: Option<EnergyTable>,
    /// Microseconds for each kind of work; what is not named takes none.
    microseconds: BTreeMap<String, f64>,
}

/// One of the two ways to tell energy.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum EnergyTable {
    Watts { watts: f64 },
    Work { microjoules_per_mac: f64, microjoules_per_byte: f64 },
}

impl Table {
    pub(super) fn new(name: &str, timing: &Timing) -> Self {
        let energy = timing.energy.map(|energy| match energy {
            Energy::Watts(watts) => EnergyTable::Watts { watts },
            Energy::Work { per_mac, per_byte } => {
                EnergyTable::Work { microjoules_per_mac: per_mac, microjoules_per_byte: per_byte }
            }
        });
        let microseconds = Work::ALL.iter().zip(timing.us).map(|(work, us)| (work.name().to_owned(), us));
        Self {
            name: name.to_owned(),
            lanes: timing.lanes,
            tail: timing.tail,
            energy,
            microseconds: microseconds.collect(),
        }
    }

    /// Reads TOML, or JSON where the name ends in `.json`.
    ///
    /// # Errors
    /// Where the file cannot be read or is no table.
    pub(super) fn read(path: &Path) -> Outcome<Self> {
        let text = files::read_text(path)?;
        let doing = format!("cannot read the table {}", path.display());
        if path.extension().is_some_and(|end| end == "json") {
            serde_json::from_str(&text).or_input(doing, ADVICE)
        } else {
            toml::from_str(&text).or_input(doing, ADVICE)
        }
    }

    /// Writes JSON, or TOML where the name ends in `.toml`.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Outcome {
        let doing = || format!("cannot write the table {}", path.display());
        let text = if path.extension().is_some_and(|end| end == "toml") {
            toml::to_string_pretty(self).or_work(doing(), ADVICE)?
        } else {
            serde_json::to_string_pretty(self).or_work(doing(), ADVICE)?
        };
        files::write(path, format!("{}\n", text.trim_end()).as_bytes())
    }

    /// What it says, for computing.
    ///
    /// # Errors
    /// Where a number is none, negative or out of range, or a kind of work is not known.
    pub(super) fn timing(&self) -> Outcome<Timing> {
        let bad = |what: String| Failure::input(format!("the table `{}` {what}", self.name), ADVICE);
        let good = |value: f64| value.is_finite() && value >= 0.0;
        let mut us = Amounts::default();
        for (name, &value) in &self.microseconds {
            let at = Work::ALL.iter().position(|work| work.name() == name);
            let at = at.ok_or_else(|| {
                let known = Work::ALL.map(Work::name).join(", ");
                bad(format!("knows of a work `{name}`: there are {known}"))
            })?;
            us[at] = value;
        }
        if !us.iter().all(|&us| good(us)) || us.iter().all(|&us| us == 0.0) {
            return Err(bad("must hold microseconds that are not negative, and not all of them zero".into()));
        }
        if !self.tail.is_finite() || self.tail < 1.0 || !(1..=1024).contains(&self.lanes) {
            return Err(bad("must have a tail of at least 1 and between 1 and 1024 lanes".into()));
        }
        let energy = self.energy.map(|energy| match energy {
            EnergyTable::Watts { watts } => (watts, 0.0, Energy::Watts(watts)),
            EnergyTable::Work { microjoules_per_mac: per_mac, microjoules_per_byte: per_byte } => {
                (per_mac, per_byte, Energy::Work { per_mac, per_byte })
            }
        });
        if energy.is_some_and(|(a, b, _)| !good(a) || !good(b) || a + b == 0.0) {
            return Err(bad("must hold energies that are not negative, and not all of them zero".into()));
        }
        Ok(Timing { us, tail: self.tail, lanes: self.lanes, energy: energy.map(|energy| energy.2) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing() -> Timing {
        let us = Work::ALL.map(|work| if work == Work::Byte { 0.0 } else { 1.25e-4 });
        Timing { us, tail: 1.25, lanes: 8, energy: Some(Energy::Watts(3.5)) }
    }

    #[test]
    fn a_table_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for (name, energy) in [
            ("a.json", Some(Energy::Watts(3.5))),
            ("b.toml", Some(Energy::Work { per_mac: 1e-4, per_byte: 1e-5 })),
            ("c.toml", None),
        ] {
            let path = folder.path().join(name);
            let timing = Timing { energy, ..timing() };
            Table::new("gateway", &timing).write(&path).unwrap();
            assert_eq!(Table::read(&path).unwrap().timing().unwrap(), timing, "{name}");
        }
    }

    #[test]
    fn a_table_that_says_nothing_or_nonsense_is_refused() {
        let good = "name = 'a'\nlanes = 8\ntail = 1.1\n[microseconds]\nlayer = 2.5\n";
        let timing = |text: &str| toml::from_str::<Table>(text).ok().and_then(|table| table.timing().ok());
        assert_eq!(timing(good).unwrap().us[Work::Layer as usize], 2.5);
        for (from, to) in [
            ("2.5", "-2.5"),
            ("2.5", "nan"),
            ("2.5", "0.0"),
            ("layer", "lair"),
            ("lanes = 8", "lanes = 0"),
            ("tail = 1.1", "tail = 0.5"),
            ("tail = 1.1", "tail = 1.1\nwatts = 3"),
            ("[micro", "[energy]\nwatts = -1.0\n[micro"),
        ] {
            assert_eq!(timing(&good.replace(from, to)), None, "{to}");
        }
    }
}
