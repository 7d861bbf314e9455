//! A variant that answers requests: loaded, warm, with its name, version and tensors.

use std::sync::{Arc, PoisonError, RwLock};

use secateur_common::{ModelName, VariantId};
use secateur_model::Dim;

use super::protocol::{Refused, Sample, Signature};
use crate::loaded::Loaded;

/// A variant as it is served. A request that took it keeps it until it is answered.
pub(super) struct Served {
    pub(super) model: String,
    /// The first digits of the variant's digest.
    pub(super) version: String,
    pub(super) variant: VariantId,
    pub(super) signature: Signature,
    loaded: Arc<Loaded>,
}

impl Served {
    /// `loaded` under its names.
    pub(super) fn new(model: &ModelName, variant: VariantId, loaded: Arc<Loaded>) -> Self {
        let sample = loaded.session.input_shape().get(1..).unwrap_or_default().to_vec();
        let signature = Signature {
            input: Sample { name: loaded.input.name.clone(), shape: sample },
            output: output_sample(&loaded),
        };
        Self { model: model.to_string(), version: variant.0.short(), variant, signature, loaded }
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
            let output = self.loaded.session.run(sample);
            outputs.extend(output.map_err(|error| Refused::Failed(error.to_string()))?);
        }
        Ok(outputs)
    }
}

/// The first output; as the file says its shape where that is of as many elements, else flat.
fn output_sample(loaded: &Loaded) -> Sample {
    let dims = loaded.output.shape.as_deref().and_then(|shape| shape.get(1..));
    let fixed = |dim: &Dim| match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Symbol(_) => None,
    };
    let shape: Option<Vec<usize>> = dims.and_then(|dims| dims.iter().map(fixed).collect());
    let shape = shape.filter(|shape| shape.iter().product::<usize>() == loaded.outputs);
    Sample { name: loaded.output.name.clone(), shape: shape.unwrap_or_else(|| vec![loaded.outputs]) }
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
