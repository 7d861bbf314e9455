//! Structured pruning: channels go along one path until every budget holds.

use std::collections::HashSet;

use secateur_common::{Budget, Violation};
use secateur_model::groups::{self, Groups, KeepSets, Role};
use secateur_model::timing::Timing;
use secateur_model::{Graph, Tensor, fold, shape};

use crate::allocate::allocate;
use crate::curves::curves;
use crate::measure::{self, violations};
use crate::observe::{Observed, observe, sampled};
use crate::oracle::{self, unrunnable};
use crate::path::Path;
use crate::refit::{Cut, fit_layers};
use crate::trace::{Trace, score};
use crate::widths::{Prices, Widths};
use crate::{Kept, Meter, Method, Progress, PruneError, Pruned, Refit, Request, tune};

pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    meter: Meter<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let family = Family::new(dense, request.method, request.seed, request.calibration, progress)?;
    if !request.budget.is_empty() {
        let pruned = family.to_budget(&request.budget, request.refit, meter, progress)?;
        return Ok(Pruned { threshold: request.threshold, ..pruned });
    }
    let path = family.path()?;
    let steps = steps_asked(request, &path)?;
    let graph = family.build(&path, steps)?;
    let (graph, kept) = family.finished(graph, &path.keep(&family.groups, steps), request.refit, progress)?;
    let graph = family.tuned(graph, request.refit, progress)?;
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
    pub(crate) method: Method,
    pub(crate) seed: u64,
    pub(crate) graph: Graph,
    pub(crate) groups: Groups,
    pub(crate) traces: Vec<Trace>,
    /// For `obs`: what a refit is made from, and what each group's channels are worth.
    pub(crate) observed: Option<Observed>,
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
        let (graph, groups) = grouped(dense, method)?;
        let observed = match calibration.filter(|_| method.needs_calibration()) {
            Some(data) => Some(observe(&graph, sampled(&graph, data)?, takes_in(&groups), progress)?),
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

    /// The variant that keeps every limit of `budget` at the least loss.
    ///
    /// # Errors
    /// [`PruneError::Infeasible`] names the limit that cannot be kept and the smallest that can.
    pub fn to_budget(
        &self,
        budget: &Budget,
        refit: Refit,
        meter: Meter<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Pruned, PruneError> {
        measure::supported(budget, meter)?;
        crate::check_share(refit.share)?;
        progress(Progress { stage: "allocate", done: 0, total: 1 });
        let (path, mut steps, mut graph) = allocate(self, budget, meter)?;
        progress(Progress { stage: "allocate", done: 1, total: 1 });
        loop {
            let keep = path.keep(&self.groups, steps);
            let (fitted, kept) = self.finished(graph, &keep, refit, progress)?;
            // A refit turns zeros into numbers and numbers into longer ones: what held before must hold after.
            match (violations(&fitted, budget, meter)?.first(), steps < path.len()) {
                (None, _) => {
                    let tuned = self.tuned(fitted.clone(), refit, progress)?;
                    let holds = violations(&tuned, budget, meter)?.is_empty();
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

    /// `graph`, which is the dense one but for its weights' values, as this family's graph was made from that.
    pub(crate) fn as_prepared(&self, graph: &Graph) -> Graph {
        prepared(graph, self.method)
    }

    /// A cut graph once the oracle has held and its layers are refitted, and what of each group it keeps.
    fn finished(
        &self,
        mut graph: Graph,
        keep: &KeepSets,
        refit: Refit,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Graph, Vec<Kept>), PruneError> {
        oracle::check(&self.graph, &self.groups, keep, &graph, self.seed)?;
        self.refit(&mut graph, keep, None, refit, progress)?;
        Ok((graph, self.kept(keep)))
    }

    /// The path along which channels go where multiply-accumulates are what counts.
    pub(crate) fn path(&self) -> Result<Path, PruneError> {
        Ok(self.path_by(&self.widths(None)?, &Prices::MACS, 1))
    }

    /// The path along which they go at `prices`, widths rounded up to multiples of `lanes`.
    pub(crate) fn path_by(&self, widths: &Widths, prices: &Prices, lanes: usize) -> Path {
        match &self.curves {
            Some(curves) => Path::by_gain(&self.traces, curves, widths, prices, lanes),
            None => Path::by_score(&self.traces, lanes),
        }
    }

    pub(crate) fn widths(&self, timing: Option<&Timing>) -> Result<Widths, PruneError> {
        Widths::new(&self.graph, &self.groups, &self.traces, timing)
    }

    pub(crate) fn build(&self, path: &Path, steps: usize) -> Result<Graph, PruneError> {
        groups::cut(&self.graph, &self.groups, &path.keep(&self.groups, steps)).map_err(unrunnable)
    }

    pub(crate) fn refit(
        &self,
        graph: &mut Graph,
        keep: &KeepSets,
        held: Option<(&Graph, &KeepSets)>,
        refit: Refit,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), PruneError> {
        let Some(observed) = &self.observed else { return Ok(()) };
        let cut = Cut { dense: &self.graph, groups: &self.groups, keep, held };
        let images = if refit.tunes() { tune::learnt(observed) } else { observed.images() };
        let how = (images.min(refit.inputs), refit.share, refit.takeover);
        fit_layers(graph, &cut, observed, how, &mut |done, total| {
            progress(Progress { stage: "refit", done, total })
        })
    }

    /// A refitted graph with all its layers tuned together, where a refit may change all of them.
    pub(crate) fn tuned(
        &self,
        mut graph: Graph,
        refit: Refit,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Graph, PruneError> {
        if let Some(observed) = self.observed.as_ref().filter(|_| refit.tunes()) {
            tune::tune(&mut graph, &self.graph, observed, &mut |done, total| {
                progress(Progress { stage: "tune", done, total })
            })?;
        }
        Ok(graph)
    }

    pub(crate) fn kept(&self, keep: &KeepSets) -> Vec<Kept> {
        let pair = self.groups.groups.iter().zip(keep);
        pair.map(|(group, set)| Kept { group: group.name.clone(), kept: set.len(), of: group.channels })
            .collect()
    }
}

/// The graph as it is pruned, and its groups.
///
/// # Errors
/// Where no group has two channels.
pub(crate) fn grouped(dense: &Graph, method: Method) -> Result<(Graph, Groups), PruneError> {
    let graph = prepared(dense, method);
    let shapes = shape::infer(&graph, 1).map_err(unrunnable)?;
    let groups = groups::find(&graph, &shapes);
    match groups.groups.iter().all(|group| group.channels < 2) {
        true => Err(nothing_prunable(&groups)),
        false => Ok((graph, groups)),
    }
}

fn prepared(dense: &Graph, method: Method) -> Graph {
    let mut graph = dense.clone();
    groups::prepare(&mut graph);
    if method == Method::Obs {
        fold::batch_norms(&mut graph); // the refit corrects what they would
    }
    graph
}

/// Whether a tensor of weights takes in channels of a group.
pub(crate) fn takes_in(groups: &Groups) -> impl Fn(&str) -> bool {
    let sites = groups.groups.iter().flat_map(|group| &group.sites);
    let consumers = sites.filter(|site| site.role == Role::Consumer);
    let tensors: HashSet<&str> = consumers.map(|site| site.tensor.as_str()).collect();
    move |weights| tensors.contains(weights)
}

fn nothing_prunable(groups: &Groups) -> PruneError {
    let reasons: Vec<_> =
        groups.frozen.iter().take(4).map(|f| format!("`{}`: {}", f.tensor, f.reason)).collect();
    let reasons = if reasons.is_empty() { "it has no layers".into() } else { reasons.join("; ") };
    PruneError::NothingPrunable { reasons }
}
