//! Prunes a graph to budgets without labels: scores, statistics, refit, allocation, the ladder.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or draws randomness (seeds are arguments); nothing
//! here knows devices, plans or the update format (what a variant weighs as stored comes from a `sizer`).
//! Nothing leaves before the oracle has held: masked at the consumers ≡ physically cut, on random inputs.
#![forbid(unsafe_code)]

mod error;
mod request;

pub use error::PruneError;
pub use request::{Kept, LadderOptions, Method, Progress, Pruned, Request, Rung, Sizer, Structure};

use secateur_model::Graph;

/// Prunes `dense` so that every limit of the request's budget holds.
///
/// # Errors
/// [`PruneError`]: nothing prunable, bad weights or calibration data, or a budget that cannot be met: then the
/// binding metric and the smallest value that can be reached are named.
pub fn prune(
    _dense: &Graph,
    _request: &Request<'_>,
    _sizer: Sizer<'_>,
    _progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    Err(PruneError::NothingPrunable { reasons: "not yet written".into() })
}

/// The nested family of `dense`: dense first, then one rung for each share of the options that can be reached.
///
/// # Errors
/// As [`prune`].
pub fn ladder(
    _dense: &Graph,
    _options: &LadderOptions<'_>,
    _progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Rung>, PruneError> {
    Err(PruneError::NothingPrunable { reasons: "not yet written".into() })
}
