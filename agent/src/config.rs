//! The agent's configuration, TOML. Unknown keys are refused.

use std::net::SocketAddr;
use std::path::PathBuf;

use secateur_common::{Labels, Name};
use serde::Deserialize;

/// What an agent is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The coordinator, such as `http://coordinator:7070`.
    pub coordinator: String,
    /// The device's name, for people.
    pub name: Name,
    /// The fleet's join token.
    pub join_token: String,
    /// The folder of cache, credential and status.
    pub data: PathBuf,
    /// Labelled inputs, `.npz`, that never leave the device; without them no accuracy is measured.
    pub shard: Option<PathBuf>,
    /// The device's labels.
    #[serde(default)]
    pub labels: Labels,
    /// Seconds between measurements.
    #[serde(default = "default_report_s")]
    pub report_s: u64,
    /// Watts that the device takes while it infers, where it cannot measure its energy itself.
    #[serde(default)]
    pub watts: Option<f64>,
    /// Where applications may ask for inference over HTTP, such as `127.0.0.1:8080`; nowhere by default.
    #[serde(default)]
    pub serve: Option<SocketAddr>,
    /// Where they may over gRPC, such as `127.0.0.1:8081`.
    #[serde(default)]
    pub serve_grpc: Option<SocketAddr>,
    /// A Unix socket where they may over HTTP; made anew at each start.
    #[serde(default)]
    pub serve_socket: Option<PathBuf>,
    /// Microseconds that an inference request waits for others, to be taken together.
    #[serde(default)]
    pub serve_delay_us: u64,
}

fn default_report_s() -> u64 {
    10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused() {
        let text = "coordinator = 'http://c:1'\nname = 'gw'\njoin_token = 't'\ndata = 'd'\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!((config.report_s, config.shard), (10, None));
        assert!(toml::from_str::<Config>(&format!("{text}colour = 'red'")).is_err());
    }
}
