//! Prunes a graph to budgets: orders, allocation, masks, the ladder.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or draws randomness (seeds are arguments); nothing
//! here knows devices, plans or the update format (what a variant weighs as stored, and what its time
//! is made of, comes from a `Meter`).
//! Nothing leaves before the oracle has held: masked at the consumers ≡ physically cut, on random inputs.
#![forbid(unsafe_code)]

mod allocate;
mod channels;
mod curves;
mod divergence;
mod error;
mod ladder;
mod layer;
mod measure;
mod mixed;
mod moments;
mod observe;
mod oracle;
mod path;
mod random;
mod reconstruct;
mod refit;
mod regression;
mod request;
mod sensitivity;
mod sparse;
mod stored;
mod takeover;
mod trace;
mod tune;
mod widths;
mod window;

pub use channels::Family;
pub use error::PruneError;
pub use ladder::Holder;
pub use moments::{Moments, OtherColumns};
pub use request::{Kept, Meter, Method, Progress, Pruned, Refit, Request, Rung, SHARES, Structure};
pub use sensitivity::Sensitivity;
pub use sparse::Pattern;

use secateur_model::{Dim, Graph, Tensor};

/// Prunes `dense` so that every limit of the request's budget holds.
///
/// # Errors
/// [`PruneError`]: nothing prunable, bad weights or calibration data, or a budget that cannot be met: then the
/// binding metric and the smallest value that can be reached are named.
pub fn prune(
    dense: &Graph,
    request: &Request<'_>,
    meter: Meter<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    check_share(request.refit.share)?;
    measure::supported(&request.budget, meter)?;
    match request.structure {
        Structure::Channels => channels::prune(dense, request, meter, progress),
        Structure::Mixed if request.method != Method::Obs || request.budget.is_empty() => {
            let got = request.method.name().into();
            Err(PruneError::BadOption { what: "method of a mixture", got, expected: "obs, with a budget" })
        }
        Structure::Mixed => mixed::prune(dense, request, meter, progress),
        Structure::Weights => {
            check(dense, request.calibration, request.method)?;
            sparse::prune(dense, request, meter, progress)
        }
    }
}

fn check_share(share: f64) -> Result<(), PruneError> {
    if share > 0.0 && share <= 1.0 {
        return Ok(());
    }
    Err(PruneError::BadOption { what: "refit share", got: share.to_string(), expected: "above 0, at most 1" })
}

/// Refuses what would put numbers that are none into a variant.
fn check(dense: &Graph, calibration: Option<&Tensor>, method: Method) -> Result<(), PruneError> {
    let finite = |tensor: &Tensor| tensor.as_f32().is_none_or(|values| values.iter().all(|v| v.is_finite()));
    if let Some((name, _)) = dense.initializers.iter().find(|(_, tensor)| !finite(tensor)) {
        return Err(PruneError::NonFiniteWeight { tensor: name.clone() });
    }
    let bad = |problem: String| Err(PruneError::BadCalibration { problem });
    match calibration {
        None if method.needs_calibration() => Err(PruneError::NeedsCalibration),
        None => Ok(()),
        Some(data) if data.as_f32().is_none() => bad("is not of 32-bit floats".into()),
        Some(data) if data.is_empty() => bad("is empty".into()),
        Some(data) if !finite(data) => bad("holds a value that is no finite number".into()),
        Some(data) => match dense.inputs.first().and_then(|input| input.shape.as_ref()) {
            Some(dims) if !fits(dims, data.shape()) => {
                bad(format!("is of shape {:?}, which is not what the model's input asks for", data.shape()))
            }
            _ => Ok(()),
        },
    }
}

/// Whether samples of `shape` fit an input: all but the first axis.
fn fits(dims: &[Dim], shape: &[usize]) -> bool {
    let fixed = |(dim, &length): (&Dim, &usize)| !matches!(dim, Dim::Fixed(fixed) if *fixed != length);
    dims.len() == shape.len() && dims.iter().zip(shape).skip(1).all(fixed)
}
