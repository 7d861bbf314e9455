//! A loaded variant, one inference at a time.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use secateur_model::{Dim, Graph, onnx};
use tract_onnx::prelude::*;

/// A variant that is ready to run, at batch 1.
pub struct Session {
    model: Arc<TypedRunnableModel>,
    input_shape: Vec<usize>,
}

/// What runs a variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// tract, whole graph.
    Tract,
}

/// Why a variant cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EngineError {
    #[error("the model has {0} inputs; one is supported")]
    Inputs(usize),
    #[error("the shape of input `{0}` is not known")]
    UnknownShape(String),
    #[error("tract cannot run the model: {0}")]
    Tract(String),
    #[error("the input has {found} values, not {expected}")]
    WrongInput { expected: usize, found: usize },
    #[error("the data have inputs of shape {found:?}, the model takes {expected:?}")]
    WrongShape { expected: Vec<usize>, found: Vec<usize> },
    #[error("the data have no labels")]
    NoLabels,
    #[error("label {0} is no class of the model")]
    BadLabel(i64),
}

impl Session {
    /// Lowers `graph`.
    ///
    /// # Errors
    /// Where it has not one input of known shape, or tract cannot run it.
    pub fn load(graph: &Graph) -> Result<Self, EngineError> {
        let [input] = &graph.inputs[..] else { return Err(EngineError::Inputs(graph.inputs.len())) };
        let unknown = || EngineError::UnknownShape(input.name.clone());
        let dims = input.shape.as_deref().ok_or_else(unknown)?;
        let length = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(length) => Some(*length),
            Dim::Symbol(_) if axis == 0 => Some(1),
            Dim::Symbol(_) => None,
        };
        let mut shape: Vec<usize> =
            dims.iter().enumerate().map(length).collect::<Option<_>>().ok_or_else(unknown)?;
        if let Some(batch) = shape.first_mut() {
            *batch = 1;
        }
        let failed = |error: TractError| EngineError::Tract(format!("{error:#}"));
        let bytes = onnx::write(graph);
        let lower = || {
            tract_onnx::onnx()
                .model_for_read(&mut &bytes[..])
                .and_then(|model| model.with_input_fact(0, f32::fact(&shape).into()))
                .and_then(|model| model.into_optimized())
                .and_then(|model| model.into_runnable())
        };
        let model = caught(lower)?.map_err(failed)?;
        Ok(Self { model, input_shape: shape })
    }

    /// The shape of the input, batch 1 included.
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// What runs it.
    pub fn backend(&self) -> Backend {
        Backend::Tract
    }

    /// The first output for one input.
    ///
    /// # Errors
    /// Where the input has not as many values as the shape asks for.
    pub fn run(&self, input: &[f32]) -> Result<Vec<f32>, EngineError> {
        let expected = self.input_shape.iter().product();
        if input.len() != expected {
            return Err(EngineError::WrongInput { expected, found: input.len() });
        }
        let failed = |error: TractError| EngineError::Tract(format!("{error:#}"));
        let tensor = tract_onnx::prelude::Tensor::from_shape(&self.input_shape, input).map_err(failed)?;
        let outputs = caught(|| self.model.run(tvec!(tensor.into())))?.map_err(failed)?;
        let output = outputs[0].cast_to::<f32>().map_err(failed)?;
        output
            .try_as_plain_ram()
            .and_then(|plain| plain.as_slice::<f32>().map(<[f32]>::to_vec))
            .map_err(failed)
    }
}

/// tract panics on some graphs; that is an error here, and no reason for a program to end.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| EngineError::Tract("it panicked".into()))
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tract")
    }
}
