//! A family comes back from its bytes as it was, and from no others.
#![allow(clippy::unwrap_used)]

mod small;

use proptest::prelude::*;
use secateur_common::{Budget, Digest, Metric, caps};
use secateur_model::Graph;
use secateur_prune::{Family, Meter, Method, Refit};

fn family(method: Method) -> Family {
    Family::new(&small::net(), method, 7, Some(&small::images(8)), &mut |_| ()).unwrap()
}

fn again(bytes: &[u8], method: Method) -> Option<Family> {
    Family::from_bytes(bytes, &small::net(), method, 7, Some(&small::images(8))).unwrap()
}

fn pruned(family: &Family) -> Graph {
    let budget = Budget::default().with(Metric::Macs, 20_000.0).with(Metric::ModelBytes, 3_000.0);
    family
        .to_budget(&budget, Refit { share: 0.5, ..Refit::SHIPPED }, Meter::new(&small::bytes), &mut |_| ())
        .unwrap()
        .graph
}

#[test]
fn what_comes_back_prunes_bit_for_bit_the_same() {
    for method in Method::ALL {
        let family = family(method);
        let bytes = family.to_bytes(caps::FAMILY_BYTES).unwrap();
        let expected = pruned(&family);
        assert_eq!(pruned(&again(&bytes, method).unwrap()), expected, "{method:?}");
        // Without what the refit aims at, which is then taken again.
        let less = family.to_bytes(bytes.len() - 1);
        assert_eq!(less.is_some(), method == Method::Obs, "{method:?}");
        if let Some(less) = less {
            assert!(less.len() < bytes.len());
            assert_eq!(pruned(&again(&less, method).unwrap()), expected, "{method:?}");
        }
    }
}

#[test]
fn bytes_of_another_method_or_model_are_none() {
    let bytes = family(Method::Obs).to_bytes(caps::FAMILY_BYTES).unwrap();
    assert!(again(&bytes, Method::Magnitude).is_none());
    let mut wider = small::net();
    wider.initializers.insert("w5".into(), small::weights(8, &[13, 6, 1, 1]));
    wider.initializers.insert("b5".into(), small::weights(9, &[13]));
    wider.initializers.insert("w6".into(), small::weights(10, &[5, 13]));
    let found = Family::from_bytes(&bytes, &wider, Method::Obs, 7, Some(&small::images(8))).unwrap();
    assert!(found.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_bytes_are_none(at in 0.0_f64..1.0, flip in 1_u8.., cut in any::<bool>()) {
        let mut bytes = family(Method::Obs).to_bytes(caps::FAMILY_BYTES).unwrap();
        let at = (at * bytes.len() as f64) as usize;
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        prop_assert!(again(&bytes, Method::Obs).is_none());
        // With the right digest it may pass for one; it must not panic, nor take memory for lengths that lie.
        if at >= 40 {
            let digest = Digest::of(&bytes[40..]);
            bytes[8..40].copy_from_slice(digest.as_bytes());
            let _ = again(&bytes, Method::Obs);
        }
    }
}
