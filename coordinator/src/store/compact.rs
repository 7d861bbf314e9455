//! The compact form, of what is stored often: fields one after the other, numbers as varints (LEB128), lists and texts after
//! their length. Nothing names a field: a record's version says which there are.
//!
//! Architecture invariant: bytes that are no such record are an error and never a panic, and a length is believed only as far
//! as there are bytes for it.

use secateur_common::{
    Accuracy, ByteCount, DeviceId, DeviceMemory, Digest, Generation, Heard, Labels, LatencySummary, Ledger,
    Micros, Name, Report, Sensed, VariantId,
};
use secateur_plan::{DeviceView, Measurement};

use crate::inventory::{DeviceRecord, Shipped};
use crate::journal::{Reports, Told};

/// What is wrong with bytes that should be compact.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bad {0}")]
pub(crate) struct Garbled(&'static str);

/// What can be written in the compact form.
pub(crate) trait Compact: Sized {
    /// Appends it.
    fn put(&self, to: &mut Vec<u8>);

    /// Takes it from the front of `from`.
    fn take(from: &mut &[u8]) -> Result<Self, Garbled>;
}

/// The one value that `bytes` are.
pub(crate) fn whole<T: Compact>(mut bytes: &[u8]) -> Result<T, Garbled> {
    let value = T::take(&mut bytes)?;
    if bytes.is_empty() { Ok(value) } else { Err(Garbled("end")) }
}

fn cut<'b>(from: &mut &'b [u8], length: usize) -> Result<&'b [u8], Garbled> {
    let (front, rest) = from.split_at_checked(length).ok_or(Garbled("length"))?;
    *from = rest;
    Ok(front)
}

impl Compact for u64 {
    fn put(&self, to: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            to.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        to.push(rest as u8);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = cut(from, 1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Garbled("number"))
    }
}

/// Zigzag: small numbers of either sign are short.
impl Compact for i64 {
    fn put(&self, to: &mut Vec<u8>) {
        ((self << 1) ^ (self >> 63)).cast_unsigned().put(to);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        let zigzag = u64::take(from)?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }
}

impl Compact for bool {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        match cut(from, 1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbled("flag")),
        }
    }
}

impl<T: Compact> Compact for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        self.iter().for_each(|value| value.put(to));
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        bool::take(from)?.then(|| T::take(from)).transpose()
    }
}

impl<T: Compact> Compact for Box<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (**self).put(to);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        T::take(from).map(Self::new)
    }
}

impl<T: Compact> Compact for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u64).put(to);
        self.iter().for_each(|value| value.put(to));
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        let length = length(from)?;
        let mut values = Self::with_capacity(length);
        for _ in 0..length {
            values.push(T::take(from)?);
        }
        Ok(values)
    }
}

/// A length, of things that take a byte at least.
fn length(from: &mut &[u8]) -> Result<usize, Garbled> {
    let length = u64::take(from)?;
    usize::try_from(length).ok().filter(|&length| length <= from.len()).ok_or(Garbled("length"))
}

impl<A: Compact, B: Compact> Compact for (A, B) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

impl Compact for DeviceId {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        cut(from, 16)?.try_into().map(Self::from_bytes).map_err(|_| Garbled("device"))
    }
}

impl Compact for VariantId {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.0.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
        Digest::try_from(cut(from, 32)?).map(Self).map_err(|_| Garbled("variant"))
    }
}

/// Types that are one number.
macro_rules! numbers {
    ($($type:ident)*) => {$(
        impl Compact for $type {
            fn put(&self, to: &mut Vec<u8>) {
                self.0.put(to);
            }

            fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
                u64::take(from).map(Self)
            }
        }
    )*};
}

/// Types that are checked texts.
macro_rules! texts {
    ($($type:ident)*) => {$(
        impl Compact for $type {
            fn put(&self, to: &mut Vec<u8>) {
                let text = self.as_str().as_bytes();
                (text.len() as u64).put(to);
                to.extend_from_slice(text);
            }

            fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
                let length = length(from)?;
                let text = std::str::from_utf8(cut(from, length)?).ok();
                text.and_then(|text| text.parse().ok()).ok_or(Garbled("text"))
            }
        }
    )*};
}

/// Types that are their fields, in this order. None can be forgotten.
macro_rules! structs {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Compact for $type {
            fn put(&self, to: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($field.put(to);)*
            }

            fn take(from: &mut &[u8]) -> Result<Self, Garbled> {
                Ok(Self { $($field: Compact::take(from)?),* })
            }
        }
    )*};
}

numbers! { ByteCount Generation Micros }
texts! { Name Labels }
structs! {
    Accuracy { samples, correct }
    LatencySummary { count, p50, p95, p99 }
    DeviceMemory { inference_peak, process_peak }
    Sensed { energy_per_inference_nj, energy_declared, temperature_millidegrees, throttled }
    Ledger { day, update, control, report, behind }
    Report {
        sequence, model, variant, generation, accuracy, latency, memory, sensed, model_bytes, disk_bytes,
        wire_bytes, today
    }
    Heard { at_unix_s, report }
    Told { device, sent, heard }
    Reports { number, told }
    Measurement { p95, energy_nj, memory_bytes, model_bytes, accuracy, generation, reports, first }
    DeviceView { id, labels, measured }
    Shipped { variant, bytes, delta }
    DeviceRecord {
        name, view, held, active, accepted, failed, newest, shipped, served, sent, heard_unix_s
    }
}

#[cfg(test)]
mod tests;
