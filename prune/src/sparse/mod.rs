//! Unstructured pruning: single weights, or blocks of them, are set to zero.

mod densities;
mod obs;
mod plain;
mod support;

pub use support::Pattern;

use secateur_model::Graph;

use crate::{Meter, Method, Progress, PruneError, Pruned, Request};

pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    meter: Meter<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    match request.method {
        Method::Obs => obs::prune(dense, request, meter, progress),
        _ => plain::prune(dense, request, meter, progress),
    }
}
