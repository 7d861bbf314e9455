//! Slots of memory: values that are never alive together share one, if their gaps lie at the same places: gaps are zeroed
//! once and for all.

/// When a value comes to be and when it is read last, as indices of steps, and the floats that it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) len: usize,
    /// Values of one kind have their gaps at the same places.
    pub(super) kind: usize,
}

/// The slot of each life, and the floats of each slot. Large values choose first, so that small ones fill in.
pub(super) fn assign(lives: &[Life]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(lives[index].len), index));
    let mut slots: Vec<Vec<usize>> = Vec::new();
    let mut assigned = vec![0; lives.len()];
    for index in order {
        let meets = |&other: &usize| {
            lives[other].first <= lives[index].last && lives[index].first <= lives[other].last
        };
        let free = |held: &Vec<usize>| lives[held[0]].kind == lives[index].kind && !held.iter().any(meets);
        let slot = slots.iter().position(free).unwrap_or_else(|| {
            slots.push(Vec::new());
            slots.len() - 1
        });
        slots[slot].push(index);
        assigned[index] = slot;
    }
    let longest = |held: &Vec<usize>| held.iter().map(|&index| lives[index].len).max().unwrap_or(0);
    (assigned, slots.iter().map(longest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_kind_share_a_slot_unless_they_meet() {
        let life = |first, last, len, kind| Life { first, last, len, kind };
        let lives =
            [life(0, 1, 10, 0), life(1, 2, 30, 0), life(2, 3, 20, 0), life(0, 3, 5, 0), life(3, 4, 7, 1)];
        let (assigned, slots) = assign(&lives);
        for (i, a) in lives.iter().enumerate() {
            assert!(slots[assigned[i]] >= a.len);
            for (j, b) in lives.iter().enumerate().skip(i + 1) {
                let meet = a.first <= b.last && b.first <= a.last;
                assert!(!(meet || a.kind != b.kind) || assigned[i] != assigned[j]);
            }
        }
        assert_eq!(slots.iter().sum::<usize>(), 30 + 20 + 5 + 7);
    }
}
