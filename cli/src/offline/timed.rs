//! Limits on time and energy: where the time is known from, and pruning until what is *measured* holds.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secateur_common::{Budget, LatencySummary, Metric, Violation};
use secateur_model::Graph;
use secateur_model::timing::{Energy, Timing};
use secateur_prune::{PruneError, Pruned};
use serde::Serialize;

use super::calibrate::{Calibrated, calibrate, calmest};
use super::table::Table;
use super::{Latency, load, prune_failure};
use crate::failure::{Failure, OrFail, Outcome};

/// How often a model is pruned until its measured time holds.
const TRIES: usize = 4;
/// A measured time under this share of its limit, where the time told was at it, means that too much was pruned.
const ROOM: f64 = 0.85;
/// By how much more than measured the next try reckons with, so that it does not end at the limit again.
const MARGIN: f64 = 1.02;
/// What one round of a measurement may take.
const ROUND: Duration = Duration::from_millis(50);

/// Flags that say where times and energies come from.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Time and energy")]
pub(crate) struct TimeFlags {
    /// Take times from this table of a device class instead of measuring on this machine (`secateur bench --table`)
    #[arg(long, value_name = "TABLE")]
    device_class: Option<PathBuf>,
    /// Watts that an inference takes while it runs, where no table says so
    #[arg(long, value_name = "W")]
    watts: Option<f64>,
    /// Widths are rounded up to a multiple of so many channels where time or energy is limited [default: the table's, else 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    lanes: Option<u16>,
}

/// Widths of kernels on this machine.
pub(super) const LANES: u16 = 8;

/// What tells times, and from where.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Device {
    name: String,
    /// Where latency comes from.
    latency: &'static str,
    /// Where energy comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<String>,
    /// The mean error of what was fitted on the model and its cuts, as a share.
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration_error: Option<f64>,
    #[serde(skip)]
    pub(super) timing: Timing,
}

impl TimeFlags {
    /// What inferences of `dense` take: from the table, else measured here.
    ///
    /// # Errors
    /// Where a table or number is not good, or the engine does not run the model.
    pub(super) fn device(&self, dense: &Graph, path: &Path) -> Outcome<Device> {
        if self.watts.is_some_and(|watts| !watts.is_finite() || watts <= 0.0) {
            return Err(Failure::input("--watts must be a number above zero", "such as --watts 3.5"));
        }
        let watts = self.watts.map(Energy::Watts);
        let (name, latency, mut timing, error) = match &self.device_class {
            Some(table) => {
                let table = Table::read(table)?;
                let timing = table.timing()?;
                (table.name, "predicted by its table", timing, None)
            }
            None => {
                let lanes = self.lanes.unwrap_or(LANES);
                let Calibrated { timing, error } = calibrate(dense, path, lanes.into(), watts)?;
                ("this machine".into(), "measured", timing, Some(error))
            }
        };
        timing.lanes = self.lanes.map_or(timing.lanes, usize::from);
        let given = timing.energy.is_some() && self.device_class.is_some();
        timing.energy = timing.energy.or(watts);
        let energy = timing.energy.map(|energy| match energy {
            Energy::Watts(watts) => {
                let from = if given { "the table" } else { "--watts" };
                format!("{watts} W ({from}) times the median time")
            }
            Energy::Work { .. } => "the table's, by multiply-accumulates and bytes".into(),
        });
        Ok(Device { name, latency, energy, calibration_error: error, timing })
    }
}

impl Device {
    /// Whether its times are measured here, not only told.
    pub(super) fn is_here(&self) -> bool {
        self.calibration_error.is_some()
    }

    /// The times of `graph`: measured here, or told.
    ///
    /// # Errors
    /// Where the engine cannot run it, or its shapes are not known.
    pub(super) fn latency(&self, graph: &Graph, path: &Path) -> Outcome<Latency> {
        if self.is_here() {
            return Ok(self.measured(graph, path)?.into());
        }
        let p50 = told(self.timing.p50_us(graph), path)?;
        Ok(Latency::of_us(p50, self.timing.tail * p50))
    }

