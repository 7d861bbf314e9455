//! What inferences take on this machine: the model itself, cuts of it and single layers are timed, and coefficients
//! fitted to the times.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use secateur_common::{Budget, ByteCount, LatencySummary, probe_input};
use secateur_engine::Session;
use secateur_model::timing::{Energy, Sample, Timing, amounts, fitted};
use secateur_model::{Attribute, Dim, Graph, Node, OpSet, Tensor, ValueInfo};
use secateur_prune::{Family, Holder, Meter, Method, Pattern, Refit, Request, Structure, prune};

use super::{latency_of, load};
use crate::failure::{OrFail, Outcome};
use crate::progress::Progress;

/// Shares of the dense multiply-accumulates to which the model is cut.
const SHARES: [f64; 5] = [0.7, 0.45, 0.3, 0.2, 0.1];
/// Shares of the weights that are zeroed.
const ZEROED: [f64; 2] = [0.75, 0.92];
/// What one round of inferences may take.
const ROUND: Duration = Duration::from_millis(15);
/// After this no further graph is timed.
const LIMIT: Duration = Duration::from_secs(8);
/// A single layer counts less than the model whose times are to be told.
const LAYER_WEIGHT: f64 = 0.2;
/// Rounds; the calmest counts.
const ROUNDS: usize = 8;

/// Coefficients, and by how much they are off on the model and its cuts: the mean, as a share of the time.
pub(super) struct Calibrated {
    pub(super) timing: Timing,
    pub(super) error: f64,
}

/// Times `dense`, cuts of it and single layers, and fits coefficients.
///
/// # Errors
/// Where the engine cannot run `dense`.
pub(super) fn calibrate(
    dense: &Graph,
    path: &Path,
    lanes: usize,
    energy: Option<Energy>,
) -> Outcome<Calibrated> {
    let began = Instant::now();
    let mut progress = Progress::new();
    let timed = |graph: &Graph, session: &Session, weight: f64| -> Outcome<(Sample, f64)> {
        let advice = "see `secateur inspect` for the layers whose shapes are known";
        let amounts = amounts(graph, lanes).or_input(format!("cannot cost {}", path.display()), advice)?;
        let latency = calmest(session, path, ROUND)?;
        let (p50, p95) = (latency.p50.get().max(1) as f64, latency.p95.get() as f64);
        Ok((Sample { amounts, us: p50, weight }, (p95 / p50).max(1.0)))
    };
    let (sample, tail) = timed(dense, &load(dense, path)?, 1.0)?;
    let (mut own, mut layers, mut tails) = (vec![sample], Vec::new(), vec![tail]);
    let (cuts, singles) = (cuts(dense), singles());
    let total = cuts.len() + singles.len();
    for (done, graph) in singles.iter().chain(&cuts).enumerate() {
        progress.at("calibrate", done as u64, total as u64);
        // What the engine does not run tells nothing.
        let Ok(session) = Session::load(graph) else { continue };
        if began.elapsed() > LIMIT {
            break;
        }
        if done < singles.len() {
            layers.push(timed(graph, &session, LAYER_WEIGHT)?.0);
        } else {
            let (sample, tail) = timed(graph, &session, 1.0)?;
            own.push(sample);
            tails.push(tail);
        }
    }
    progress.at("calibrate", total as u64, total as u64);
    tails.sort_by(f64::total_cmp);
    let us = fitted(&[own.as_slice(), layers.as_slice()].concat());
    let timing = Timing { us, tail: tails[tails.len() / 2], lanes, energy };
    let said = |sample: &Sample| us.iter().zip(&sample.amounts).map(|(us, amount)| us * amount).sum::<f64>();
    let off = own.iter().map(|sample| (said(sample) / sample.us - 1.0).abs()).sum::<f64>();
    Ok(Calibrated { timing, error: off / own.len() as f64 })
}

