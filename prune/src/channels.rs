//! Structured pruning: channels go along one path until the budget holds.

use secateur_common::{Budget, ByteCount, Metric, Violation};
use secateur_model::groups::{self, Groups, KeepSets};
use secateur_model::shape;
use secateur_model::{Graph, Tensor, fold};

use crate::measure::{cost_of, first_within, violations};
use crate::oracle::{self, unrunnable};
use crate::order::Path;
use crate::refit;
use crate::{Kept, LadderOptions, Method, Progress, PruneError, Pruned, Request, Rung, Sizer};

pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    sizer: Sizer<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let paths = Paths::new(dense, request.method, request.seed)?;
    progress(Progress { stage: "allocate", done: 0, total: 1 });
    let (steps, graph) = if request.budget.is_empty() {
        let steps = steps_asked(request, &paths.path)?;
        (steps, paths.build(steps)?)
    } else {
        first_within(paths.path.len(), &request.budget, sizer, |steps| paths.build(steps))?
    };
    progress(Progress { stage: "allocate", done: 1, total: 1 });
    let (mut steps, mut graph) = (steps, graph);
    loop {
        let kept = paths.checked(&graph, steps, request.seed)?;
        paths.refit(&mut graph, steps, request.into(), progress)?;
        // A refit turns zeros into numbers and numbers into longer ones: what held before must hold after.
        match (violations(&graph, &request.budget, sizer)?.first(), steps < paths.path.len()) {
            (None, _) => {
                return Ok(Pruned { graph, method: request.method, kept, threshold: request.threshold });
            }
            (Some(&Violation { metric, limit, actual }), false) => {
                return Err(PruneError::Infeasible { metric, limit, smallest: actual });
            }
            (Some(_), true) => {
                steps = (steps + paths.path.len().div_ceil(64)).min(paths.path.len());
                graph = paths.build(steps)?;
            }
        }
    }
}

pub(crate) fn ladder(
    dense: &Graph,
    options: &LadderOptions<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Rung>, PruneError> {
    let paths = Paths::new(dense, options.method, options.seed)?;
    let all = cost_of(&paths.graph, None)?.macs.get() as f64;
    let mut rungs = vec![Rung {
        graph: dense.clone(),
        label: "dense".into(),
        share: 1.0,
        kept: paths.kept(&paths.groups.keep_all()),
    }];
    let mut last = 0;
    for (done, &share) in options.shares.iter().enumerate() {
        progress(Progress { stage: "ladder", done, total: options.shares.len() });
        let budget = Budget::default().with(Metric::Macs, share * all);
        let within = first_within(paths.path.len(), &budget, &|_| ByteCount(0), |steps| paths.build(steps));
        let (steps, mut graph) = match within {
            Err(PruneError::Infeasible { .. }) => break,
            other => other?,
        };
        if steps <= last {
            continue;
        }
        last = steps;
        let kept = paths.checked(&graph, steps, options.seed)?;
        paths.refit(&mut graph, steps, options.into(), &mut |_| ())?;
        let share_built = cost_of(&graph, None)?.macs.get() as f64 / all.max(1.0);
        rungs.push(Rung { graph, label: format!("macs {:.0}%", share * 100.0), share: share_built, kept });
    }
    progress(Progress { stage: "ladder", done: options.shares.len(), total: options.shares.len() });
    Ok(rungs)
}

/// Steps for a rate or threshold where no budget is given.
fn steps_asked(request: &Request<'_>, path: &Path) -> Result<usize, PruneError> {
    match (request.method, request.rate, request.threshold) {
        (Method::Threshold, _, Some(threshold)) => Ok(path.under(f64::from(threshold))),
        (Method::Threshold, _, None) | (_, None, _) => Err(PruneError::NoTarget),
        (_, Some(rate), _) if (0.0..1.0).contains(&rate) => Ok(match request.method {
            Method::Random => path.under(rate - 1e-9),
            _ => (path.len() as f64 * rate).round() as usize,
        }),
        (_, Some(rate), _) => {
            let got = rate.to_string();
            Err(PruneError::BadOption { what: "rate", got, expected: "from 0 to below 1" })
        }
    }
}

/// What a refit is made from; no calibration data where the method has none.
struct Refit<'a> {
    calibration: Option<&'a Tensor>,
    share: f64,
}

impl<'a> From<&Request<'a>> for Refit<'a> {
    fn from(request: &Request<'a>) -> Self {
        let calibration = request.calibration.filter(|_| request.method == Method::Obs);
        Self { calibration, share: request.refit_share }
    }
}

impl<'a> From<&LadderOptions<'a>> for Refit<'a> {
    fn from(options: &LadderOptions<'a>) -> Self {
        let calibration = options.calibration.filter(|_| options.method == Method::Obs);
        Self { calibration, share: options.refit_share }
    }
}

/// A graph that is ready to be cut, and the path along which its channels go.
struct Paths {
    graph: Graph,
    groups: Groups,
    path: Path,
}

impl Paths {
    fn new(dense: &Graph, method: Method, seed: u64) -> Result<Self, PruneError> {
        let mut graph = dense.clone();
        groups::prepare(&mut graph);
        if method == Method::Obs {
            fold::batch_norms(&mut graph); // the refit corrects what they would
        }
        let shapes = shape::infer(&graph, 1).map_err(unrunnable)?;
        let groups = groups::find(&graph, &shapes);
        let path = Path::new(&graph, &groups, method, seed)?;
        if path.len() == 0 {
            let reasons: Vec<_> =
                groups.frozen.iter().take(4).map(|f| format!("`{}`: {}", f.tensor, f.reason)).collect();
            let reasons = if reasons.is_empty() { "it has no layers".into() } else { reasons.join("; ") };
            return Err(PruneError::NothingPrunable { reasons });
        }
        Ok(Self { graph, groups, path })
    }

    fn build(&self, steps: usize) -> Result<Graph, PruneError> {
        groups::cut(&self.graph, &self.groups, &self.path.keep(&self.groups, steps)).map_err(unrunnable)
    }

    fn refit(
        &self,
        graph: &mut Graph,
        steps: usize,
        how: Refit<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), PruneError> {
        let Some(calibration) = how.calibration.filter(|_| steps > 0) else { return Ok(()) };
        let keep = self.path.keep(&self.groups, steps);
        let mut told = |done, total| progress(Progress { stage: "refit", done, total });
        refit::refit(&self.graph, graph, &self.groups, &keep, calibration, how.share, &mut told)
    }

    /// What is kept after `steps`, once the oracle has held for `graph`.
    fn checked(&self, graph: &Graph, steps: usize, seed: u64) -> Result<Vec<Kept>, PruneError> {
        let keep = self.path.keep(&self.groups, steps);
        oracle::check(&self.graph, &self.groups, &keep, graph, seed)?;
        Ok(self.kept(&keep))
    }

    fn kept(&self, keep: &KeepSets) -> Vec<Kept> {
        let pair = self.groups.groups.iter().zip(keep);
        pair.map(|(group, set)| Kept { group: group.name.clone(), kept: set.len(), of: group.channels })
            .collect()
    }
}
