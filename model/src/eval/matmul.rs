//! Matrix products: `Gemm` and `MatMul`, on faer's kernels.

use faer::linalg::matmul::matmul as faer_matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::elementwise::broadcast_shape;
use super::{Call, Depth, Fault, zeros};
use crate::Tensor;

/// `c[m, n] += a[m, k] · b[k, n]`, all row-major, on one thread.
///
/// # Panics
/// Where a slice is not as long as its shape asks for.
pub(crate) fn sgemm(m: usize, k: usize, n: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    let (a, b) = (MatRef::from_row_major_slice(a, m, k), MatRef::from_row_major_slice(b, k, n));
    faer_matmul(MatMut::from_row_major_slice_mut(c, m, n), Accum::Add, a, b, 1.0, Par::Seq);
}

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "Gemm" => Ok(vec![gemm(call)?]),
        "MatMul" => Ok(vec![matmul(call)?]),
        _ => Err(Fault::Unknown),
    }
}

fn gemm(call: &Call<'_>) -> Result<Tensor, Fault> {
    let ((a_shape, a), (b_shape, b)) = (call.floats(0)?, call.floats(1)?);
    let (&[a0, a1], &[b0, b1]) = (a_shape, b_shape) else { return Err("operands are not matrices".into()) };
    let (flip_a, flip_b) = (call.node.int("transA", 0) != 0, call.node.int("transB", 0) != 0);
    let (m, k) = if flip_a { (a1, a0) } else { (a0, a1) };
    let (k_of_b, n) = if flip_b { (b1, b0) } else { (b0, b1) };
    if k != k_of_b {
        return Err(format!("operands {a_shape:?} and {b_shape:?} do not fit").into());
    }
    let mut out = zeros(vec![m, n])?;
    if call.depth == Depth::Shapes || m == 0 || n == 0 {
        return Ok(out);
    }
    let y = out.as_f32_mut().ok_or("unreachable")?;
    if let Some((shape, c)) = call.optional(2).map(|_| call.floats(2)).transpose()? {
        let beta = call.node.float("beta", 1.0);
        let (rows, cols) = match *shape {
            [] => (1, 1),
            [n] => (1, n),
            [m, n] => (m, n),
            _ => return Err("the addend has more than two dimensions".into()),
        };
        if (rows != 1 && rows != m) || (cols != 1 && cols != n) {
            return Err(format!("the addend {shape:?} does not fit [{m}, {n}]").into());
        }
        let at = |i: usize, j: usize| c[if rows == 1 { 0 } else { i } * cols + if cols == 1 { 0 } else { j }];
        for (index, value) in y.iter_mut().enumerate() {
            *value = beta * at(index / n, index % n);
        }
    }
    let a = MatRef::from_row_major_slice(a, a0, a1);
    let b = MatRef::from_row_major_slice(b, b0, b1);
    let (a, b) = (if flip_a { a.transpose() } else { a }, if flip_b { b.transpose() } else { b });
    let y = MatMut::from_row_major_slice_mut(y, m, n);
    faer_matmul(y, Accum::Add, a, b, call.node.float("alpha", 1.0), Par::rayon(0));
    Ok(out)
}

/// NumPy's `matmul`: leading dimensions broadcast, vectors are rows or columns.
fn matmul(call: &Call<'_>) -> Result<Tensor, Fault> {
    let ((a_shape, a), (b_shape, b)) = (call.floats(0)?, call.floats(1)?);
    if a_shape.is_empty() || b_shape.is_empty() {
        return Err("a scalar operand".into());
    }
    let a_full = if a_shape.len() == 1 { vec![1, a_shape[0]] } else { a_shape.to_vec() };
    let b_full = if b_shape.len() == 1 { vec![b_shape[0], 1] } else { b_shape.to_vec() };
    let ((a_lead, a_mat), (b_lead, b_mat)) =
        (a_full.split_at(a_full.len() - 2), b_full.split_at(b_full.len() - 2));
    let (m, k, n) = (a_mat[0], a_mat[1], b_mat[1]);
    if k != b_mat[0] {
        return Err(format!("operands {a_shape:?} and {b_shape:?} do not fit").into());
    }
    let lead = broadcast_shape(a_lead, b_lead)?;
    let mut shape = lead.clone();
    shape.extend((a_shape.len() > 1).then_some(m));
    shape.extend((b_shape.len() > 1).then_some(n));
    let mut out = zeros(shape)?;
    if call.depth == Depth::Shapes || out.is_empty() {
        return Ok(out);
    }
    let y = out.as_f32_mut().ok_or("unreachable")?;
    if b_lead.is_empty() {
        // One matrix on the right: all rows on the left are one matrix too.
        let rows = y.len() / n;
        let (a, b) = (MatRef::from_row_major_slice(a, rows, k), MatRef::from_row_major_slice(b, k, n));
        faer_matmul(MatMut::from_row_major_slice_mut(y, rows, n), Accum::Add, a, b, 1.0, Par::rayon(0));
        return Ok(out);
    }
    let (a_index, b_index) = (lead_indices(&lead, a_lead), lead_indices(&lead, b_lead));
    y.par_chunks_exact_mut(m * n).enumerate().for_each(|(i, y)| {
        let (a, b) = (&a[a_index[i] * m * k..][..m * k], &b[b_index[i] * k * n..][..k * n]);
        sgemm(m, k, n, a, b, y);
    });
    Ok(out)
}

/// For each index of the broadcast leading shape, the index in an operand's own leading shape.
fn lead_indices(lead: &[usize], own: &[usize]) -> Vec<usize> {
    let offset = lead.len() - own.len();
    let index = |mut flat: usize| {
        let (mut result, mut stride) = (0, 1);
        for axis in (0..lead.len()).rev() {
            let position = flat % lead[axis];
            flat /= lead[axis];
            if axis >= offset {
                let length = own[axis - offset];
                result += if length == 1 { 0 } else { position * stride };
                stride *= length;
            }
        }
        result
    };
    (0..lead.iter().product()).map(index).collect()
}