/// The times of the calmest of a few rounds of about `round` each: what else the machine does must not count.
///
/// # Errors
/// Where an inference fails.
pub(super) fn calmest(session: &Session, path: &Path, round: Duration) -> Outcome<LatencySummary> {
    let one = latency_of(session, path, 2)?.p50.get().max(1);
    let runs = (round.as_micros() as u64 / one).clamp(20, 2_000) as u32;
    let mut best = latency_of(session, path, runs)?;
    for _ in 1..ROUNDS {
        let next = latency_of(session, path, runs)?;
        if next.p95 < best.p95 {
            best = next;
        }
    }
    Ok(best)
}

/// Cuts of the model by two plain methods, and the model with weights zeroed.
fn cuts(dense: &Graph) -> Vec<Graph> {
    let mut cuts = Vec::new();
    for method in [Method::Random, Method::Magnitude] {
        let family = Family::new(dense, method, 1, None, &mut |_| ());
        let rungs =
            family.and_then(|family| family.rungs(dense, &SHARES, Refit::WHOLE, &Holder::PLAIN, &mut |_| ()));
        cuts.extend(rungs.into_iter().flatten().skip(1).map(|rung| rung.graph));
    }
    for rate in ZEROED {
        let request = Request {
            method: Method::Magnitude,
            structure: Structure::Weights,
            pattern: Pattern::default(),
            budget: Budget::default(),
            rate: Some(rate),
            threshold: None,
            seed: 1,
            refit: Refit::WHOLE,
            calibration: None,
        };
        let zeroed = prune(dense, &request, Meter::new(&|_| ByteCount(0)), &mut |_| ());
        cuts.extend(zeroed.map(|pruned| pruned.graph));
    }
    cuts
}

/// Graphs of one layer of each kind, at a few widths.
fn singles() -> Vec<Graph> {
    let conv = |channels: usize, kernel: usize, groups: usize| {
        let attributes =
            [("group", Attribute::Int(groups as i64)), ("pads", Attribute::Ints(vec![kernel as i64 / 2; 4]))];
        single("Conv", &[1, channels, 14, 14], &[channels, channels / groups, kernel, kernel], &attributes)
    };
    let product =
        |width: usize| single("Gemm", &[1, width], &[width, width], &[("transB", Attribute::Int(1))]);
    let widths = [16, 48].into_iter().flat_map(|channels| {
        [conv(channels, 3, 1), conv(2 * channels, 1, 1), conv(2 * channels, 3, 2 * channels)]
    });
    widths.chain([128, 512].map(product)).collect()
}

/// A graph of one layer whose input has the shape `input` and whose weights the shape `weights`.
fn single(op: &str, input: &[usize], weights: &[usize], attributes: &[(&str, Attribute)]) -> Graph {
    let value = |name: &str, shape: Option<&[usize]>| ValueInfo {
        name: name.into(),
        dtype: 1,
        shape: shape.map(|shape| shape.iter().map(|&length| Dim::Fixed(length)).collect()),
    };
    let values = probe_input(1, weights.iter().product()).iter().map(|value| value - 0.5).collect();
    let node = Node {
        op: op.into(),
        inputs: vec!["x".into(), "w".into()],
        outputs: vec!["y".into()],
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Node::default()
    };
    Graph {
        ir_version: 8,
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("x", Some(input))],
        outputs: vec![value("y", None)],
        nodes: vec![node],
        initializers: Tensor::f32(weights, values)
            .into_iter()
            .map(|w| ("w".to_owned(), w))
            .collect::<BTreeMap<_, _>>(),
        ..Graph::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_runs_every_single_layer() {
        for graph in singles() {
            let session = Session::load(&graph).unwrap();
            let input = probe_input(2, session.input_shape().iter().product());
            assert!(session.run(&input).unwrap().iter().any(|&value| value != 0.0));
            assert!(amounts(&graph, 8).unwrap().iter().sum::<f64>() > 1e3);
        }
    }
}
