//! How far a variant's answers are from the dense net's, without labels.

use secateur_model::Tensor;

/// The mean Kullback–Leibler divergence, in nats a row, of `found` from `expected`, both `[rows, classes]`: logits, or
/// probabilities where all of `expected` are such. For outputs of any other shape, and for single values, the squared
/// error as a share of the expected variance.
pub(crate) fn divergence(expected: &Tensor, found: &Tensor) -> f64 {
    let (Some(a), Some(b)) = (expected.as_f32(), found.as_f32()) else { return f64::INFINITY };
    if a.len() != b.len() || a.is_empty() {
        return f64::INFINITY;
    }
    match *expected.shape() {
        [rows, classes] if classes > 1 => {
            let are_shares = |row: &[f32]| {
                row.iter().all(|&p| (0.0..=1.0).contains(&p)) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-3
            };
            let shares = a.chunks_exact(classes).all(are_shares);
            let sum: f64 =
                a.chunks_exact(classes).zip(b.chunks_exact(classes)).map(|(a, b)| kl(a, b, shares)).sum();
            sum / rows as f64
        }
        _ => {
            let mean = a.iter().map(|&v| f64::from(v)).sum::<f64>() / a.len() as f64;
            let variance: f64 = a.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
            let error: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a - b).powi(2)).sum();
            error / variance.max(1e-12)
        }
    }
}

fn kl(expected: &[f32], found: &[f32], shares: bool) -> f64 {
    let (p, q) =
        if shares { (logs(expected), logs(found)) } else { (log_softmax(expected), log_softmax(found)) };
    let sum: f64 = p.iter().zip(&q).map(|(&p, &q)| p.exp() * (p - q)).sum();
    if sum.is_finite() { sum.max(0.0) } else { f64::INFINITY }
}

fn logs(shares: &[f32]) -> Vec<f64> {
    shares.iter().map(|&share| f64::from(share).max(1e-12).ln()).collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, &v| largest.max(f64::from(v)));
    let sum: f64 = logits.iter().map(|&v| (f64::from(v) - largest).exp()).sum();
    logits.iter().map(|&v| f64::from(v) - largest - sum.ln()).collect()
}
