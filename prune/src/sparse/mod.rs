//! Unstructured pruning: single weights, or blocks of them, are set to zero.

mod densities;
mod obs;
mod plain;
mod support;

pub use support::Pattern;

use secateur_model::Graph;

use crate::{Method, Progress, PruneError, Pruned, Request, Sizer};

pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    sizer: Sizer<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    match request.method {
        Method::Obs => obs::prune(dense, request, sizer, progress),
        _ => plain::prune(dense, request, sizer, progress),
    }
}
