//! The envelope of a record: a version byte, four bytes of the payload's BLAKE3, the payload as JSON.

use secateur_common::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;
const CHECK: usize = 4;

/// The key of the record `name`.
pub(super) fn key(name: &str) -> Vec<u8> {
    [b"r/", name.as_bytes()].concat()
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Records are of maps, numbers and texts, which serde_json can always write.
    let json = serde_json::to_vec(value).unwrap_or_default();
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&Digest::of(&json).as_bytes()[..CHECK]);
    bytes.extend_from_slice(&json);
    bytes
}

/// The value; none where the record is damaged or of another version.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (&version, rest) = bytes.split_first()?;
    let (check, json) = rest.split_at_checked(CHECK)?;
    let good = version == VERSION && Digest::of(json).as_bytes()[..CHECK] == *check;
    good.then(|| serde_json::from_slice(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(value in any::<u64>(), bit in any::<prop::sample::Index>()) {
            let mut bytes = encode(&value);
            prop_assert_eq!(decode::<u64>(&bytes), Some(value));
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode::<u64>(&bytes), None);
        }

        #[test]
        fn random_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode::<u64>(&bytes);
        }
    }
}
