//! Recurrent layers: `LSTM`, `GRU`, `RNN`, with their default activations.

use super::matmul::sgemm;
use super::{Call, Depth, Fault, zeros};
use crate::{Attribute, Tensor};

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "LSTM" => layer(call, 4),
        "GRU" => layer(call, 3),
        "RNN" => layer(call, 1),
        _ => Err(Fault::Unknown),
    }
}

/// Lengths: steps of time, samples, hidden units.
struct Lengths {
    steps: usize,
    batch: usize,
    hidden: usize,
}

fn layer(call: &Call<'_>, gates: usize) -> Result<Vec<Tensor>, Fault> {
    let ((x_shape, x), (w_shape, w), (r_shape, r)) = (call.floats(0)?, call.floats(1)?, call.floats(2)?);
    let (&[steps, batch, inputs], &[directions, rows, w_inputs]) = (x_shape, w_shape) else {
        return Err(format!("input {x_shape:?} and weights {w_shape:?} do not fit").into());
    };
    let hidden = rows / gates;
    let plain = call.node.int("layout", 0) == 0
        && call.node.int("input_forget", 0) == 0
        && !call.node.attributes.contains_key("clip")
        && call.optional(7).is_none()
        && activations_are_default(call);
    if !plain || call.optional(4).is_some() {
        return Err(
            "only the default form (no lengths, peepholes, clip or own activations) is supported".into()
        );
    }
    if inputs != w_inputs || rows != gates * hidden || r_shape != [directions, rows, hidden] || directions > 2
    {
        return Err(format!("weights {w_shape:?} and {r_shape:?} do not fit input {x_shape:?}").into());
    }
    let bias = call.optional(3).map(|_| call.floats(3)).transpose()?.map(|(_, bias)| bias);
    if bias.is_some_and(|bias| bias.len() != directions * 2 * rows) {
        return Err("the bias does not fit the weights".into());
    }
    let state = |slot: usize| -> Result<Vec<f32>, Fault> {
        match call.optional(slot) {
            None => Ok(vec![0.0; directions * batch * hidden]),
            Some(_) => {
                let (shape, values) = call.floats(slot)?;
                let fits = shape == [directions, batch, hidden];
                if fits { Ok(values.to_vec()) } else { Err("the first state does not fit".into()) }
            }
        }
    };
    let mut y = zeros(vec![steps, directions, batch, hidden])?;
    let (mut h, mut c) = (state(5)?, if gates == 4 { state(6)? } else { Vec::new() });
    if call.depth == Depth::Values && !y.is_empty() {
        let all = y.as_f32_mut().ok_or("unreachable")?;
        let lengths = Lengths { steps, batch, hidden };
        let size = batch * hidden;
        for d in 0..directions {
            let backward = d == 1 || call.node.text("direction") == Some("reverse");
            let w = transposed(&w[d * rows * inputs..(d + 1) * rows * inputs], rows, inputs);
            let r = transposed(&r[d * rows * hidden..(d + 1) * rows * hidden], rows, hidden);
            let zero = vec![0.0; 2 * rows];
            let bias = bias.map_or(&zero[..], |bias| &bias[d * 2 * rows..(d + 1) * 2 * rows]);
            let h = &mut h[d * size..(d + 1) * size];
            for step in 0..lengths.steps {
                let t = if backward { steps - 1 - step } else { step };
                let x = &x[t * batch * inputs..(t + 1) * batch * inputs];
                let (from_x, from_h) =
                    (affine(x, &w, &bias[..rows], batch), affine(h, &r, &bias[rows..], batch));
                match gates {
                    4 => lstm(&lengths, &from_x, &from_h, h, &mut c[d * size..(d + 1) * size]),
                    3 => gru(call, &lengths, (&from_x, &from_h), &r, &bias[rows..], h),
                    _ => h
                        .iter_mut()
                        .zip(from_x.iter().zip(&from_h))
                        .for_each(|(h, (a, b))| *h = (a + b).tanh()),
                }
                all[(t * directions + d) * size..][..size].copy_from_slice(h);
            }
        }
    }
    let last = vec![directions, batch, hidden];
    let mut results = vec![y, Tensor::f32(last.clone(), h)?];
    if gates == 4 {
        results.push(Tensor::f32(last, c)?);
    }
    Ok(results)
}

fn activations_are_default(call: &Call<'_>) -> bool {
    let expected: &[&str] = match call.node.op.as_str() {
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        "GRU" => &["Sigmoid", "Tanh"],
        _ => &["Tanh"],
    };
    match call.node.attributes.get("activations") {
        None => true,
        Some(Attribute::Strings(names)) => {
            names.iter().zip(expected.iter().cycle()).all(|(name, expected)| name == expected.as_bytes())
        }
        Some(_) => false,
    }
}

/// `[rows, cols]` as `[cols, rows]`.
fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

/// `x[batch, k] · w[k, rows] + bias[rows]`.
fn affine(x: &[f32], w: &[f32], bias: &[f32], batch: usize) -> Vec<f32> {
    let mut y: Vec<f32> = bias.iter().copied().cycle().take(bias.len() * batch).collect();
    sgemm(batch, x.len() / batch, bias.len(), x, w, &mut y);
    y
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Gates in ONNX's order: input, output, forget, cell.
fn lstm(lengths: &Lengths, a: &[f32], b: &[f32], h: &mut [f32], c: &mut [f32]) {
    let n = lengths.hidden;
    for (index, (h, c)) in h.iter_mut().zip(c).enumerate() {
        let at = |gate: usize| {
            let position = index / n * 4 * n + gate * n + index % n;
            a[position] + b[position]
        };
        *c = sigmoid(at(2)) * *c + sigmoid(at(0)) * at(3).tanh();
        *h = sigmoid(at(1)) * c.tanh();
    }
}

/// Gates in ONNX's order: update, reset, hidden.
fn gru(call: &Call<'_>, lengths: &Lengths, (a, b): (&[f32], &[f32]), r: &[f32], bias: &[f32], h: &mut [f32]) {
    let n = lengths.hidden;
    let at = |index: usize, gate: usize| index / n * 3 * n + gate * n + index % n;
    let gate = |index: usize, gate: usize| sigmoid(a[at(index, gate)] + b[at(index, gate)]);
    let hidden: Vec<f32> = if call.node.int("linear_before_reset", 0) != 0 {
        (0..h.len()).map(|i| (a[at(i, 2)] + gate(i, 1) * b[at(i, 2)]).tanh()).collect()
    } else {
        let reset: Vec<f32> = h.iter().enumerate().map(|(i, h)| gate(i, 1) * h).collect();
        let again = affine(&reset, r, bias, lengths.batch);
        (0..h.len()).map(|i| (a[at(i, 2)] + again[at(i, 2)]).tanh()).collect()
    };
    for (index, h) in h.iter_mut().enumerate() {
        let update = gate(index, 0);
        *h = (1.0 - update) * hidden[index] + update * *h;
    }
}
