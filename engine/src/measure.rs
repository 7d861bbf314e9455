//! Accuracy on labelled data, and the time of single inferences.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use secateur_common::{Accuracy, LatencySummary, Micros, probe_input};

use crate::{Dataset, EngineError, Session};

/// Counts right answers: the largest output is the answer. `progress` is told done and total.
///
/// # Errors
/// Where the data do not fit the model or have no labels.
pub fn evaluate(
    session: &Session,
    data: &Dataset,
    mut progress: impl FnMut(usize, usize),
) -> Result<Accuracy, EngineError> {
    let labels = data.labels().ok_or(EngineError::NoLabels)?;
    let (expected, found) = (&session.input_shape()[1..], data.sample_shape());
    if expected != found {
        return Err(EngineError::WrongShape { expected: expected.to_vec(), found: found.to_vec() });
    }
    let mut correct = 0;
    for (index, &label) in labels.iter().enumerate() {
        let output = session.run(data.sample(index))?;
        let class = usize::try_from(label).ok().filter(|&class| class < output.len());
        let class = class.ok_or(EngineError::BadLabel(label))?;
        let answer = output.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index);
        correct += u64::from(answer == Some(class));
        progress(index + 1, labels.len());
    }
    Ok(Accuracy { samples: labels.len() as u64, correct })
}

/// Times of single inferences, to a thousandth of each.
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 3)
                .unwrap_or_else(|_| unreachable!("fixed bounds")),
        )
    }
}

/// What is longer counts as this long.
const LONGEST: Duration = Duration::from_secs(600);

impl Latencies {
    /// Counts one more.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that a share of them stays below, in microseconds with their fractions.
    pub fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1000.0
    }

    /// In whole microseconds.
    pub fn summary(&self) -> LatencySummary {
        let at = |share| Micros(self.quantile_us(share).round() as u64);
        LatencySummary { count: self.count(), p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// Times `runs` inferences of one input, after a tenth as many to warm up.
///
/// # Errors
/// Where an inference fails.
pub fn latencies(session: &Session, runs: usize) -> Result<Latencies, EngineError> {
    let input = probe_input(0, session.input_shape().iter().product());
    for _ in 0..runs / 10 {
        session.run(&input)?;
    }
    latencies_on(session, std::iter::repeat_n(&input[..], runs))
}

/// Times one inference of each of `inputs`.
///
/// # Errors
/// Where an inference fails.
pub fn latencies_on<'i>(
    session: &Session,
    inputs: impl IntoIterator<Item = &'i [f32]>,
) -> Result<Latencies, EngineError> {
    let mut latencies = Latencies::default();
    for input in inputs {
        let start = Instant::now();
        session.run(input)?;
        latencies.record(start.elapsed());
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use secateur_model::onnx;

    use super::*;

    #[test]
    fn the_example_answers_as_it_was_trained_to() {
        let graph = onnx::read(include_bytes!("../../examples/lenet5.onnx")).unwrap();
        let data = Dataset::from_npz(include_bytes!("../../examples/validation.npz")).unwrap();
        let session = Session::load(&graph).unwrap();
        let accuracy = evaluate(&session, &data, |_, _| {}).unwrap();
        assert_eq!(accuracy, Accuracy { samples: 800, correct: 726 });
        let unlabelled = Dataset::from_npz(include_bytes!("../../examples/calibration.npz")).unwrap();
        assert!(matches!(evaluate(&session, &unlabelled, |_, _| {}), Err(EngineError::NoLabels)));
        assert!(matches!(session.run(&[0.0; 3]), Err(EngineError::WrongInput { expected: 784, found: 3 })));
        let mut slow = Latencies::default();
        [3, 5_000, 5_000].iter().for_each(|&us| slow.record(Duration::from_micros(us)));
        assert!((4_990.0..5_010.0).contains(&slow.quantile_us(0.5)));
        let latency = latencies(&session, 20).unwrap().summary();
        assert!(latency.count == 20 && latency.p50 <= latency.p95 && latency.p95 <= latency.p99);
    }
}
