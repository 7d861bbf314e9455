//! Bytes from outside: whatever they are, an error that says what is wrong; no panic, no result, no large allocation.
#![allow(clippy::unwrap_used)] // a test panics where it fails

mod common;

use common::{layout, mapped, network, reseal, same_bits, weights};
use proptest::prelude::*;
use secateur_common::{Digest, Generation};
use secateur_model::{Graph, Tensor, canonical};
use secateur_update::{ApplyError, DecodeError, Manifest, Operation, Part, apply, encode, publish};

/// A delta with every operation in it, and its base.
fn delta() -> (Graph, Vec<u8>) {
    let tensors = |seed| {
        common::graph(vec![
            ("cut.weight", Tensor::f32([6, 5], weights(30, seed)).unwrap()),
            ("dense.weight", Tensor::f32([4, 20], weights(80, seed + 1)).unwrap()),
            ("inputs.weight", Tensor::f32([24, 6], weights(144, seed + 5)).unwrap()),
            ("kept.weight", Tensor::f32([3], weights(3, seed + 2)).unwrap()),
            ("rule.weight", Tensor::f32([5, 5], weights(25, seed + 3)).unwrap()),
            ("shape", Tensor::i64([2], vec![1, seed as i64]).unwrap()),
            ("sparse.weight", Tensor::f32([9, 9], weights(81, seed + 4)).unwrap()),
        ])
    };
    let base = tensors(1);
    let mut target = base.clone();
    let other = publish(&tensors(50), 2e-3);
    for (name, tensor) in &mut target.initializers {
        match name.as_str() {
            "cut.weight" => *tensor = tensor.gathered(0, &[0, 2, 3]),
            "rule.weight" => {
                let rule = |w: &mut f32| *w = if w.abs() < 0.05 { 0.0 } else { *w };
                tensor.as_f32_mut().unwrap().iter_mut().for_each(rule);
            }
            "dense.weight" => tensor.as_f32_mut().unwrap().iter_mut().for_each(|w| *w *= 1.001),
            "inputs.weight" => {
                let narrow = common::graph(vec![("w", common::refitted(tensor, &[0, 1, 2, 4]))]);
                *tensor = publish(&narrow, 1e-3).initializers["w"].clone();
            }
            "kept.weight" => {}
            _ => *tensor = other.initializers[name].clone(),
        }
    }
    let update = encode(Some(&base), &target, Generation(3)).unwrap();
    let operations: Vec<_> =
        Manifest::read(&update).unwrap().tensors().map(|tensor| tensor.operation).collect();
    assert!(operations.contains(&Operation::Refit), "{operations:?}");
    (base, update)
}

fn full() -> Vec<u8> {
    encode(None, &publish(&network(3), 2e-3), Generation(3)).unwrap()
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let (base, delta) = delta();
    for (base, update) in [(Some(&base), delta), (None, full())] {
        for length in 0..update.len() {
            let error = apply(base, &update[..length]).unwrap_err();
            assert!(matches!(error, ApplyError::Decode(DecodeError::Truncated)), "{length}: {error}");
        }
        let longer = [update.as_slice(), &[0]].concat();
        let error = apply(base, &longer).unwrap_err();
        assert!(matches!(error, ApplyError::Decode(DecodeError::Trailing { extra: 1 })), "{error}");
    }
}

#[test]
fn every_flipped_bit_is_an_error() {
    let (base, delta) = delta();
    for bit in 0..delta.len() * 8 {
        let mut flipped = delta.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(apply(Some(&base), &flipped), Err(ApplyError::Decode(_))), "{bit}");
    }
}

#[test]
fn every_flipped_bit_is_an_error_even_under_good_checksums() {
    let (base, delta) = delta();
    for (base, update) in [(Some(&base), delta), (None, full())] {
        let (body, _) = layout(&update).unwrap();
        let generation = body.start + 33 + if base.is_some() { 32 } else { 0 };
        for bit in 0..update.len() * 8 {
            let mut flipped = update.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            reseal(&mut flipped);
            // The generation is free; flips in the checksums themselves are undone by resealing.
            if flipped != update && bit / 8 != generation {
                assert!(apply(base, &flipped).is_err(), "bit {bit}");
            }
        }
    }
}

