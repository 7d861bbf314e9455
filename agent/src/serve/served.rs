//! A variant that answers requests: loaded, warm, with its name, version and tensors.

use std::sync::{Arc, PoisonError, RwLock};

use secateur_common::{ModelName, VariantId, probe_input};
use secateur_engine::{EngineError, Session};
use secateur_model::{Dim, Graph};

use super::protocol::{Refused, Sample, Signature};

/// Runs before it is served, so that no request pays for cold memory.
const WARM_RUNS: usize = 2;

/// A variant as it is served. A request that took it keeps it until it is answered.
pub(super) struct Served {
    pub(super) model: String,
    /// The first digits of the variant's digest.
    pub(super) version: String,
    pub(super) variant: VariantId,
    pub(super) signature: Signature,
    session: Session,
}

impl Served {
    /// Loads `graph`, where it is not loaded yet, and warms it.
    pub(super) fn load(
        model: &ModelName,
        variant: VariantId,
        graph: &Graph,
        session: Option<Session>,
    ) -> Result<Self, EngineError> {
        let session = session.map_or_else(|| Session::load(graph), Ok)?;
        let probe = probe_input(0, session.input_shape().iter().product());
        let mut output = session.run(&probe)?;
        for _ in 1..WARM_RUNS {
            output = session.run(&probe)?;
        }
        let input_name = graph.inputs.first().map(|input| input.name.clone()).unwrap_or_default();
        let sample = session.input_shape().get(1..).unwrap_or_default().to_vec();
        let signature = Signature {
            input: Sample { name: input_name, shape: sample },
            output: output_sample(graph, output.len()),
        };
        Ok(Self { model: model.to_string(), version: variant.0.short(), variant, signature, session })
    }

    /// The outputs of `rows` samples, one after another, unless it is `given_up` between two of them.
    pub(super) fn run(
        &self,
        rows: usize,
        values: &[f32],
        given_up: impl Fn() -> bool,
    ) -> Result<Vec<f32>, Refused> {
        let mut outputs = Vec::with_capacity(rows * self.signature.output.elements());
        for sample in values.chunks_exact((values.len() / rows.max(1)).max(1)) {
            if given_up() {
                return Err(Refused::Failed("nobody waits for it any more".into()));
            }
            let output = self.session.run(sample);
            outputs.extend(output.map_err(|error| Refused::Failed(error.to_string()))?);
        }
        Ok(outputs)
    }
}

/// The first output; as the file says its shape where that is of `elements`, else flat.
fn output_sample(graph: &Graph, elements: usize) -> Sample {
    let output = graph.outputs.first();
    let dims = output.and_then(|output| output.shape.as_deref()?.get(1..));
    let fixed = |dim: &Dim| match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Symbol(_) => None,
    };
    let shape: Option<Vec<usize>> = dims.and_then(|dims| dims.iter().map(fixed).collect());
    let shape = shape.filter(|shape| shape.iter().product::<usize>() == elements);
    Sample {
        name: output.map(|output| output.name.clone()).unwrap_or_default(),
        shape: shape.unwrap_or_else(|| vec![elements]),
    }
}

/// What is served now. A swap replaces it in one step; the one before is freed with its last request.
#[derive(Default)]
pub(super) struct Current(RwLock<Option<Arc<Served>>>);

impl Current {
    pub(super) fn get(&self) -> Result<Arc<Served>, Refused> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Refused::NotReady)
    }

    pub(super) fn swap(&self, served: Served) {
        let before = self.0.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::new(served));
        drop(before); // where it is the last one, it is freed after the lock is
    }

    /// What is served now, if it is that model and, where one is named, that version.
    pub(super) fn find(&self, model: &str, version: Option<&str>) -> Result<Arc<Served>, Refused> {
        let served = self.get()?;
        let version = version.filter(|version| !version.is_empty());
        if served.model != model {
            return Err(Refused::NotFound(format!("model `{}`", short(model))));
        }
        match version {
            Some(version) if version != served.version => {
                Err(Refused::NotFound(format!("version `{}` of model `{model}`", short(version))))
            }
            _ => Ok(served),
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
