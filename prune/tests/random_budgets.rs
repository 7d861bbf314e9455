//! A thousand random sets of budgets: each is met whole, or refused with the limit that binds.
#![allow(clippy::unwrap_used)]

mod small;

use proptest::prelude::*;
use secateur_common::{Budget, Metric};
use secateur_model::timing::{Energy, Timing, Work};
use secateur_model::{Graph, cost};
use secateur_prune::{Meter, Method, PruneError, Structure, prune};

const METRICS: [Metric; 5] = [
    Metric::Macs,
    Metric::ModelBytes,
    Metric::PeakMemoryBytes,
    Metric::LatencyP95,
    Metric::EnergyPerInference,
];

/// A machine that is slow at what is small, and at depthwise layers.
fn timing(lanes: usize) -> Timing {
    let us = |work: Work| match work {
        Work::Inference => 4.0,
        Work::Layer => 0.5,
        Work::Node => 0.1,
        Work::GroupedMac => 4e-3,
        Work::SparseMac => 1e-4,
        Work::Byte => 2e-5,
        _ => 1e-3,
    };
    let energy = match lanes {
        1 => Energy::Work { per_mac: 2e-3, per_byte: 1e-3 },
        _ => Energy::Watts(3.0),
    };
    Timing { us: Work::ALL.map(us), tail: 1.2, lanes, energy: Some(energy) }
}

/// What `graph` costs, each metric by the functions that the world knows.
fn actual(graph: &Graph, timing: &Timing, metric: Metric) -> Option<f64> {
    match metric {
        Metric::LatencyP95 => timing.p95_us(graph).ok(),
        Metric::EnergyPerInference => timing.energy_uj(graph).unwrap(),
        _ => cost::analyse(graph).unwrap().cost(small::bytes(graph)).metric(metric),
    }
}

/// Shares of the dense net's cost, each limit there or not.
fn budgets() -> impl Strategy<Value = [Option<f64>; 5]> {
    let share = |there: f64| proptest::option::weighted(there, 0.02_f64..1.1);
    [share(0.7), share(0.7), share(0.7), share(0.4), share(0.4)]
}

fn held(
    method: Method,
    structure: Structure,
    shares: [Option<f64>; 5],
    (data, lanes): (usize, usize),
) -> Result<(), TestCaseError> {
    let dense = small::net();
    let images = small::images(data.max(1));
    let timing = timing(lanes);
    let mut budget = Budget::default();
    for (metric, share) in METRICS.into_iter().zip(shares) {
        if let Some((share, dense)) = share.zip(actual(&dense, &timing, metric)) {
            budget = budget.with(metric, share * dense);
        }
    }
    if budget.is_empty() {
        return Ok(());
    }
    let asked = small::request(method, structure, budget.clone(), (data > 0).then_some(&images));
    let meter = Meter { timing: Some(&timing), ..Meter::new(&small::bytes) };
    match prune(&dense, &asked, meter, &mut |_| ()) {
        Ok(pruned) => {
            let broken = budget.violations(|metric| actual(&pruned.graph, &timing, metric));
            prop_assert_eq!(broken, vec![]);
            prop_assert!(small::all_finite(&pruned.graph));
        }
        Err(PruneError::Infeasible { metric, limit, smallest }) => {
            prop_assert_eq!(budget.get(metric), Some(limit));
            prop_assert!(smallest > limit);
        }
        Err(PruneError::NoTarget) => {
            prop_assert!(structure == Structure::Weights && budget.iter().all(|(m, _)| m == METRICS[2]));
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn plain_methods_meet_them(shares in budgets(), which in 0_usize..3, lanes in 0_u32..4) {
        held([Method::Random, Method::Threshold, Method::Magnitude][which], Structure::Channels, shares, (0, 1 << lanes))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn methods_with_data_meet_them(shares in budgets(), which in 0_usize..3, lanes in 0_u32..4) {
        let (method, structure) = [
            (Method::Obs, Structure::Channels),
            (Method::Obs, Structure::Weights),
            (Method::Activation, Structure::Channels),
        ][which];
        held(method, structure, shares, (8, 1 << lanes))?;
    }
}