    /// The times of `graph` here.
    ///
    /// # Errors
    /// Where the engine cannot run it.
    pub(super) fn measured(&self, graph: &Graph, path: &Path) -> Outcome<LatencySummary> {
        calmest(&load(graph, path)?, path, ROUND)
    }

    /// Microjoules of `graph`, which takes `latency`.
    pub(super) fn energy_uj(&self, graph: &Graph, latency: &Latency) -> Option<f64> {
        energy_uj(&self.timing, graph, latency.latency_p50_us.get() as f64)
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "latency {} on {}", self.latency, self.name)?;
        match &self.energy {
            Some(energy) => write!(f, "; energy: {energy}"),
            None => Ok(()),
        }
    }
}

fn energy_uj(timing: &Timing, graph: &Graph, p50_us: f64) -> Option<f64> {
    match timing.energy? {
        Energy::Watts(watts) => Some(watts * p50_us),
        Energy::Work { .. } => timing.energy_uj(graph).ok().flatten(),
    }
}

fn told<T, E: std::error::Error>(value: Result<T, E>, path: &Path) -> Outcome<T> {
    value.or_input(
        format!("cannot cost {}", path.display()),
        "see `secateur inspect` for the layers whose shapes are known",
    )
}

/// Whether `budget` limits what only time tells.
pub(super) fn is_timed(mut limited: impl FnMut(Metric) -> bool) -> bool {
    [Metric::LatencyP95, Metric::EnergyPerInference].into_iter().any(&mut limited)
}

/// Prunes until the limits on time and energy hold as measured: where they do not, what was told is corrected by what
/// was measured, and it is pruned again. Also gives the times by which it holds.
///
/// # Errors
/// As pruning and measuring, and where no try holds: names the limit, and the least that was measured.
pub(super) fn prune_measured(
    budget: &Budget,
    mut timing: Timing,
    path: &Path,
    prune: &mut dyn FnMut(&Timing) -> Result<Pruned, PruneError>,
    measure: &mut dyn FnMut(&Graph) -> Outcome<LatencySummary>,
) -> Outcome<(Pruned, Latency)> {
    let mut held: Option<(Pruned, Latency)> = None;
    let mut least: Option<Violation> = None;
    for _ in 0..TRIES {
        let pruned = match prune(&timing) {
            Ok(pruned) => pruned,
            // A try for what more could be kept; or, corrected, the limit is out of reach.
            Err(_) if held.is_some() => break,
            Err(error) => return Err(prune_failure(&error, path)),
        };
        let predicted = told(timing.p50_us(&pruned.graph), path)?;
        let latency = measure(&pruned.graph)?;
        let (p50, p95) = (latency.p50.get().max(1) as f64, latency.p95.get() as f64);
        let measured = |metric: Metric| match metric {
            Metric::LatencyP95 => Some(p95),
            Metric::EnergyPerInference => energy_uj(&timing, &pruned.graph, p50),
            _ => None,
        };
        let said = |metric: Metric| match metric {
            Metric::LatencyP95 => Some(timing.tail * predicted),
            Metric::EnergyPerInference => energy_uj(&timing, &pruned.graph, predicted),
            _ => None,
        };
        let broken = worst(budget.violations(measured));
        let factor = p50 / predicted.max(f64::MIN_POSITIVE);
        let tail = (p95 / p50).max(1.0);
        match broken {
            None => {
                let far = share(budget, measured) < ROOM && share(budget, said) > ROOM;
                held = Some((pruned, latency.into()));
                if !far {
                    break;
                }
                timing = timing.corrected(factor, tail);
            }
            Some(_) if held.is_some() => break,
            Some(broken) => {
                if least.is_none_or(|least| broken.actual / broken.limit < least.actual / least.limit) {
                    least = Some(broken);
                }
                timing = timing.corrected(factor * MARGIN, tail);
            }
        }
    }
    match (held, least) {
        (Some(held), _) => Ok(held),
        (None, Some(Violation { metric, limit, actual: smallest })) => {
            Err(prune_failure(&PruneError::Infeasible { metric, limit, smallest }, path))
        }
        (None, None) => Err(prune_failure(&PruneError::NoTarget, path)),
    }
}

