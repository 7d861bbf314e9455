//! Structured pruning: channels go along one path until every budget holds.

use std::collections::HashSet;

use secateur_common::{Budget, ByteCount, Metric, Violation};
use secateur_model::groups::{self, Groups, KeepSets, Role};
use secateur_model::{Graph, Tensor, cost, fold, shape};

use crate::allocate::allocate;
use crate::curves::curves;
use crate::measure::{self, cost_of, first_within, violations};
use crate::observe::{Observed, observe};
use crate::oracle::{self, unrunnable};
use crate::path::Path;
use crate::refit::{Cut, refit};
use crate::trace::{Trace, score};
use crate::tune::tune;
use crate::widths::{Prices, Widths};
use crate::{Kept, Method, Progress, PruneError, Pruned, Request, Rung, Sizer};

pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    sizer: Sizer<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let family = Family::new(dense, request.method, request.seed, request.calibration, progress)?;
    if !request.budget.is_empty() {
        let pruned = family.to_budget(&request.budget, request.refit_share, sizer, progress)?;
        return Ok(Pruned { threshold: request.threshold, ..pruned });
    }
    let path = family.path(Prices::MACS);
    let steps = steps_asked(request, &path)?;
    let graph = family.build(&path, steps)?;
    let (graph, kept) =
        family.finished(graph, &path.keep(&family.groups, steps), request.refit_share, progress)?;
    let graph = family.tuned(graph, request.refit_share, progress)?;
    Ok(Pruned { graph, method: request.method, kept, threshold: request.threshold })
}

/// Steps for a rate or threshold where no budget is given.
fn steps_asked(request: &Request<'_>, path: &Path) -> Result<usize, PruneError> {
    match (request.method, request.rate, request.threshold) {
        (Method::Threshold, _, Some(threshold)) => Ok(path.under(f64::from(threshold))),
        (Method::Threshold, _, None) | (_, None, _) => Err(PruneError::NoTarget),
        (_, Some(rate), _) if (0.0..1.0).contains(&rate) => Ok((path.len() as f64 * rate).round() as usize),
        (_, Some(rate), _) => {
            let got = rate.to_string();
            Err(PruneError::BadOption { what: "rate", got, expected: "from 0 to below 1" })
        }
    }
}

/// A model's family of variants: all that the choice of what goes is made from, taken once. Each variant is then a
/// point of a path, cut and refitted.
pub struct Family {
    method: Method,
    seed: u64,
    pub(crate) graph: Graph,
    pub(crate) groups: Groups,
    traces: Vec<Trace>,
    /// For `obs`: what a refit is made from, and what each group's channels are worth.
    observed: Option<Observed>,
    pub(crate) curves: Option<Vec<Vec<f64>>>,
}

