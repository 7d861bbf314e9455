//! Whether devices lose more accuracy than is accepted: a test that may be looked at after every report.
//!
//! A mixture sequential probability ratio test: Robbins, "Statistical methods related to the law of the iterated
//! logarithm", Ann. Math. Statist. 41 (1970); for two samples as here: Johari, Koomen, Pekelis and Walsh, "Always valid
//! inference: continuous monitoring of A/B tests", Operations Research 70 (2022).
//!
//! Device `i` measured the accuracy `p` before and `q` on trial; its excess loss over the accepted `δ` is
//! `x = p − q − δ` with variance `v = p(1−p)/n + q(1−q)/m`. With the score `S = Σ x/v` and the information `V = Σ 1/v`,
//! an excess `θ` is `exp(θS − θ²V/2)` times as likely as none. The mean of this over a half-normal `θ ≥ 0` is a
//! martingale where the excess is none and a supermartingale where it is less, so it passes `1/α` with probability `α`
//! at most, whenever and however often one looks (Ville's inequality). Devices differ in `p` as they like; that both
//! accuracies are often of the same shard makes the true variance smaller and the test careful.

use secateur_common::Accuracy;

/// Scale of the excess losses that are looked for, as a share: five points.
const SCALE: f64 = 0.05;

/// What devices measured against what they had measured before.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Evidence {
    /// `Σ x/v`
    score: f64,
    /// `Σ 1/v`
    information: f64,
}

impl Evidence {
    /// Takes in one device, once: its accuracy before and on trial. `accepted` is the loss that is no fault, a share.
    /// Where either was not measured nothing is learned.
    pub fn add(&mut self, before: Accuracy, on_trial: Accuracy, accepted: f64) {
        if before.samples == 0 || on_trial.samples == 0 {
            return;
        }
        let variance = before.variance() + on_trial.variance();
        self.score += (before.value() - on_trial.value() - accepted) / variance;
        self.information += 1.0 / variance;
    }

    /// Natural logarithm of how many times likelier these measurements are with a loss above the accepted one; 0 where
    /// nothing is known.
    pub fn log_odds(&self) -> f64 {
        let scale = SCALE * SCALE;
        let spread = 1.0 + scale * self.information;
        let gain = scale * self.score * self.score / (2.0 * spread) - 0.5 * spread.ln();
        gain + (2.0 * normal_cdf(SCALE * self.score / spread.sqrt())).ln()
    }

    /// Whether the loss is shown to be above the accepted one, at error rate `alpha`.
    pub fn shows_loss(&self, alpha: f64) -> bool {
        self.log_odds() >= -alpha.ln()
    }

    /// The loss over all devices, each by its precision, with an interval that holds at `1 − alpha` at all times
    /// together; shares. None where nothing is known.
    pub fn loss(&self, accepted: f64, alpha: f64) -> Option<[f64; 3]> {
        let information = Some(self.information).filter(|&information| information > 0.0)?;
        let scale = SCALE * SCALE;
        let spread = 1.0 + scale * information;
        let radius = (spread * (spread / (alpha * alpha)).ln() / scale).sqrt() / information;
        let loss = self.score / information + accepted;
        Some([loss, loss - radius, loss + radius])
    }
}

/// The standard normal distribution function to 7.5e-8 (Abramowitz and Stegun 26.2.17); never below 1e-300.
fn normal_cdf(x: f64) -> f64 {
    const B: [f64; 5] = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let tail = density * B.iter().rev().fold(0.0, |sum, b| (sum + b) * t);
    if x >= 0.0 { 1.0 - tail } else { tail.max(1e-300) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64 (Steele, Lea and Flood 2014).
    struct Random(u64);

    impl Random {
        fn share(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn accuracy(&mut self, samples: u64, p: f64) -> Accuracy {
            let correct = (0..samples).filter(|_| self.share() < p).count() as u64;
            Accuracy { samples, correct }
        }
    }

    /// One rollout whose true loss is `loss`: devices of all sorts report one after another, and after each one looks.
    /// The number of devices that had reported when it was halted, if it was.
    fn halted(random: &mut Random, loss: f64, accepted: f64, alpha: f64, devices: usize) -> Option<usize> {
        let mut evidence = Evidence::default();
        (1..=devices).find(|_| {
            let samples = 50 + (random.share() * 350.0) as u64;
            let p = 0.6 + 0.39 * random.share();
            let before = random.accuracy(samples, p);
            let on_trial = random.accuracy(samples, (p - loss).max(0.0));
            evidence.add(before, on_trial, accepted);
            evidence.shows_loss(alpha)
        })
    }

    #[test]
    fn looking_after_every_report_keeps_the_error_rate() {
        const ROLLOUTS: usize = 2000;
        for (seed, (loss, accepted, alpha)) in
            [(0.0, 0.0, 0.05), (0.01, 0.01, 0.05), (0.02, 0.02, 0.01), (0.0, 0.01, 0.05)]
                .into_iter()
                .enumerate()
        {
            let mut random = Random(seed as u64);
            let halts =
                (0..ROLLOUTS).filter(|_| halted(&mut random, loss, accepted, alpha, 100).is_some()).count();
            assert!(halts as f64 <= alpha * ROLLOUTS as f64, "{halts} of {ROLLOUTS} at {alpha}, loss {loss}");
        }
    }

    #[test]
    fn a_loss_of_five_points_is_caught() {
        const ROLLOUTS: usize = 500;
        let mut random = Random(7);
        let mut at: Vec<usize> =
            (0..ROLLOUTS).map(|_| halted(&mut random, 0.05, 0.01, 0.01, 100).unwrap_or(usize::MAX)).collect();
        at.sort_unstable();
        let (median, most) = (at[ROLLOUTS / 2], at[ROLLOUTS * 99 / 100]);
        assert!(median <= 16 && most <= 60, "devices that had reported: median {median}, 99 % {most}");
        let broken = halted(&mut random, 0.5, 0.01, 0.01, 100);
        assert_eq!(broken, Some(1), "a broken model is caught by the first device");
    }

    #[test]
    fn the_interval_holds_the_loss_at_all_times() {
        const ROLLOUTS: usize = 1000;
        let mut random = Random(11);
        let missed = (0..ROLLOUTS).filter(|_| {
            let mut evidence = Evidence::default();
            (0..60).any(|_| {
                evidence.add(random.accuracy(200, 0.9), random.accuracy(200, 0.87), 0.01);
                let [_, low, high] = evidence.loss(0.01, 0.05).unwrap();
                !(low..=high).contains(&0.03)
            })
        });
        assert!(missed.count() <= ROLLOUTS / 20);
    }

    #[test]
    fn nothing_measured_shows_nothing() {
        let mut evidence = Evidence::default();
        evidence.add(Accuracy::default(), Accuracy { samples: 100, correct: 0 }, 0.0);
        assert_eq!((evidence.log_odds().abs() < 1e-6, evidence.loss(0.0, 0.05)), (true, None));
        evidence.add(Accuracy { samples: 50, correct: 50 }, Accuracy { samples: 50, correct: 50 }, 0.0);
        assert!(evidence.log_odds() < 0.0);
    }

    #[test]
    fn the_normal_distribution_is_as_tabulated() {
        for (x, expected) in [(0.0, 0.5), (1.0, 0.841_344_746), (1.96, 0.975_002_105), (-2.0, 0.022_750_132)]
        {
            assert!((normal_cdf(x) - expected).abs() < 1e-7);
        }
        assert!(normal_cdf(-100.0) > 0.0);
    }
}
