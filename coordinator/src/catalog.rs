//! Models and their ladders: built once, each rung published, evaluated and kept by its digest.

use std::cell::RefCell;
use std::sync::Arc;

use secateur_common::{Accuracy, Budget, Digest, Generation, Metric, ModelName, VariantId};
use secateur_engine::{Dataset, Session, evaluate};
use secateur_model::{Graph, canonical, cost, onnx};
use secateur_plan::{Ladder, Rung, RungRequest};
use secateur_prune::{Holder, Meter, PruneError, Refit};
use secateur_update as update;
use serde::{Deserialize, Serialize};

use crate::families::Families;
use crate::precision::Precision;
use crate::store::{Change, Store, records};
use crate::{Config, CoordinatorError};

/// A registered model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct ModelRecord {
    pub(crate) ladder: Ladder,
    /// Digest of the ONNX file as it was given.
    pub(crate) file: Digest,
    /// Calibration data as it was given, for rungs on demand.
    pub(crate) calibration: Digest,
    /// Validation data as it was given, if it was.
    pub(crate) validation: Option<Digest>,
    /// How exactly its weights are published.
    #[serde(default)]
    pub(crate) precision: Precision,
}

impl ModelRecord {
    /// Whether it was made of what is given.
    pub(crate) fn is_of(&self, new: &NewModel) -> bool {
        let given = |bytes: &Vec<u8>| (!bytes.is_empty()).then(|| Digest::of(bytes));
        Digest::of(&new.onnx) == self.file
            && Digest::of(&new.calibration) == self.calibration
            && given(&new.validation) == self.validation
    }

    /// Under what its family is kept.
    pub(crate) fn family(&self) -> Digest {
        Families::key(self.file, self.calibration)
    }
}

/// What an operator gives to register a model.
#[derive(Debug, Default)]
pub(crate) struct NewModel {
    pub(crate) onnx: Vec<u8>,
    pub(crate) calibration: Vec<u8>,
    pub(crate) validation: Vec<u8>,
}

/// Told stage, done and total.
pub(crate) type OnProgress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Seed of the oracle's inputs and of the self-test's.
pub(crate) const SEED: u64 = 0x5eca_7e02;
/// Calibration inputs on which agreement with the dense model is taken where there is no validation data.
const AGREEMENT_SAMPLES: usize = 512;

/// A rung that is ready to be kept: the record's part and the published graph.
struct Made {
    rung: Rung,
    graph: Graph,
}

/// Builds the ladder of a new model. Slow: seconds to minutes.
pub(crate) fn build(
    name: &ModelName,
    new: NewModel,
    config: &Config,
    families: &Families,
    store: &dyn Store,
    progress: OnProgress<'_>,
) -> Result<(ModelRecord, Vec<Change>), CoordinatorError> {
    let dense = onnx::read(&new.onnx).map_err(|error| CoordinatorError::bad("the model", error))?;
    let calibration = dataset("the calibration data", &new.calibration)?;
    let validation =
        (!new.validation.is_empty()).then(|| dataset("the validation data", &new.validation)).transpose()?;
    let inputs = calibration.inputs();
    let failed = |error: PruneError| CoordinatorError::bad("the model", error);
    let mut told = |p: secateur_prune::Progress| progress(p.stage, p.done, p.total);
    let key = Families::key(Digest::of(&new.onnx), Digest::of(&new.calibration));
    let family = families.get(key, store, &dense, &inputs, &mut told).map_err(failed)?;
    let precision = RefCell::new(Precision::default());
    let settle = |graph: &Graph, before: Option<&Graph>| {
        precision.borrow_mut().settle(graph, before, &inputs, config.bounds())
    };
    let holder = Holder { settle: &settle, cost: &step_cost };
    let rungs = family.rungs(&dense, &config.ladder, Refit::SHIPPED, &holder, &mut told).map_err(failed)?;
    let judge = Judge::new(&dense, &calibration, validation.as_ref())?;
    let total = rungs.len();
    let mut made = Vec::new();
    for (index, rung) in rungs.into_iter().enumerate() {
        progress("publishing rungs", index, total);
        made.push(make(rung.graph, rung.label, &judge)?);
    }
    progress("publishing rungs", total, total);
    let mut changes: Vec<Change> = made.iter().map(blob_of).collect();
    let keep = |bytes: Vec<u8>| (Digest::of(&bytes), bytes);
    let mut record = ModelRecord {
        ladder: Ladder { model: name.clone(), rungs: Vec::new(), floors: Vec::new() },
        file: Digest::of(&new.onnx),
        calibration: Digest::of(&new.calibration),
        validation: (!new.validation.is_empty()).then(|| Digest::of(&new.validation)),
        precision: precision.into_inner(),
    };
    for (digest, bytes) in [new.onnx, new.calibration, new.validation].map(keep) {
        changes.push(records::put_blob(digest, bytes));
    }
    for made in made {
        if record.ladder.find(made.rung.variant).is_none() {
            record.ladder.rungs.push(made.rung);
        }
    }
    Ok((record, changes))
}

/// A step down a ladder costs a device this share of the lower rung's full bytes, at most,
const STEP_SHARE: f64 = 0.1;
/// or about what the session does in which it comes: below, a refit that changes less would save nobody anything.
const STEP_BYTES: f64 = 4096.0;

/// What the update from a rung to the one below costs; 1 is small enough.
pub fn step_cost(above: &Graph, rung: &Graph) -> f64 {
    let enough = STEP_BYTES.max(STEP_SHARE * update::stored_bytes(rung).get() as f64);
    let step = update::encode(Some(above), rung, Generation(0));
    step.map_or(f64::INFINITY, |step| step.len() as f64 / enough)
}

