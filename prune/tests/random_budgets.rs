//! A thousand random sets of budgets: each is met whole, or refused with the limit that binds.
#![allow(clippy::unwrap_used)]

mod small;

use proptest::prelude::*;
use secateur_common::{Budget, Metric};
use secateur_model::cost;
use secateur_prune::{Method, PruneError, Structure, prune};

/// Shares of the dense net's cost, each limit there or not.
fn budgets() -> impl Strategy<Value = [Option<f64>; 3]> {
    let share = || proptest::option::weighted(0.7, 0.02_f64..1.1);
    [share(), share(), share()].prop_map(|[macs, bytes, memory]| [macs, bytes, memory])
}

fn held(
    method: Method,
    structure: Structure,
    shares: [Option<f64>; 3],
    data: usize,
) -> Result<(), TestCaseError> {
    let dense = small::net();
    let images = small::images(data.max(1));
    let now = cost::analyse(&dense).unwrap().cost(small::bytes(&dense));
    let metrics = [Metric::Macs, Metric::ModelBytes, Metric::PeakMemoryBytes];
    let mut budget = Budget::default();
    for (metric, share) in metrics.into_iter().zip(shares) {
        if let Some((share, dense)) = share.zip(now.metric(metric)) {
            budget = budget.with(metric, share * dense);
        }
    }
    if budget.is_empty() {
        return Ok(());
    }
    let asked = small::request(method, structure, budget.clone(), (data > 0).then_some(&images));
    match prune(&dense, &asked, &small::bytes, &mut |_| ()) {
        Ok(pruned) => {
            let cost = cost::analyse(&pruned.graph).unwrap().cost(small::bytes(&pruned.graph));
            prop_assert_eq!(budget.violations(|metric| cost.metric(metric)), vec![]);
            prop_assert!(small::all_finite(&pruned.graph));
        }
        Err(PruneError::Infeasible { metric, limit, smallest }) => {
            prop_assert_eq!(budget.get(metric), Some(limit));
            prop_assert!(smallest > limit);
        }
        Err(PruneError::NoTarget) => {
            prop_assert!(structure == Structure::Weights && shares[..2] == [None, None])
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn plain_methods_meet_them(shares in budgets(), which in 0_usize..3) {
        held([Method::Random, Method::Threshold, Method::Magnitude][which], Structure::Channels, shares, 0)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn methods_with_data_meet_them(shares in budgets(), which in 0_usize..3) {
        let (method, structure) = [
            (Method::Obs, Structure::Channels),
            (Method::Obs, Structure::Weights),
            (Method::Activation, Structure::Channels),
        ][which];
        held(method, structure, shares, 8)?;
    }
}
