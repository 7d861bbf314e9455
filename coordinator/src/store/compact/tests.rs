//! What is written is read; what is no record is told and never a panic; and what is on disks stays readable.

use proptest::prelude::*;

use super::*;

fn variant() -> impl Strategy<Value = VariantId> {
    any::<[u8; 32]>().prop_map(|bytes| VariantId(Digest::from_bytes(bytes)))
}

/// Numbers of all lengths.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(bits, shift)| bits >> shift)
}

fn numbers<const N: usize>() -> impl Strategy<Value = [u64; N]> {
    prop::collection::vec(number(), N).prop_map(|numbers| numbers.try_into().unwrap())
}

fn ledger() -> impl Strategy<Value = Ledger> {
    (numbers(), prop::option::of(number())).prop_map(|([day, update, control, report], behind)| Ledger {
        day,
        update,
        control,
        report,
        behind,
    })
}

fn sensed() -> impl Strategy<Value = Sensed> {
    let known = (prop::option::of(number()), any::<bool>(), prop::option::of(any::<i64>()));
    (known, prop::option::of(number())).prop_map(|((energy, declared, temperature), throttled)| Sensed {
        energy_per_inference_nj: energy,
        energy_declared: declared,
        temperature_millidegrees: temperature,
        throttled,
    })
}

prop_compose! {
    fn heard()(n in numbers::<14>(), model in "[a-z0-9][a-z0-9._/-]{0,20}", variant in variant(),
               sensed in sensed(), today in ledger()) -> Heard {
        Heard { at_unix_s: n[0], report: Report {
            sequence: n[1],
            model: model.parse().unwrap(),
            variant,
            generation: Generation(n[2]),
            accuracy: Accuracy { samples: n[3], correct: n[4] },
            latency: LatencySummary { count: n[5], p50: Micros(n[6]), p95: Micros(n[7]), p99: Micros(n[8]) },
            memory: DeviceMemory { inference_peak: ByteCount(n[9]), process_peak: ByteCount(n[10]) },
            sensed,
            model_bytes: ByteCount(n[11]),
            disk_bytes: ByteCount(n[12]),
            wire_bytes: ByteCount(n[13]),
            today,
        } }
    }
}

prop_compose! {
    fn measurement()(n in numbers::<8>(), p95 in prop::collection::vec(number(), 0..6),
                     energy_nj in prop::collection::vec(number(), 0..6)) -> Measurement {
        Measurement {
            p95: p95.into_iter().map(Micros).collect(),
            energy_nj,
            memory_bytes: n[0],
            model_bytes: n[1],
            accuracy: Accuracy { samples: n[2], correct: n[3] },
            generation: Generation(n[4]),
            reports: n[5],
            first: Accuracy { samples: n[6], correct: n[7] },
        }
    }
}

prop_compose! {
    fn device()(id in any::<[u8; 16]>(), n in numbers::<5>(), sent in ledger(),
                labels in prop::collection::btree_map("[a-z]{1,8}", "[a-z0-9]{1,8}", 0..5),
                measured in prop::collection::vec((variant(), measurement()), 0..4),
                held in prop::collection::vec(variant(), 0..4),
                active in prop::option::of(variant()), newest in prop::option::of(heard()),
                failed in prop::option::of(number()), delta in any::<bool>()) -> DeviceRecord {
        let view = DeviceView { id: DeviceId::from_bytes(id), labels: labels.try_into().unwrap(), measured };
        DeviceRecord {
            name: "gw-1/a".parse().unwrap(),
            view,
            held,
            active: active.map(|variant| (variant, Generation(n[0]))),
            accepted: Generation(n[1]),
            failed: failed.map(Generation),
            newest: newest.map(Box::new),
            shipped: active.map(|variant| Shipped { variant, bytes: ByteCount(n[2]), delta }),
            served: ByteCount(n[3]),
            sent,
            heard_unix_s: n[4],
        }
    }
}

fn bytes(value: &impl Compact) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.put(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_read(device in device(), heard in prop::collection::vec(heard(), 0..4), number: u64) {
        let told = heard.into_iter().map(|heard| Told { device: device.view.id, sent: device.sent, heard });
        let reports = Reports { number, told: told.collect() };
        prop_assert_eq!(whole::<Reports>(&bytes(&reports)), Ok(reports));
        prop_assert_eq!(whole::<DeviceRecord>(&bytes(&device)), Ok(device));
    }

    #[test]
    fn a_cut_is_told_and_a_disturbed_byte_is_no_panic(device in device(), at: prop::sample::Index, byte: u8) {
        let mut written = bytes(&device);
        let at = at.index(written.len());
        prop_assert!(whole::<DeviceRecord>(&written[..at]).is_err());
        written[at] = byte;
        let _ = whole::<DeviceRecord>(&written);
    }

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = (whole::<DeviceRecord>(&bytes), whole::<Reports>(&bytes));
    }

    #[test]
    fn numbers_of_either_sign_are_read(number: i64, small in -64i64..64) {
        prop_assert_eq!(whole::<i64>(&bytes(&number)), Ok(number));
        prop_assert_eq!(bytes(&small).len(), 1);
    }
}

/// What is on disks: a change here asks for a new version of the record, and a migration.
#[test]
fn the_form_of_a_device_stays() {
    let id = DeviceId::from_bytes([7; 16]);
    let mut device = DeviceRecord::new(id, "gw-1".parse().unwrap());
    device.view.labels = "site=n".parse().unwrap();
    device.active = Some((VariantId(Digest::from_bytes([9; 32])), Generation(300)));
    device.failed = Some(Generation(1));
    device.heard_unix_s = 128;
    let labels = [&[4][..], b"gw-1", &[7; 16], &[6], b"site=n", &[0]].concat();
    let state = [&[0, 1][..], &[9; 32], &[0xac, 2], &[0], &[1, 1], &[0], &[0], &[0]].concat();
    let sent = [0, 0, 0, 0, 0];
    assert_eq!(bytes(&device), [&labels[..], &state, &sent, &[0x80, 1]].concat());
}

#[test]
fn numbers_that_no_word_holds_are_bad() {
    assert_eq!(whole::<u64>(&[&[0xff; 9][..], &[1]].concat()), Ok(u64::MAX));
    assert_eq!(whole::<u64>(&[&[0xff; 9][..], &[2]].concat()), Err(Garbled("number")));
    assert_eq!(whole::<Vec<u64>>(&[0x80, 0x80, 0x80, 0x80, 0x10]), Err(Garbled("length")));
    assert_eq!(whole::<bool>(&[2]), Err(Garbled("flag")));
}
