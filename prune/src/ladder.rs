//! The ladder: nested rungs, each cut from the one above as devices hold it. So what a step down changes is the cut and what
//! the refit moves, and a device that goes down rung by rung is shipped just that.

use secateur_common::{Budget, ByteCount, Metric};
use secateur_model::groups::{self, Groups, KeepSets};
use secateur_model::{Graph, shape};

use crate::channels::Family;
use crate::measure::{cost_of, first_within};
use crate::oracle::{self, unrunnable};
use crate::{Meter, Progress, PruneError, Refit, Rung, Sensitivity};

/// A graph as devices hold it, given what it was before its refit, if it is below another.
type Settle<'a> = &'a dyn Fn(&Graph, Option<&Graph>) -> Result<Graph, PruneError>;

/// What a rung is made for.
pub struct Holder<'a> {
    /// A variant as devices will hold it, such as on a quantiser's grid; with what it was before its refit, if it is below
    /// another.
    pub settle: Settle<'a>,
    /// What the step from a rung to the next one costs to ship; 1 is cheap enough.
    pub cost: &'a dyn Fn(&Graph, &Graph) -> f64,
}

impl Holder<'_> {
    /// One that holds all as it is, at any price.
    pub const PLAIN: Holder<'static> = Holder { settle: &|graph, _| Ok(graph.clone()), cost: &|_, _| 0.0 };
}

/// Where a step is too dear, the refit changes so much of what it changed;
const LESS: f64 = 0.7;
/// so often, at most;
const TRIES: usize = 4;
/// and as long as the answers are at most so many nats further from the dense ones than if all were refitted and tuned: about
/// half a point of accuracy.
const MAY_LOSE: f64 = 0.01;
/// A refit of less than all is worth its loss where the step costs this share of what it costs with all, at most.
const SAVES: f64 = 0.8;

