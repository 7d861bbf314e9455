//! Accuracy as counts, with its interval.

use serde::{Deserialize, Serialize};

/// Correct answers among labelled samples. Sums of these are accuracies again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Accuracy {
    /// Labelled samples evaluated.
    pub samples: u64,
    /// Of these, how many were answered correctly; at most `samples`.
    pub correct: u64,
}

impl Accuracy {
    /// The share of correct answers, 0 to 1; 0 where nothing was evaluated.
    pub fn value(&self) -> f64 {
        if self.samples == 0 { 0.0 } else { self.correct as f64 / self.samples as f64 }
    }

    /// Variance of the share of correct answers. Two added answers (Agresti and Caffo 2000) keep a perfect score on few
    /// samples from passing for certain knowledge.
    pub fn variance(&self) -> f64 {
        let n = self.samples as f64 + 2.0;
        let p = (self.correct as f64 + 1.0) / n;
        p * (1.0 - p) / n
    }

    /// The Wilson score interval at 95 % (Wilson 1927), as `(low, high)`; `(0, 1)` where nothing was evaluated.
    pub fn interval(&self) -> (f64, f64) {
        if self.samples == 0 {
            return (0.0, 1.0);
        }
        const Z: f64 = 1.959_963_984_540_054;
        let (n, p) = (self.samples as f64, self.value());
        let denominator = 1.0 + Z * Z / n;
        let centre = (p + Z * Z / (2.0 * n)) / denominator;
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / denominator;
        ((centre - half).max(0.0), (centre + half).min(1.0))
    }
}

impl std::ops::Add for Accuracy {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            samples: self.samples.saturating_add(other.samples),
            correct: self.correct.saturating_add(other.correct),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_value() {
        for (samples, correct) in [(0, 0), (1, 0), (1, 1), (100, 88), (10_000, 8_930)] {
            let accuracy = Accuracy { samples, correct };
            let (low, high) = accuracy.interval();
            assert!(low <= accuracy.value() + 1e-12 && accuracy.value() <= high + 1e-12);
            assert!((0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high));
        }
        let (low, high) = Accuracy { samples: 100, correct: 50 }.interval();
        assert!((low - 0.4038).abs() < 1e-3 && (high - 0.5962).abs() < 1e-3);
    }
}
