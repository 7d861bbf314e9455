//! The coordinator's configuration, TOML. Unknown keys are refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

use crate::precision::Bounds;

/// What a coordinator is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where agents dial; port 0 takes a free one.
    #[serde(default = "default_fleet")]
    pub fleet: SocketAddr,
    /// Where operators dial. There is no authentication yet: keep it on loopback or a private network.
    #[serde(default = "default_operator")]
    pub operator: SocketAddr,
    /// The folder of the store.
    pub data: PathBuf,
    /// What an agent must know to join the fleet.
    pub join_token: String,
    /// The longest that an agent says nothing, seconds.
    #[serde(default = "default_heartbeat_s")]
    pub heartbeat_s: u64,
    /// Normalised mean squared error that publishing a variant may add to a tensor, at most; 0 keeps every bit.
    #[serde(default = "default_max_nmse")]
    pub max_nmse: f64,
    /// Divergence that publishing may bring between a variant's answers to the calibration inputs, nats, at most: what asks for
    /// more than that has weights that are told more exactly.
    #[serde(default = "default_max_divergence")]
    pub max_divergence: f64,
    /// Shares of the dense MACs at which a ladder has its rungs, falling.
    #[serde(default = "default_ladder")]
    pub ladder: Vec<f64>,
}

fn default_fleet() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 7070).into()
}

fn default_operator() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 7071).into()
}

/// Below what NATs and load balancers keep an idle line for (240 s and up).
fn default_heartbeat_s() -> u64 {
    180
}

fn default_max_nmse() -> f64 {
    1e-3
}

fn default_max_divergence() -> f64 {
    2e-3
}

fn default_ladder() -> Vec<f64> {
    vec![0.75, 0.5, 0.35, 0.25, 0.15, 0.1]
}

impl Config {
    /// What publishing a variant may cost.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { nmse: self.max_nmse, divergence: self.max_divergence }
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the key and what it must be.
    pub fn check(&self) -> Result<(), String> {
        if self.join_token.is_empty() {
            return Err("`join_token` is empty: choose a secret that the agents know".into());
        }
        if !(0.0..=0.1).contains(&self.max_nmse) {
            return Err(format!("`max_nmse` is {}: give 0 to 0.1", self.max_nmse));
        }
        if !(1e-6..=1.0).contains(&self.max_divergence) {
            return Err(format!("`max_divergence` is {}: give 0.000001 to 1", self.max_divergence));
        }
        if self.heartbeat_s == 0 || self.heartbeat_s > 3600 {
            return Err(format!("`heartbeat_s` is {}: give 1 to 3600", self.heartbeat_s));
        }
        let falling = self.ladder.windows(2).all(|pair| pair[0] > pair[1]);
        if !falling || self.ladder.len() > 32 || self.ladder.iter().any(|share| !(0.0..1.0).contains(share)) {
            return Err("`ladder` must be at most 32 falling shares between 0 and 1".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_bad_values_are_refused() {
        let text = "data = 'd'\njoin_token = 't'\n";
        let config: Config = toml::from_str(text).unwrap();
        assert!(config.check().is_ok() && config.operator.ip().is_loopback());
        assert!(toml::from_str::<Config>(&format!("{text}colour = 'red'")).is_err());
        for bad in ["max_nmse = 2.0", "max_divergence = 0.0", "heartbeat_s = 0", "ladder = [0.5, 0.7]"] {
            assert!(toml::from_str::<Config>(&format!("{text}{bad}")).unwrap().check().is_err(), "{bad}");
        }
    }
}
