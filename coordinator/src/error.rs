//! What can go wrong in the coordinator, by who is to mend it.

use std::sync::Arc;

use crate::store::StoreError;

/// A failure of a request or of the program.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CoordinatorError {
    #[error("{what}: {problem}")]
    Bad { what: String, problem: String },
    #[error("there is no {0}")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0}")]
    Refused(String),
    #[error("the store failed")]
    Store(#[from] Arc<StoreError>),
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("cannot write {path}")]
    Write { path: std::path::PathBuf, source: std::io::Error },
    #[error("the server failed: {0}")]
    Server(String),
}

impl CoordinatorError {
    /// A request that names or carries something bad.
    pub(crate) fn bad(what: impl ToString, problem: impl ToString) -> Self {
        Self::Bad { what: what.to_string(), problem: problem.to_string() }
    }
}

impl From<StoreError> for CoordinatorError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
