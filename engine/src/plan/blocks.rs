//! Which rows of a convolution go together: those that add the fewest taps to each other.

use crate::kernels::{Row, union};

/// The indices of `rows` in blocks of at most `height`, as even as can be. Each takes the longest row that is left and those
/// that add the fewest taps to it, then rows change places as long as that spares taps; where all rows are alike, in order.
pub(super) fn blocks(rows: &[Row], height: usize) -> Vec<Vec<usize>> {
    let count = rows.len().div_ceil(height);
    let part = |i: usize| rows.len() * i / count;
    let mut made: Vec<Vec<usize>> = (0..count).map(|i| (part(i)..part(i + 1)).collect()).collect();
    let alike = || rows.windows(2).all(|two| same(&two[0], &two[1]));
    if height == 1 || count == 1 || rows.len() > SORTED_ROWS || alike() {
        return made;
    }
    let taps = TapSets::new(rows);
    let mut left: Vec<usize> = (0..rows.len()).collect();
    left.sort_by_key(|&row| std::cmp::Reverse(rows[row].taps.len()));
    for block in &mut made {
        let size = block.len();
        *block = vec![left.remove(0)];
        while block.len() < size {
            let taps_with = |row: &usize| taps.count(block.iter().chain([row]));
            let Some((at, _)) = left.iter().enumerate().min_by_key(|(_, row)| taps_with(row)) else { break };
            block.push(left.remove(at));
        }
    }
    for _ in 0..SWAP_ROUNDS {
        if !swapped(&mut made, &taps) {
            break;
        }
    }
    made
}

/// Whether two rows have the same taps.
fn same(a: &Row, b: &Row) -> bool {
    a.taps.len() == b.taps.len() && a.taps.iter().zip(&b.taps).all(|(a, b)| a.0 == b.0)
}

/// Lets rows of two blocks change places wherever that spares taps; whether any did.
fn swapped(made: &mut [Vec<usize>], taps: &TapSets) -> bool {
    let mut any = false;
    for second in 1..made.len() {
        let (before, rest) = made.split_at_mut(second);
        let other = &mut rest[0];
        for block in before {
            for at in 0..block.len() * other.len() {
                let (i, j) = (at / other.len(), at % other.len());
                let cost = |a: &[usize], b: &[usize]| taps.count(a) + taps.count(b);
                let old = cost(block, other);
                std::mem::swap(&mut block[i], &mut other[j]);
                if cost(block, other) < old {
                    any = true;
                } else {
                    std::mem::swap(&mut block[i], &mut other[j]);
                }
            }
        }
    }
    any
}

/// Which taps each row has, as bits.
struct TapSets(Vec<Vec<u64>>);

impl TapSets {
    fn new(rows: &[Row]) -> Self {
        let all: Vec<usize> = (0..rows.len()).collect();
        let offsets = union(rows, &all);
        let set = |row: &Row| {
            let mut bits = vec![0u64; offsets.len().div_ceil(64)];
            for at in row.taps.iter().filter_map(|tap| offsets.binary_search(&tap.0).ok()) {
                bits[at / 64] |= 1 << (at % 64);
            }
            bits
        };
        Self(rows.iter().map(set).collect())
    }

    /// Taps that any of `rows` has.
    fn count<'r>(&self, rows: impl IntoIterator<Item = &'r usize> + Clone) -> u32 {
        let words = self.0.first().map_or(0, Vec::len);
        let word = |at: usize| rows.clone().into_iter().fold(0, |bits, &row| bits | self.0[row][at]);
        (0..words).map(|at| word(at).count_ones()).sum()
    }
}

/// Rows that are sorted into blocks by their taps, at most: the work grows with the square.
const SORTED_ROWS: usize = 256;
/// Times that all rows may change places.
const SWAP_ROUNDS: usize = 4;