fn worst(broken: Vec<Violation>) -> Option<Violation> {
    broken.into_iter().max_by(|a, b| (a.actual / a.limit).total_cmp(&(b.actual / b.limit)))
}

/// The largest share of a limit that is used.
fn share(budget: &Budget, of: impl Fn(Metric) -> Option<f64>) -> f64 {
    budget.iter().filter_map(|(metric, limit)| Some(of(metric)? / limit)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use secateur_common::Micros;
    use secateur_model::onnx;
    use secateur_model::timing::Work;
    use secateur_prune::{Family, Method, Refit};

    use super::*;
    use crate::offline::meter;

    /// A machine on which an inference takes at least 20 µs.
    fn timing() -> Timing {
        let us = Work::ALL.map(|work| if work == Work::Inference { 20.0 } else { 1e-4 });
        Timing { us, tail: 1.1, lanes: 8, energy: Some(Energy::Watts(2.0)) }
    }

    /// Prunes to `budget` where every inference takes `slower` times what `timing` says; tells how often it was pruned.
    fn pruned(budget: &Budget, slower: f64) -> (Outcome<(Pruned, Latency)>, usize) {
        let dense = onnx::read(include_bytes!("../../../examples/lenet5.onnx")).unwrap();
        let family = Family::new(&dense, Method::Magnitude, 0, None, &mut |_| ()).unwrap();
        let mut tries = 0;
        let mut prune = |timing: &Timing| {
            tries += 1;
            family.to_budget(budget, Refit::WHOLE, meter(Some(timing)), &mut |_| ())
        };
        let mut measure = |graph: &Graph| {
            let p50 = slower * timing().p50_us(graph).unwrap();
            let micros = |us: f64| Micros(us.ceil() as u64);
            Ok(LatencySummary { count: 1, p50: micros(p50), p95: micros(1.1 * p50), p99: micros(2.0 * p50) })
        };
        let found = prune_measured(budget, timing(), Path::new("a.onnx"), &mut prune, &mut measure);
        (found, tries)
    }

    #[test]
    fn what_is_measured_holds_or_the_limit_is_named() {
        let latency = Budget::default().with(Metric::LatencyP95, 150.0);
        let energy = latency.clone().with(Metric::EnergyPerInference, 200.0);
        for (budget, slower) in [(&latency, 1.0), (&latency, 1.6), (&energy, 1.3)] {
            let (pruned, at) = pruned(budget, slower).0.unwrap();
            let timing = timing().corrected(slower, 1.1);
            assert!(timing.p95_us(&pruned.graph).unwrap() <= 150.0, "{slower}");
            assert!(at.latency_p95_us <= Micros(150) && 2 * at.latency_p50_us.get() <= 300, "{slower}");
        }
        let (_, at) = pruned(&energy, 1.0).0.unwrap();
        assert!(2 * at.latency_p50_us.get() <= 200);
        let refused = pruned(&Budget::default().with(Metric::LatencyP95, 30.0), 3.0).0.unwrap_err();
        assert!(refused.to_string().contains("latency_p95 budget of 30 µs cannot be met"), "{refused}");
    }

    #[test]
    fn a_machine_that_is_faster_than_told_is_given_more() {
        let budget = Budget::default().with(Metric::LatencyP95, 90.0);
        let ((fast, tries), (slow, once)) = (pruned(&budget, 0.6), pruned(&budget, 1.0));
        assert!(tries > 1 && once == 1);
        let channels =
            |(pruned, _): (Pruned, Latency)| pruned.kept.iter().map(|group| group.kept).sum::<usize>();
        assert!(channels(fast.unwrap()) > channels(slow.unwrap()));
    }
}
