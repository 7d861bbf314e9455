//! Quantities with their unit in the type, and how people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wrong with a text or field that came from outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad {what} `{got}`: expected {expected}")]
pub struct ParseError {
    /// The kind of thing that was to be read.
    pub what: String,
    /// What was found.
    pub got: String,
    /// What would have been good.
    pub expected: String,
}

impl ParseError {
    /// An error about a `what` that read `got` where `expected` was asked for.
    pub fn new(what: &str, got: &str, expected: &str) -> Self {
        Self { what: what.to_owned(), got: got.to_owned(), expected: expected.to_owned() }
    }
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
                Self(all.map(|x| x.0).fold(0, u64::saturating_add))
            }
        }

        impl std::ops::Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }
    };
}

quantity!(
    /// A number of bytes. Written `200KiB`, `1.5MB`, `4096`.
    ByteCount
);
quantity!(
    /// A number of multiply-accumulates of convolutions and matrix products. Written `1.5M`, `300k`.
    MacCount
);
quantity!(
    /// A duration in microseconds. Written `5ms`, `300us`, `1s`.
    Micros
);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..1_048_576 => write!(f, "{:.1} KiB", bytes / 1024.0),
            _ => write!(f, "{:.2} MiB", bytes / 1_048_576.0),
        }
    }
}

impl fmt::Display for MacCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let macs = self.0 as f64;
        match self.0 {
            0..1000 => write!(f, "{}", self.0),
            1000..1_000_000 => write!(f, "{:.1}k", macs / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2}M", macs / 1e6),
            _ => write!(f, "{:.2}G", macs / 1e9),
        }
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..10_000 => write!(f, "{} µs", self.0),
            10_000..10_000_000 => write!(f, "{:.1} ms", self.0 as f64 / 1e3),
            _ => write!(f, "{:.1} s", self.0 as f64 / 1e6),
        }
    }
}

/// Reads a non-negative number followed by one of `units`; the empty unit stands for the bare number.
pub(crate) fn parse_scaled(what: &str, text: &str, units: &[(&str, f64)]) -> Result<f64, ParseError> {
    let expected = || {
        let names: Vec<_> =
            units.iter().map(|(unit, _)| if unit.is_empty() { "a bare number" } else { unit }).collect();
        format!("a number with one of: {}", names.join(", "))
    };
    let bad = || ParseError::new(what, text, &expected());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let unit = unit.trim();
    let (_, scale) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(bad)?;
    let value = number * scale;
    if value.is_finite() && (0.0..=9.0e18).contains(&value) { Ok(value) } else { Err(bad()) }
}

pub(crate) const BYTE_UNITS: &[(&str, f64)] = &[
    ("", 1.0),
    ("B", 1.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
];
pub(crate) const COUNT_UNITS: &[(&str, f64)] = &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)];
pub(crate) const TIME_UNITS: &[(&str, f64)] = &[("us", 1.0), ("µs", 1.0), ("ms", 1e3), ("s", 1e6)];
pub(crate) const ENERGY_UNITS: &[(&str, f64)] = &[("uJ", 1.0), ("µJ", 1.0), ("mJ", 1e3), ("J", 1e6)];

impl FromStr for ByteCount {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(Self(parse_scaled("byte count", text, BYTE_UNITS)?.round() as u64))
    }
}

impl FromStr for MacCount {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(Self(parse_scaled("MAC count", text, COUNT_UNITS)?.round() as u64))
    }
}

impl FromStr for Micros {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(Self(parse_scaled("duration", text, TIME_UNITS)?.round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_people_write_them() {
        assert_eq!("200KiB".parse(), Ok(ByteCount(204_800)));
        assert_eq!("1.5M".parse(), Ok(MacCount(1_500_000)));
        assert_eq!("5ms".parse(), Ok(Micros(5_000)));
        for bad in ["", "KiB", "-1B", "1e999", "5 parsecs", "1..2B", "NaN"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad:?}");
        }
        assert!("5".parse::<Micros>().is_err(), "a duration without a unit is ambiguous");
    }
}