impl Family {
    /// Dense first, then a nested rung for each of `shares` of the dense multiply-accumulates, falling, that can be
    /// reached. All are as `holder` settles them; where it cannot afford a step, the refit changes less.
    ///
    /// # Errors
    /// Where a rung cannot be built or run.
    pub fn rungs(
        &self,
        dense: &Graph,
        shares: &[f64],
        refit: Refit,
        holder: &Holder<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Rung>, PruneError> {
        let path = self.path()?;
        let keep = self.groups.keep_all();
        let top = (holder.settle)(dense, None)?;
        let mut above = Above::new(self.as_prepared(&top), keep.clone())?;
        // Budgets are shares of what the dense rung costs as it is held.
        let all = cost_of(&above.graph)?.macs.get() as f64;
        let mut rungs = vec![Rung { graph: top, label: "dense".into(), share: 1.0, kept: self.kept(&keep) }];
        let (mut last, mut part) = (0, refit.share);
        let dense_answers =
            self.observed.as_ref().map(|seen| Sensitivity::new(&self.graph, &seen.inputs)).transpose()?;
        for (done, &share) in shares.iter().enumerate() {
            progress(Progress { stage: "ladder", done, total: shares.len() });
            let budget = Budget::default().with(Metric::Macs, share * all);
            let within = first_within(path.len(), &budget, Meter::new(&|_| ByteCount(0)), |steps| {
                self.build(&path, steps)
            });
            let (steps, plain) = match within {
                Err(PruneError::Infeasible { .. }) => break,
                other => other?,
            };
            if steps <= last {
                continue;
            }
            last = steps;
            let keep = path.keep(&self.groups, steps);
            oracle::check(&self.graph, &self.groups, &keep, &plain, self.seed)?;
            let cut = above.cut(&keep)?.filter(|cut| same_shapes(cut, &plain)).unwrap_or(plain);
            // What a step could afford tells of the next one.
            let begin = Refit { share: (part / LESS).min(refit.share), ..refit };
            let step = Step { cut: &cut, above: &above, keep: &keep, holder };
            let (graph, share_refitted) = self.stepped(&step, begin, dense_answers.as_ref())?;
            part = share_refitted;
            let share_built = cost_of(&graph)?.macs.get() as f64 / all.max(1.0);
            above = Above::new(graph.clone(), keep.clone())?;
            let label = format!("macs {:.0}%", share * 100.0);
            rungs.push(Rung { graph, label, share: share_built, kept: self.kept(&keep) });
        }
        progress(Progress { stage: "ladder", done: shares.len(), total: shares.len() });
        Ok(rungs)
    }

    /// The rung that a step leads to, and the share of its weights that may be refitted in the next one: the first that is
    /// cheap enough and the cheapest otherwise, of those whose answers are not much worse than if all were refitted and
    /// tuned. Where nothing saves much, all are.
    fn stepped(
        &self,
        step: &Step<'_>,
        mut refit: Refit,
        dense: Option<&Sensitivity<'_>>,
    ) -> Result<(Graph, f64), PruneError> {
        let Some(dense) = dense else { return Ok((self.tried(step, refit)?, refit.share)) };
        let cost = |graph: &Graph| (step.holder.cost)(&step.above.graph, graph);
        let whole = self.tried(step, Refit { share: 1.0, tune: true, ..refit })?;
        let dear = cost(&whole);
        if dear <= 1.0 {
            return Ok((whole, refit.share));
        }
        let most = dense.divergence(&whole)? + MAY_LOSE;
        let (mut best, mut least) = (None, SAVES * dear);
        let mut next = Refit { takeover: true, share: 0.0, ..refit };
        for _ in 0..TRIES {
            let graph = self.tried(step, next)?;
            let (good, cost) = (dense.divergence(&graph)? <= most, cost(&graph));
            if good && cost < least {
                (best, least) = (Some((graph, refit.share)), cost);
            }
            match (next.share > 0.0, good) {
                (false, _) => next = Refit { takeover: !good, ..refit },
                (true, true) => next.share *= LESS,
                (true, false) => next.share /= LESS,
            }
            if least <= 1.0 || next.share >= 1.0 {
                break;
            }
            refit.share = next.share;
        }
        Ok(best.unwrap_or((whole, refit.share)))
    }

    /// What a step leads to with a refit, as it is held.
    fn tried(&self, step: &Step<'_>, refit: Refit) -> Result<Graph, PruneError> {
        let mut graph = step.cut.clone();
        self.refit(&mut graph, step.keep, Some((&step.above.graph, &step.above.keep)), refit, &mut |_| ())?;
        (step.holder.settle)(&self.tuned(graph, refit, &mut |_| ())?, Some(step.cut))
    }
}

/// A step down: from the rung above to a cut of it that keeps so much of the dense graph.
struct Step<'a> {
    cut: &'a Graph,
    above: &'a Above,
    keep: &'a KeepSets,
    holder: &'a Holder<'a>,
}

/// The rung from which the next one is cut.
struct Above {
    graph: Graph,
    groups: Groups,
    /// What it keeps of the dense graph's channels.
    keep: KeepSets,
}

impl Above {
    fn new(graph: Graph, keep: KeepSets) -> Result<Self, PruneError> {
        let shapes = shape::infer(&graph, 1).map_err(unrunnable)?;
        Ok(Self { groups: groups::find(&graph, &shapes), graph, keep })
    }

    /// The part of it that keeps `keep` of the dense graph's channels; none where its groups are others than the dense
    /// graph's.
    fn cut(&self, keep: &KeepSets) -> Result<Option<Graph>, PruneError> {
        let within = |(had, keep): (&Vec<usize>, &Vec<usize>)| -> Option<Vec<usize>> {
            keep.iter().map(|channel| had.binary_search(channel).ok()).collect()
        };
        // Of a branch that is gone no group is left.
        let left = self.keep.iter().zip(keep).filter(|(had, _)| !had.is_empty());
        let widths = self.groups.groups.iter().map(|group| group.channels);
        if !widths.eq(left.clone().map(|(had, _)| had.len())) {
            return Ok(None);
        }
        let Some(keep) = left.map(within).collect() else { return Ok(None) };
        groups::cut(&self.graph, &self.groups, &keep).map(Some).map_err(unrunnable)
    }
}

fn same_shapes(a: &Graph, b: &Graph) -> bool {
    b.initializers.iter().all(|(name, b)| a.initializers.get(name).is_some_and(|a| a.shape() == b.shape()))
}
