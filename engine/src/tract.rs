//! tract, for graphs that the plan does not cover.

use std::panic::{AssertUnwindSafe, catch_unwind};

use secateur_model::{Graph, onnx};
use tract_onnx::prelude::*;

use crate::EngineError;

/// A graph as tract runs it.
pub(crate) struct Fallback {
    model: Arc<TypedRunnableModel>,
    shape: Vec<usize>,
}

impl Fallback {
    /// Lowers `graph` for inputs of `shape`.
    ///
    /// # Errors
    /// Where tract cannot run it.
    pub(crate) fn load(graph: &Graph, shape: &[usize]) -> Result<Self, EngineError> {
        let bytes = onnx::write(graph);
        let lower = || {
            tract_onnx::onnx()
                .model_for_read(&mut &bytes[..])
                .and_then(|model| model.with_input_fact(0, f32::fact(shape).into()))
                .and_then(|model| model.into_optimized())
                .and_then(|model| model.into_runnable())
        };
        let model = caught(lower)?.map_err(failed)?;
        Ok(Self { model, shape: shape.to_vec() })
    }

    /// The first output.
    ///
    /// # Errors
    /// Where tract fails.
    pub(crate) fn run(&self, input: &[f32]) -> Result<Vec<f32>, EngineError> {
        let tensor = Tensor::from_shape(&self.shape, input).map_err(failed)?;
        let outputs = caught(|| self.model.run(tvec!(tensor.into())))?.map_err(failed)?;
        let output = outputs[0].cast_to::<f32>().map_err(failed)?;
        output
            .try_as_plain_ram()
            .and_then(|plain| plain.as_slice::<f32>().map(<[f32]>::to_vec))
            .map_err(failed)
    }
}

fn failed(error: TractError) -> EngineError {
    EngineError::Tract(format!("{error:#}"))
}

/// tract panics on some graphs; that is an error here, and no reason for a program to end.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| EngineError::Tract("it panicked".into()))
}