/// What came of a request for a rung.
pub(crate) enum Answer {
    /// A rung; `floors` holds limits that it could not keep after all.
    Made { rung: Box<Rung>, changes: Vec<Change>, floors: Vec<(Metric, f64)> },
    /// No rung can keep the request; the smallest values that can be reached.
    OutOfReach(Vec<(Metric, f64)>),
}

/// Prunes a rung to a request. Slow: a second or so.
pub(crate) fn on_demand(
    record: &ModelRecord,
    request: &RungRequest,
    store: &Arc<dyn Store>,
    config: &Config,
    families: &Families,
) -> Result<Answer, CoordinatorError> {
    let dense =
        onnx::read(&records::blob(store, record.file)?).map_err(|e| CoordinatorError::bad("the model", e))?;
    let calibration = dataset("the calibration data", &records::blob(store, record.calibration)?)?;
    let validation = match record.validation {
        Some(digest) => Some(dataset("the validation data", &records::blob(store, digest)?)?),
        None => None,
    };
    let inputs = calibration.inputs();
    let mut precision = record.precision.clone();
    let sizer = |graph: &Graph| update::stored_bytes(&record.precision.publish(graph, None, config.bounds()));
    let unreachable = |asked: &Budget| asked.iter().map(|(metric, limit)| (metric, limit * 1.001)).collect();
    let key = record.family();
    let family = families.get(key, &**store, &dense, &inputs, &mut |_| ());
    let meter = Meter::new(&sizer);
    let pruned =
        family.and_then(|family| family.to_budget(&request.budget, Refit::ON_DEMAND, meter, &mut |_| ()));
    let pruned = match pruned {
        Ok(pruned) => pruned,
        Err(PruneError::Infeasible { metric, limit, smallest }) => {
            return Ok(Answer::OutOfReach(vec![(metric, smallest.max(limit * 1.001))]));
        }
        Err(error) => {
            tracing::warn!(model = %record.ladder.model, budget = %request.budget, %error, "no rung on demand");
            return Ok(Answer::OutOfReach(unreachable(&request.budget)));
        }
    };
    let judge = Judge::new(&dense, &calibration, validation.as_ref())?;
    let settled = precision.settle(&pruned.graph, None, &inputs, config.bounds());
    let settled = settled.map_err(|error| CoordinatorError::bad("the model", error))?;
    let made = make(settled, format!("to {}", request.budget), &judge)?;
    let broken = request.budget.violations(|metric| made.rung.cost.metric(metric));
    let floors = broken.into_iter().map(|violation| (violation.metric, violation.actual)).collect();
    if record.ladder.find(made.rung.variant).is_some() {
        return Ok(Answer::OutOfReach(floors));
    }
    let changes = vec![blob_of(&made)];
    Ok(Answer::Made { rung: Box::new(made.rung), changes, floors })
}

/// The published graph of a variant.
pub(crate) fn graph(store: &Arc<dyn Store>, variant: VariantId) -> Result<Graph, CoordinatorError> {
    let bytes = records::blob(store, variant.0)?;
    onnx::read(&bytes).map_err(|error| CoordinatorError::bad("a stored variant", error))
}

fn blob_of(made: &Made) -> Change {
    records::put_blob(made.rung.variant.0, onnx::write(&made.graph))
}

/// A rung of a published graph: named by its digest, with what it costs and how well it answers.
fn make(graph: Graph, label: String, judge: &Judge<'_>) -> Result<Made, CoordinatorError> {
    let analysis = cost::analyse(&graph).map_err(|error| CoordinatorError::bad("the model", error))?;
    let cost = analysis.cost(update::stored_bytes(&graph));
    let rung =
        Rung { variant: canonical::variant_id(&graph), label, cost, accuracy: Some(judge.accuracy(&graph)?) };
    Ok(Made { rung, graph })
}

/// How well a variant answers: on validation data, or else how often it agrees with the dense model.
struct Judge<'a> {
    labelled: std::borrow::Cow<'a, Dataset>,
}

impl<'a> Judge<'a> {
    fn new(
        dense: &Graph,
        calibration: &Dataset,
        validation: Option<&'a Dataset>,
    ) -> Result<Self, CoordinatorError> {
        let bad = |error| CoordinatorError::bad("the calibration data", error);
        if let Some(labelled) = validation {
            if labelled.labels().is_none() {
                return Err(CoordinatorError::bad("the validation data", "it has no labels `y`"));
            }
            return Ok(Self { labelled: std::borrow::Cow::Borrowed(labelled) });
        }
        let session = Session::load(dense).map_err(|error| CoordinatorError::bad("the model", error))?;
        let inputs = calibration.subset(0..calibration.len().min(AGREEMENT_SAMPLES));
        let mut answers = Vec::with_capacity(inputs.len());
        for index in 0..inputs.len() {
            let output = session.run(inputs.sample(index)).map_err(bad)?;
            let best =
                output.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index);
            answers.push(best as i64);
        }
        Ok(Self { labelled: std::borrow::Cow::Owned(inputs.labelled(answers)) })
    }

    fn accuracy(&self, graph: &Graph) -> Result<Accuracy, CoordinatorError> {
        let bad = |error| CoordinatorError::bad("the model", error);
        let session = Session::load(graph).map_err(bad)?;
        evaluate(&session, &self.labelled, |_, _| {}).map_err(bad)
    }
}

fn dataset(what: &str, bytes: &[u8]) -> Result<Dataset, CoordinatorError> {
    let data = Dataset::from_npz(bytes).map_err(|error| CoordinatorError::bad(what, error))?;
    if data.is_empty() { Err(CoordinatorError::bad(what, "it has no samples")) } else { Ok(data) }
}
