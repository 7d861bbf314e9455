//! `Einsum`, as it is defined: for each index of the result, a sum over the letters that it lacks.

use std::collections::BTreeMap;

use super::{Call, Depth, Fault, zeros, zeros_count};
use crate::Tensor;

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "Einsum" => Ok(vec![einsum(call)?]),
        _ => Err(Fault::Unknown),
    }
}

fn einsum(call: &Call<'_>) -> Result<Tensor, Fault> {
    let equation: String = call.node.text("equation").unwrap_or_default().split_whitespace().collect();
    if !equation.chars().all(|c| c.is_ascii_alphabetic() || ",->".contains(c)) {
        return Err(format!("the equation `{equation}` has more than letters").into());
    }
    let (left, right) = equation.split_once("->").unwrap_or((&equation, ""));
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != call.inputs.len() {
        return Err(format!("{} operands for `{equation}`", call.inputs.len()).into());
    }
    let mut lengths: BTreeMap<char, usize> = BTreeMap::new();
    let mut operands = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let (shape, values) = call.floats(index)?;
        if shape.len() != term.len() {
            return Err(format!("`{term}` for an operand of shape {shape:?}").into());
        }
        for (letter, &length) in term.chars().zip(shape) {
            if *lengths.entry(letter).or_insert(length) != length {
                return Err(format!("`{letter}` has two lengths").into());
            }
        }
        operands.push((*term, shape, values));
    }
    // Without an arrow, letters that occur once are those of the result, in alphabetical order.
    let implied = || lengths.keys().filter(|letter| left.matches(**letter).count() == 1).collect();
    let result: String = if equation.contains("->") { right.to_owned() } else { implied() };
    let known =
        |letter: char| lengths.get(&letter).copied().ok_or_else(|| format!("`{letter}` is no operand's"));
    let shape: Vec<usize> = result.chars().map(known).collect::<Result<_, _>>()?;
    let mut out = zeros(shape.clone())?;
    if call.depth == Depth::Shapes || out.is_empty() {
        return Ok(out);
    }
    let summed: Vec<char> = lengths.keys().copied().filter(|&letter| !result.contains(letter)).collect();
    let inner: Vec<usize> = summed.iter().map(|letter| lengths[letter]).collect();
    zeros_count(&[out.len(), zeros_count(&inner)?])?; // bounds the time as well
    let offsets = |letters: &[char], lengths: &[usize], term: &str, own: &[usize]| -> Vec<usize> {
        let stride = |letter: char| -> usize {
            let at = |position: usize| own[position + 1..].iter().product::<usize>();
            term.chars()
                .enumerate()
                .filter(|&(_, other)| other == letter)
                .map(|(position, _)| at(position))
                .sum()
        };
        let choices = letters.iter().zip(lengths);
        let choices: Vec<Vec<usize>> =
            choices.map(|(&letter, &length)| (0..length).map(|i| i * stride(letter)).collect()).collect();
        super::layout::grid(&choices)
    };
    let outer: Vec<char> = result.chars().collect();
    let indices: Vec<(Vec<usize>, Vec<usize>, &[f32])> = operands
        .iter()
        .map(|(term, own, values)| {
            (offsets(&outer, &shape, term, own), offsets(&summed, &inner, term, own), *values)
        })
        .collect();
    let count = inner.iter().product::<usize>();
    let sum = |at: usize| -> f32 {
        let product = |k: usize| indices.iter().map(|(o, s, values)| values[o[at] + s[k]]).product::<f32>();
        (0..count).map(product).sum()
    };
    let y = out.as_f32_mut().ok_or("unreachable")?;
    y.iter_mut().enumerate().for_each(|(at, value)| *value = sum(at));
    Ok(out)
}
