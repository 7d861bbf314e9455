//! The quantiser's grid: every value of a published tensor is a whole multiple of the tensor's step.

use std::num::NonZeroU32;

/// Levels to either side of zero, at most: with a multiple below 2^11 every value is exact in an f32.
pub(crate) const LEVELS: i32 = 1 << 12;
/// Multiples are below this.
pub(crate) const MULTIPLES: u32 = 1 << 11;

/// A uniform grid through zero with the step `multiple · 2^exponent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Grid {
    multiple: NonZeroU32,
    exponent: i16,
}

impl Grid {
    /// The grid with that step, where all its values are exact in an f32.
    pub(crate) fn new(multiple: u32, exponent: i64) -> Option<Self> {
        let multiple = NonZeroU32::new(multiple).filter(|multiple| multiple.get() < MULTIPLES)?;
        let exponent = i16::try_from(exponent).ok().filter(|exponent| (-149..=104).contains(exponent))?;
        Some(Self { multiple, exponent })
    }

    pub(crate) fn multiple(self) -> u32 {
        self.multiple.get()
    }

    pub(crate) fn exponent(self) -> i64 {
        self.exponent.into()
    }

    /// The grid's finest step that is at least about `step`: eleven bits of it.
    pub(crate) fn with_step(step: f64) -> Option<Self> {
        if !(step.is_finite() && step > 0.0) {
            return None;
        }
        let exponent = (step.log2().floor() as i64 - 10).max(-149);
        let multiple = (step / exp2(exponent)).round() as u32;
        match multiple {
            MULTIPLES.. => Self::new(MULTIPLES / 2, exponent + 1),
            _ => Self::new(multiple, exponent),
        }
    }

    pub(crate) fn step(self) -> f64 {
        f64::from(self.multiple.get()) * exp2(self.exponent.into())
    }

    /// The value of a level; exact, as its integer has fewer than 24 bits.
    pub(crate) fn value(self, level: i32) -> f32 {
        (f64::from(level) * self.step()) as f32
    }

    /// The level nearest to `value`, if it is within reach.
    pub(crate) fn nearest(self, value: f32) -> Option<i32> {
        let level = round(f64::from(value) / self.step());
        (level.unsigned_abs() <= LEVELS as u32).then_some(level)
    }

    /// `value` in 16ths of a step, cut off far outside: the form in which an old value serves as context. One
    /// exact division and a rounding, so it is the same everywhere.
    pub(crate) fn sixteenths(self, value: f32) -> i32 {
        let scaled = round(f64::from(value) / self.step() * 16.0);
        scaled.clamp(-16 * LEVELS, 16 * LEVELS)
    }

    /// The coarsest grid that holds all `values` exactly, and their levels; none if there is no such grid with
    /// few enough levels (or a value is a negative zero, which no level stands for).
    pub(crate) fn of(values: &[f32]) -> Option<(Self, Vec<i32>)> {
        let parts = || values.iter().map(|&value| split(value));
        let exponent = smallest_exponent(values)?;
        let mut divisor = 0; // stays so where all values are zero, which any grid holds
        for (integer, shift) in parts().filter(|part| part.0 > 0) {
            divisor = gcd(integer << (shift - exponent), divisor);
        }
        let divisor = if divisor == 0 { 1 } else { divisor };
        let shift = divisor.trailing_zeros();
        // Where all levels share a factor, the divisor has it too and may be too long for a multiple.
        let odd = divisor >> shift;
        let factor = (1..=LEVELS as u64).find(|f| odd % f == 0 && odd / f < u64::from(MULTIPLES))?;
        let grid = Self::new((odd / factor) as u32, exponent + i64::from(shift))?;
        let levels: Option<Vec<_>> = values.iter().map(|&value| grid.nearest(value)).collect();
        let levels = levels?;
        let exact =
            values.iter().zip(&levels).all(|(value, &level)| grid.value(level).to_bits() == value.to_bits());
        exact.then_some((grid, levels))
    }
}

/// The nearest integer, halves away from zero, cut off where it has more than 31 bits; of no number 0. As `f64::round`, which
/// is a call on most processors: the sum is exact enough, since the fraction of an f32 over a multiple of 11 bits is a
/// half or at least 2^-36 away from one.
fn round(value: f64) -> i32 {
    (value + 0.5f64.copysign(value)) as i32
}

/// 2 to the power of a small number, exactly.
fn exp2(exponent: i64) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// A value's magnitude as `odd integer · 2^exponent`; zero and what is not finite as 0.
fn split(value: f32) -> (u64, i64) {
    let bits = value.to_bits();
    let (exponent, fraction) = (bits >> 23 & 255, bits & 0x7f_ffff);
    let (integer, exponent) = match exponent {
        255 => return (0, 0),
        0 => (fraction, -149),
        _ => (fraction | 1 << 23, i64::from(exponent) - 150),
    };
    match integer {
        0 => (0, 0),
        _ => (u64::from(integer >> integer.trailing_zeros()), exponent + i64::from(integer.trailing_zeros())),
    }
}

/// The smallest exponent of all values; none if their span already rules a grid out. Arbitrary floats leave here
/// after a few elements.
fn smallest_exponent(values: &[f32]) -> Option<i64> {
    let (mut low, mut high) = (i64::MAX, i64::MIN);
    for &value in values {
        let (integer, exponent) = split(value);
        if integer == 0 && value != 0.0 {
            return None;
        }
        if integer > 0 {
            low = low.min(exponent);
            high = high.max(exponent + 64 - i64::from(integer.leading_zeros()));
            if high - low > 24 {
                return None;
            }
        }
    }
    Some(if low == i64::MAX { 0 } else { low })
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounding_is_that_of_floats(bits in any::<u32>(), multiple in 1u32..MULTIPLES, exponent in -149i64..105) {
            let (value, grid) = (f64::from(f32::from_bits(bits)), Grid::new(multiple, exponent).unwrap());
            for scaled in [value / grid.step(), value / grid.step() * 16.0] {
                prop_assert_eq!(round(scaled), scaled.round() as i32);
            }
        }

        #[test]
        fn what_lies_on_a_grid_is_recognised(
            step in 1e-30f64..1e30, levels in prop::collection::vec(-LEVELS..=LEVELS, 0..40),
        ) {
            let grid = Grid::with_step(step).unwrap();
            prop_assert!((grid.step() / step - 1.0).abs() < 1e-3);
            let values: Vec<_> = levels.iter().map(|&level| grid.value(level)).collect();
            let (found, read) = Grid::of(&values).unwrap();
            let same = read.iter().zip(&values).all(|(&level, value)| found.value(level) == *value);
            prop_assert!(same);
        }
    }

    #[test]
    fn arbitrary_floats_are_on_no_grid() {
        assert!(Grid::of(&[0.1, 0.3, -0.7, 1e-3]).is_none());
        assert!(Grid::of(&[-0.0, 1.0]).is_none());
        assert!(Grid::of(&[f32::NAN]).is_none());
        assert!(Grid::of(&[f32::INFINITY, 1.0]).is_none());
        assert!(Grid::of(&[0.0, 0.0]).is_some());
        assert_eq!(Grid::of(&[0.5, -1.5, 0.0]).unwrap().1, [1, -3, 0]);
    }
}
