//! Operators of one number to one number.

use rayon::prelude::*;

use super::{Call, Fault, blank};
use crate::{DType, Tensor};

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let op = call.node.op.as_str();
    let Some(function) = unary(call) else { return Err(Fault::Unknown) };
    if let ("Neg" | "Abs" | "Sign", Some(x)) = (op, call.input(0)?.as_i64()) {
        return Ok(vec![Tensor::i64(
            call.input(0)?.shape(),
            x.iter().map(|&x| of_integer(op, x)).collect(),
        )?]);
    }
    let (shape, x) = call.floats(0)?;
    if call.skips(shape) {
        return Ok(vec![blank(DType::F32, shape.to_vec())?]);
    }
    let result = if op == "Relu" { mapped(x, |x| x.max(0.0)) } else { mapped(x, function) };
    Ok(vec![Tensor::f32(shape, result)?])
}

/// Elements that one thread works through.
const STRETCH: usize = 1 << 16;

/// `f` of each element.
pub(super) fn mapped(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut y = x.to_vec();
    y.par_chunks_mut(STRETCH).for_each(|y| y.iter_mut().for_each(|y| *y = f(*y)));
    y
}

fn of_integer(op: &str, x: i64) -> i64 {
    match op {
        "Neg" => x.wrapping_neg(),
        "Abs" => x.wrapping_abs(),
        _ => x.signum(),
    }
}

/// Operators of one float to one float.
fn unary(call: &Call<'_>) -> Option<Box<dyn Fn(f32) -> f32 + Sync>> {
    let node = call.node;
    let attribute = |name: &str, default: f32| node.float(name, default);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    Some(match node.op.as_str() {
        "Relu" => Box::new(|x| x.max(0.0)),
        "LeakyRelu" => {
            let slope = attribute("alpha", 0.01);
            Box::new(move |x| if x < 0.0 { x * slope } else { x })
        }
        "Sigmoid" => Box::new(sigmoid),
        "HardSigmoid" => {
            let (alpha, beta) = (attribute("alpha", 0.2), attribute("beta", 0.5));
            Box::new(move |x| (alpha * x + beta).clamp(0.0, 1.0))
        }
        "Celu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0))
        }
        "ThresholdedRelu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| if x > alpha { x } else { 0.0 })
        }
        "Shrink" => {
            let (bias, limit) = (attribute("bias", 0.0), attribute("lambd", 0.5));
            Box::new(move |x| match x {
                x if x < -limit => x + bias,
                x if x > limit => x - bias,
                _ => 0.0,
            })
        }
        "HardSwish" => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Swish" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| x * sigmoid(alpha * x))
        }
        "Mish" => Box::new(|x| x * x.exp().ln_1p().tanh()),
        "Elu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Selu" => {
            let (alpha, gamma) = (attribute("alpha", 1.673_263_2), attribute("gamma", 1.050_701));
            Box::new(move |x| gamma * if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Gelu" if node.text("approximate") == Some("tanh") => {
            Box::new(|x| 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()))
        }
        "Gelu" => Box::new(|x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))),
        "Erf" => Box::new(erf),
        "Tanh" => Box::new(f32::tanh),
        "Softplus" => Box::new(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        "Softsign" => Box::new(|x| x / (1.0 + x.abs())),
        "Exp" => Box::new(f32::exp),
        "Log" => Box::new(f32::ln),
        "Sqrt" => Box::new(f32::sqrt),
        "Abs" => Box::new(f32::abs),
        "Neg" => Box::new(|x| -x),
        "Floor" => Box::new(f32::floor),
        "Ceil" => Box::new(f32::ceil),
        "Round" => Box::new(f32::round_ties_even),
        "Reciprocal" => Box::new(f32::recip),
        "Sign" => Box::new(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        "Sin" => Box::new(f32::sin),
        "Cos" => Box::new(f32::cos),
        _ => return None,
    })
}

/// The error function, Abramowitz and Stegun 7.1.26 in f64: absolute error under 1.5e-7.
fn erf(x: f32) -> f32 {
    let (sign, x) = (f64::from(x).signum(), f64::from(x).abs());
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = ((((1.061_405_429 * t - 1.453_152_027) * t + 1.421_413_741) * t - 0.284_496_736) * t
        + 0.254_829_592)
        * t;
    (sign * (1.0 - series * (-x * x).exp())) as f32
}
