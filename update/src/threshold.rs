//! Finding the threshold that explains a mask: which old magnitudes were kept.

use crate::entry::{Context, Threshold};

const SIGN: u32 = 1 << 31;

/// The threshold under which `old` became `new` by zeroing alone, if there is one.
pub(crate) fn rule(old: &[f32], new: &[f32]) -> Option<Threshold> {
    let threshold = smallest_kept(old, new)?;
    let holds = |threshold: Threshold| {
        old.iter().zip(new).all(|(&old, &new)| threshold.rule(old).to_bits() == new.to_bits())
    };
    [Threshold(threshold), Threshold(threshold | SIGN)].into_iter().find(|&threshold| holds(threshold))
}

/// How `old` best predicts which of `new` are not zero.
pub(crate) fn context(old: &[f32], new: &[f32]) -> Context {
    let zeros = new.iter().filter(|&&new| new == 0.0).count();
    let none = Context { threshold: None, strict: false };
    if zeros == 0 {
        return none;
    }
    let missed = |keeps: &dyn Fn(f32) -> bool| {
        let both = old.iter().zip(new);
        both.fold((0, 0), |(lost, spurious), (&old, &new)| match (old != 0.0 && keeps(old), new != 0.0) {
            (false, true) => (lost + 1, spurious),
            (true, false) => (lost, spurious + 1),
            _ => (lost, spurious),
        })
    };
    let best = Threshold(best_split(old, new));
    let smallest = smallest_kept(old, new).map(Threshold);
    let all = missed(&|_| true);
    let split = missed(&|old| best.keeps(old));
    let strict = smallest.map(|smallest| (smallest, missed(&|old| smallest.keeps(old))));
    let errors = |(lost, spurious): (usize, usize)| lost + spurious;
    match strict {
        // Where nothing is lost, what the rule drops costs nothing.
        _ if all.0 == 0 && errors(all) <= 2 * errors(split) + 8 => Context { threshold: None, strict: true },
        Some((smallest, missed)) if missed.0 == 0 && errors(missed) <= 2 * errors(split) + 8 => {
            Context { threshold: Some(smallest), strict: true }
        }
        _ if errors(split) < errors(all).min(new.len() - zeros) => {
            Context { threshold: Some(best), strict: false }
        }
        _ => none,
    }
}

/// The smallest old magnitude whose new value is not zero, as bits.
fn smallest_kept(old: &[f32], new: &[f32]) -> Option<u32> {
    let kept = old.iter().zip(new).filter(|(_, new)| **new != 0.0);
    kept.map(|(old, _)| old.to_bits() & !SIGN).min()
}

/// The magnitude, to 16 bits, that best separates what is zero now from what is not.
fn best_split(old: &[f32], new: &[f32]) -> u32 {
    let mut bins = vec![0i64; 1 << 15];
    for (old, new) in old.iter().zip(new).filter(|(old, _)| **old != 0.0) {
        bins[((old.to_bits() & !SIGN) >> 16) as usize] += if *new == 0.0 { -1 } else { 1 };
    }
    // Gain of keeping all from a bin on: its sum to the end.
    let (mut best, mut gain, mut most) = (bins.len(), 0, 0);
    for (bin, &balance) in bins.iter().enumerate().rev() {
        gain += balance;
        if gain > most {
            (best, most) = (bin, gain);
        }
    }
    (best as u32) << 16
}
