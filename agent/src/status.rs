//! `status.json` in the data folder: what the agent is doing, for people and scripts on the device.

use std::path::Path;
use std::time::Duration;

use secateur_common::VariantId;
use serde::{Deserialize, Serialize};

/// What the agent is doing.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// `connecting`, `idle`, `downloading`, `activating` or `measuring`.
    pub state: String,
    /// Whether the coordinator is connected.
    pub connected: bool,
    /// The newest generation that was accepted.
    pub generation: u64,
    /// The variant in force.
    pub variant: Option<VariantId>,
    /// Of the update under way, received so far.
    pub received_bytes: u64,
    /// Of the update under way, all.
    pub total_bytes: u64,
    /// Reports that wait for the coordinator's acknowledgement, the newest included, as of the last measurement.
    pub waiting_reports: usize,
}

const FILE: &str = "status.json";
/// A status that was not renewed for this long is of an agent that hangs or is gone.
const STALE: Duration = Duration::from_secs(60);

impl Status {
    /// Writes it: temporary, then renamed. A status that cannot be written is no reason to stop.
    pub fn write(&self, data: &Path) {
        let temporary = data.join("status.json.new");
        let whole = || -> std::io::Result<()> {
            std::fs::write(&temporary, serde_json::to_vec(self)?)?;
            std::fs::rename(&temporary, data.join(FILE))
        };
        if let Err(error) = whole() {
            tracing::warn!(%error, "cannot write the status");
        }
    }
}

/// Whether the status in `data` was renewed lately.
pub fn alive(data: &Path) -> bool {
    let written = std::fs::metadata(data.join(FILE)).and_then(|metadata| metadata.modified());
    written.ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age < STALE)
}