impl Family {
    /// Finds the groups of `dense`, takes statistics on `calibration` where the method asks for it, and ranks channels.
    ///
    /// # Errors
    /// [`PruneError`]: nothing prunable, bad weights or calibration data.
    pub fn new(
        dense: &Graph,
        method: Method,
        seed: u64,
        calibration: Option<&Tensor>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, PruneError> {
        crate::check(dense, calibration, method)?;
        let mut graph = dense.clone();
        groups::prepare(&mut graph);
        if method == Method::Obs {
            fold::batch_norms(&mut graph); // the refit corrects what they would
        }
        let shapes = shape::infer(&graph, 1).map_err(unrunnable)?;
        let groups = groups::find(&graph, &shapes);
        if groups.groups.iter().all(|group| group.channels < 2) {
            return Err(nothing_prunable(&groups));
        }
        let observed = match calibration.filter(|_| method.needs_calibration()) {
            Some(data) => {
                let sites = groups.groups.iter().flat_map(|group| &group.sites);
                let takes_in: HashSet<&str> = sites
                    .filter(|site| site.role == Role::Consumer)
                    .map(|site| site.tensor.as_str())
                    .collect();
                Some(observe(&graph, data, |weights| takes_in.contains(weights), progress)?)
            }
            None => None,
        };
        let mut score = score(method, seed, observed.as_ref());
        let mut traces: Vec<Trace> = Vec::with_capacity(groups.groups.len());
        for (done, group) in groups.groups.iter().enumerate() {
            progress(Progress { stage: "scores", done, total: groups.groups.len() });
            traces.push(score.trace(&graph, group));
        }
        drop(score);
        let observed = observed.filter(|_| method == Method::Obs);
        let curves = match &observed {
            Some(observed) => Some(curves(&graph, &groups, &traces, observed, progress)?),
            None => None,
        };
        Ok(Self { method, seed, graph, groups, traces, observed, curves })
    }

    /// Dense first, then a nested rung for each of `shares` of the dense multiply-accumulates, falling, that can be
    /// reached.
    ///
    /// # Errors
    /// Where a rung cannot be built or run.
    pub fn rungs(
        &self,
        dense: &Graph,
        shares: &[f64],
        refit_share: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Rung>, PruneError> {
        let path = self.path(Prices::MACS);
        let all = cost_of(&self.graph, None)?.macs.get() as f64;
        let kept = self.kept(&self.groups.keep_all());
        let mut rungs = vec![Rung { graph: dense.clone(), label: "dense".into(), share: 1.0, kept }];
        let mut last = 0;
        for (done, &share) in shares.iter().enumerate() {
            progress(Progress { stage: "ladder", done, total: shares.len() });
            let budget = Budget::default().with(Metric::Macs, share * all);
            let within =
                first_within(path.len(), &budget, &|_| ByteCount(0), |steps| self.build(&path, steps));
            let (steps, graph) = match within {
                Err(PruneError::Infeasible { .. }) => break,
                other => other?,
            };
            if steps <= last {
                continue;
            }
            last = steps;
            let keep = path.keep(&self.groups, steps);
            let (graph, kept) = self.finished(graph, &keep, refit_share, &mut |_| ())?;
            let graph = self.tuned(graph, refit_share, &mut |_| ())?;
            let share_built = cost_of(&graph, None)?.macs.get() as f64 / all.max(1.0);
            rungs.push(Rung {
                graph,
                label: format!("macs {:.0}%", share * 100.0),
                share: share_built,
                kept,
            });
        }
        progress(Progress { stage: "ladder", done: shares.len(), total: shares.len() });
        Ok(rungs)
    }

    /// The variant that keeps every limit of `budget` at the least loss.
    ///
    /// # Errors
    /// [`PruneError::Infeasible`] names the limit that cannot be kept and the smallest that can.
    pub fn to_budget(
        &self,
        budget: &Budget,
        refit_share: f64,
        sizer: Sizer<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Pruned, PruneError> {
        measure::supported(budget)?;
        crate::check_share(refit_share)?;
        progress(Progress { stage: "allocate", done: 0, total: 1 });
        let (path, mut steps, mut graph) = allocate(self, budget, sizer)?;
        progress(Progress { stage: "allocate", done: 1, total: 1 });
        loop {
            let keep = path.keep(&self.groups, steps);
            let (fitted, kept) = self.finished(graph, &keep, refit_share, progress)?;
            // A refit turns zeros into numbers and numbers into longer ones: what held before must hold after.
            match (violations(&fitted, budget, sizer)?.first(), steps < path.len()) {
                (None, _) => {
                    let tuned = self.tuned(fitted.clone(), refit_share, progress)?;
                    let holds = violations(&tuned, budget, sizer)?.is_empty();
                    let graph = if holds { tuned } else { fitted };
                    return Ok(Pruned { graph, method: self.method, kept, threshold: None });
                }
                (Some(&Violation { metric, limit, actual }), false) => {
                    return Err(PruneError::Infeasible { metric, limit, smallest: actual });
                }
                (Some(_), true) => {
                    steps = (steps + path.len().div_ceil(64)).min(path.len());
                    graph = self.build(&path, steps)?;
                }
            }
        }
    }

    /// A cut graph once the oracle has held and its layers are refitted, and what of each group it keeps.
    fn finished(
        &self,
        mut graph: Graph,
        keep: &KeepSets,
        refit_share: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Graph, Vec<Kept>), PruneError> {
        oracle::check(&self.graph, &self.groups, keep, &graph, self.seed)?;
        self.refit(&mut graph, keep, refit_share, progress)?;
        Ok((graph, self.kept(keep)))
    }

    /// The path along which channels go.
    pub(crate) fn path(&self, prices: Prices) -> Path {
        match (&self.curves, cost::analyse(&self.graph)) {
            (Some(curves), Ok(analysis)) => {
                let widths = Widths::new(&self.graph, &analysis, &self.groups, &self.traces);
                Path::by_gain(&self.traces, curves, &widths, &prices)
            }
            _ => Path::by_score(&self.traces),
        }
    }

    pub(crate) fn build(&self, path: &Path, steps: usize) -> Result<Graph, PruneError> {
        groups::cut(&self.graph, &self.groups, &path.keep(&self.groups, steps)).map_err(unrunnable)
    }

    fn refit(
        &self,
        graph: &mut Graph,
        keep: &KeepSets,
        share: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), PruneError> {
        let Some(observed) = &self.observed else { return Ok(()) };
        let cut = Cut { dense: &self.graph, groups: &self.groups, keep };
        refit(graph, &cut, observed, share, &mut |done, total| {
            progress(Progress { stage: "refit", done, total })
        })
    }

    /// A refitted graph with all its layers tuned together, where a refit may change all of them.
    fn tuned(
        &self,
        mut graph: Graph,
        refit_share: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Graph, PruneError> {
        if let Some(observed) = self.observed.as_ref().filter(|_| refit_share == 1.0) {
            tune(&mut graph, &self.graph, observed, &mut |done, total| {
                progress(Progress { stage: "tune", done, total })
            })?;
        }
        Ok(graph)
    }

    fn kept(&self, keep: &KeepSets) -> Vec<Kept> {
        let pair = self.groups.groups.iter().zip(keep);
        pair.map(|(group, set)| Kept { group: group.name.clone(), kept: set.len(), of: group.channels })
            .collect()
    }
}

fn nothing_prunable(groups: &Groups) -> PruneError {
    let reasons: Vec<_> =
        groups.frozen.iter().take(4).map(|f| format!("`{}`: {}", f.tensor, f.reason)).collect();
    let reasons = if reasons.is_empty() { "it has no layers".into() } else { reasons.join("; ") };
    PruneError::NothingPrunable { reasons }
}
