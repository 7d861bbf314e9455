//! The self-test's input, which coordinator and device make alike from a seed, so that it costs no bytes.

/// `len` values in [0, 1) from `seed` (SplitMix64, Steele et al. 2014): the same on every machine.
pub fn probe_input(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..len).map(|_| (next() >> 40) as f32 / (1u64 << 24) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_is_the_same_everywhere() {
        let probe = probe_input(1, 4);
        assert_eq!(probe, probe_input(1, 4));
        assert!(probe.iter().all(|x| (0.0..1.0).contains(x)));
        assert_ne!(probe, probe_input(2, 4));
    }
}
