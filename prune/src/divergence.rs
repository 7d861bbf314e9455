//! How far a variant's answers are from the dense net's, without labels.

use secateur_model::Tensor;

/// The mean Kullback–Leibler divergence, in nats a row, of `found` from `expected`, both `[rows, classes]`: logits, or
/// probabilities where all of `expected` are such. For outputs of any other shape, and for single values, the squared
/// error as a share of the expected variance.
pub(crate) fn divergence(expected: &Tensor, found: &Tensor) -> f64 {
    let (Some(a), Some(b)) = (expected.as_f32(), found.as_f32()) else { return f64::INFINITY };
    if a.len() != b.len() || a.is_empty() || b.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    match *expected.shape() {
        [rows, classes] if classes > 1 => {
            let shares = are_shares(a, classes);
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

/// The slope of [`divergence`] by each value of `found`, were there `rows` rows in all.
pub(crate) fn slope(expected: &Tensor, found: &Tensor, rows: usize) -> Vec<f32> {
    let (Some(a), Some(b)) = (expected.as_f32(), found.as_f32()) else { return Vec::new() };
    let rows = rows.max(1) as f64;
    match *expected.shape() {
        [_, classes] if classes > 1 => {
            let shares = are_shares(a, classes);
            let pair = a.chunks_exact(classes).zip(b.chunks_exact(classes));
            pair.flat_map(|(a, b)| {
                let slope = |(&a, &b): (&f32, &f32)| f64::from(-a / b.max(1e-12));
                let own: Vec<f64> = match shares {
                    true => a.iter().zip(b).map(slope).collect(),
                    false => {
                        log_softmax(a).iter().zip(log_softmax(b)).map(|(p, q)| q.exp() - p.exp()).collect()
                    }
                };
                own.into_iter().map(move |slope| (slope / rows) as f32)
            })
            .collect()
        }
        _ => {
            let each = (a.len() / expected.shape().first().copied().unwrap_or(1).max(1)).max(1) as f64;
            a.iter().zip(b).map(|(&a, &b)| (2.0 * f64::from(b - a) / (rows * each)) as f32).collect()
        }
    }
}

/// Whether each row of `classes` values is one of probabilities.
fn are_shares(values: &[f32], classes: usize) -> bool {
    values.chunks_exact(classes).all(|row| {
        row.iter().all(|&p| (0.0..=1.0).contains(&p)) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-3
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::f32(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn it_is_zero_for_the_same_answers_and_for_shifted_logits() {
        let a = tensor(&[2, 3], &[1.0, 2.0, 3.0, -1.0, 0.0, 5.0]);
        let shifted = tensor(&[2, 3], &[2.0, 3.0, 4.0, -1.0, 0.0, 5.0]);
        assert!(divergence(&a, &a) < 1e-12 && divergence(&a, &shifted) < 1e-6);
    }

    #[test]
    fn it_is_the_textbook_value() {
        let (p, q) = (tensor(&[1, 2], &[0.5, 0.5]), tensor(&[1, 2], &[0.25, 0.75]));
        let expected = 0.5 * (0.5_f64 / 0.25).ln() + 0.5 * (0.5_f64 / 0.75).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
    }

    #[test]
    fn slopes_are_those_of_differences() {
        let logits = tensor(&[2, 3], &[1.0, 2.0, 3.0, -1.0, 0.0, 2.0]);
        let shares = tensor(&[2, 3], &[0.2, 0.3, 0.5, 0.1, 0.1, 0.8]);
        let found = tensor(&[2, 3], &[0.4, 0.3, 0.3, 0.3, 0.2, 0.5]);
        for expected in [logits, shares, tensor(&[2, 3, 1], &[1.0, 2.0, 3.0, -1.0, 0.0, 2.0])] {
            let slopes = slope(&expected, &found, 2);
            let mut scale = None;
            for (i, &slope) in slopes.iter().enumerate() {
                let at = |by: f32| {
                    let mut moved = found.clone();
                    moved.as_f32_mut().unwrap()[i] += by;
                    divergence(&expected, &moved)
                };
                let steep = (at(1e-2) - at(-1e-2)) / 2e-2;
                // Of squared errors, the share of the variance is not in the slope: one factor for all.
                let scale = *scale.get_or_insert(if expected.shape().len() == 2 {
                    1.0
                } else {
                    steep / f64::from(slope)
                });
                assert!(
                    (steep - scale * f64::from(slope)).abs() < 1e-2 * steep.abs() + 1e-4,
                    "{i}: {steep} {slope}"
                );
            }
        }
    }

    #[test]
    fn other_shapes_take_the_squared_error_and_what_does_not_fit_is_infinitely_far() {
        let (a, b) = (tensor(&[1, 1, 2], &[1.0, 3.0]), tensor(&[1, 1, 2], &[1.0, 4.0]));
        assert!((divergence(&a, &b) - 0.5).abs() < 1e-9);
        assert_eq!(divergence(&a, &tensor(&[1], &[1.0])), f64::INFINITY);
        assert_eq!(
            divergence(&tensor(&[1, 2], &[0.0, 1.0]), &tensor(&[1, 2], &[f32::NAN, 1.0])),
            f64::INFINITY
        );
    }
}