#[test]
fn a_frame_is_checked_as_it_arrives() {
    let large = common::graph(vec![("w", Tensor::f32([300, 300], weights(90_000, 7)).unwrap())]);
    let update = encode(None, &large, Generation(1)).unwrap();
    let manifest = Manifest::read(&update[..1_000]).unwrap();
    assert!(manifest.frames() > 2);
    let payload = &update[manifest.header_bytes()..];
    for (index, frame) in payload.chunks(64 * 1024).enumerate() {
        manifest.check_frame(index, frame).unwrap();
        let mut damaged = frame.to_vec();
        damaged[9] ^= 4;
        let error = manifest.check_frame(index, &damaged).unwrap_err();
        assert_eq!(error, DecodeError::Checksum { part: Part::Frame(index) });
        assert!(manifest.check_frame(index, &frame[1..]).is_err());
    }
    assert!(manifest.check_frame(manifest.frames(), &[]).is_err());
}

#[test]
fn a_delta_wants_its_own_base() {
    let (base, delta) = delta();
    let expected = canonical::variant_id(&base);
    assert!(matches!(apply(None, &delta), Err(ApplyError::BaseMissing { expected: e }) if e == expected));
    let other = mapped(&base, |w| w + 1.0);
    let error = apply(Some(&other), &delta).unwrap_err();
    assert!(matches!(error, ApplyError::WrongBase { found, .. } if found == canonical::variant_id(&other)));
    assert!(matches!(apply(Some(&network(1)), &delta), Err(ApplyError::WrongBase { .. })));
}

#[test]
fn a_full_update_needs_no_base_and_minds_none() {
    let (base, _) = delta();
    let update = full();
    assert!(same_bits(&apply(None, &update).unwrap().graph, &apply(Some(&base), &update).unwrap().graph));
}

#[test]
fn other_files_and_versions_are_told_apart() {
    let mut update = full();
    assert!(matches!(Manifest::read(b"PK\x03\x04 and more"), Err(DecodeError::Magic)));
    update[4] = 9;
    assert_eq!(Manifest::read(&update), Err(DecodeError::Version { found: 9 }));
}

/// An update with the given manifest body (its tensor table as raw bytes) and payload.
fn forged(table: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = vec![2u8];
    body.extend([0; 32]);
    body.push(0); // generation
    body.extend([0, 0, 0]); // an empty skeleton
    body.extend_from_slice(table);
    body.extend(payload.chunks(64 * 1024).flat_map(|frame| Digest::of(frame).as_bytes()[..8].to_vec()));
    let mut update = b"SCUP\x01".to_vec();
    assert!(body.len() < 1 << 14);
    update.extend([body.len() as u8 | 128, (body.len() >> 7) as u8]);
    update.extend(body);
    let sum = Digest::of(&update);
    update.extend_from_slice(&sum.as_bytes()[..8]);
    update.extend_from_slice(payload);
    update
}

#[test]
fn a_table_that_promises_too_much_is_refused() {
    // Lengths of the table: 2^63, then one over the cap, then within it but without the bytes to hold it.
    for length in [&[0xff; 9][..], &[0x81, 0x80, 0x80, 0x02], &[0x80, 0x80, 0x80, 0x01]] {
        let mut table = length.to_vec();
        table.push(0);
        assert!(matches!(apply(None, &forged(&table, &[])), Err(ApplyError::Decode(_))));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(apply(None, &bytes).is_err());
        prop_assert!(apply(None, &forged(&bytes, &bytes)).is_err());
    }

    #[test]
    fn damage_under_good_checksums_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let (base, delta) = delta();
        for (base, update) in [(Some(&base), delta), (None, full())] {
            let target = Manifest::read(&update).unwrap().target;
            let mut damaged = update.clone();
            for (at, byte) in &damage {
                damaged[at.index(update.len())] = *byte;
            }
            if cut.index(3) == 0 {
                damaged.truncate(cut.index(update.len()));
            }
            reseal(&mut damaged);
            if let Ok(applied) = apply(base, &damaged) {
                prop_assert_eq!(canonical::variant_id(&applied.graph), target);
            }
        }
    }
}
