//! The pure planner: policy, inventory, ladders and the parent plan in; a plan with a reason for each device out.
//!
//! Architecture invariant: a synchronous, deterministic function without I/O, clock or randomness. It alone changes
//! intent; who executes a plan makes no choices. It knows rungs by their measured cost and never sees a graph.
#![forbid(unsafe_code)]

mod choose;
mod class;
mod cost_model;
mod drift;
mod ladder;
mod observe;
mod planner;
mod reason;
pub mod rollout;

pub use class::{Class, Classes};
pub use cost_model::CostModel;
pub use drift::pruning_is_to_blame;
pub use ladder::{Ladder, Rung};
pub use observe::{DeviceView, Measurement};
pub use planner::{Assignment, Plan, Planned, RungRequest, assign, faults, lint, plan};
pub use reason::Reason;
