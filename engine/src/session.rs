//! A loaded variant, one inference at a time.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use secateur_model::{Dim, Graph};

use secateur_common::probe_input;

use crate::plan::{Arena, KernelChoices, Plan, Reason, StepTime};
#[cfg(feature = "tract")]
use crate::tract::Fallback;

/// A variant that is ready to run, at batch 1.
pub struct Session {
    runner: Runner,
    input_shape: Vec<usize>,
    fallback_reason: Option<String>,
}

enum Runner {
    /// The plan, and the memory of runs that ended: as much as ran at one time.
    Plan(Box<Plan>, Mutex<Vec<Arena>>),
    #[cfg(feature = "tract")]
    Tract(Fallback),
}

/// Where the time of an inference goes.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Steps in order.
    pub steps: Vec<StepTime>,
    /// Multiply-accumulates a second that this core can do at most, measured.
    pub peak_macs_per_second: f64,
    /// The instruction set of the kernels.
    pub instruction_set: &'static str,
}

/// What runs a variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// The compiled plan.
    Plan,
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
    #[error("this program is built without tract, and the plan does not cover the model: {0}")]
    NotCovered(String),
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
    /// Compiles `graph`, trying kernels on this machine; what the plan does not cover runs on tract.
    ///
    /// # Errors
    /// Where it has not one input of known shape, or neither can run it.
    pub fn load(graph: &Graph) -> Result<Self, EngineError> {
        Self::load_with(graph, None)
    }

    /// The same with the kernels that a trial found before; what it does not know of this graph and machine is tried.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(graph: &Graph, earlier: Option<&KernelChoices>) -> Result<Self, EngineError> {
        Self::with(graph, Plan::compile(graph, earlier))
    }

    /// Lowers `graph` to tract, whatever the plan covers: to compare the two.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[cfg(feature = "tract")]
    pub fn load_on_tract(graph: &Graph) -> Result<Self, EngineError> {
        Self::with(graph, Err("tract was asked for".into()))
    }

    fn with(graph: &Graph, plan: Result<Plan, Reason>) -> Result<Self, EngineError> {
        let input_shape = input_shape(graph)?;
        match plan {
            Ok(plan) => {
                let arenas = Mutex::new(vec![plan.arena()]);
                Ok(Self { runner: Runner::Plan(Box::new(plan), arenas), input_shape, fallback_reason: None })
            }
            #[cfg(feature = "tract")]
            Err(reason) => {
                let runner = Runner::Tract(Fallback::load(graph, &input_shape)?);
                Ok(Self { runner, input_shape, fallback_reason: Some(reason) })
            }
            #[cfg(not(feature = "tract"))]
            Err(reason) => Err(EngineError::NotCovered(reason)),
        }
    }

    /// The shape of the input, batch 1 included.
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// What runs it.
    pub fn backend(&self) -> Backend {
        match self.runner {
            Runner::Plan(..) => Backend::Plan,
            #[cfg(feature = "tract")]
            Runner::Tract(_) => Backend::Tract,
        }
    }

    /// Why the plan does not cover the graph, where tract runs it: for people.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback_reason.as_deref()
    }

    /// Bytes of packed weights and of the activations of a run; unknown on tract.
    pub fn memory_bytes(&self) -> Option<usize> {
        match &self.runner {
            Runner::Plan(plan, _) => Some(plan.weight_bytes() + plan.arena_bytes()),
            #[cfg(feature = "tract")]
            Runner::Tract(_) => None,
        }
    }

    /// The kernels that trials found, to be kept for the next [`load_with`](Self::load_with); none on tract.
    pub fn choices(&self) -> Option<&KernelChoices> {
        match &self.runner {
            Runner::Plan(plan, _) => Some(plan.choices()),
            #[cfg(feature = "tract")]
            Runner::Tract(_) => None,
        }
    }

    /// Each step of the plan with its time, the shortest of `runs`; none on tract.
    pub fn profile(&self, runs: usize) -> Option<Profile> {
        let plan = match &self.runner {
            Runner::Plan(plan, _) => plan,
            #[cfg(feature = "tract")]
            Runner::Tract(_) => return None,
        };
        let input = probe_input(0, self.input_shape.iter().product());
        let (peak_macs_per_second, instruction_set) = plan.peak();
        Some(Profile { steps: plan.profile(&input, runs), peak_macs_per_second, instruction_set })
    }

    /// The first output for one input.
    ///
    /// # Errors
    /// Where the input has not as many values as the shape asks for.
    pub fn run(&self, input: &[f32]) -> Result<Vec<f32>, EngineError> {
        let expected = self.input_shape.iter().product();
        let wrong = EngineError::WrongInput { expected, found: input.len() };
        if input.len() != expected {
            return Err(wrong);
        }
        match &self.runner {
            Runner::Plan(plan, arenas) => {
                let arenas = || arenas.lock().unwrap_or_else(PoisonError::into_inner);
                // A run beside another takes memory of its own; what a run that panicked had is not used again.
                let free = arenas().pop();
                let mut arena = free.unwrap_or_else(|| plan.arena());
                let output = plan.run(&mut arena, input).ok_or(wrong);
                arenas().push(arena);
                output
            }
            #[cfg(feature = "tract")]
            Runner::Tract(fallback) => fallback.run(input),
        }
    }
}

/// The input's shape at batch 1.
fn input_shape(graph: &Graph) -> Result<Vec<usize>, EngineError> {
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
    Ok(shape)
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plan => "plan",
            Self::Tract => "tract",
        })
    }
}
