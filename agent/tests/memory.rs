//! What an update of many megabytes needs in memory on the device, its store included. One test, as the allocator counts all.
#![allow(clippy::unwrap_used)] // a test panics where it fails

use peak_alloc::PeakAlloc;
use secateur_agent::cache::Cache;
use secateur_agent::core::{UpdateRef, Wanted};
use secateur_agent::install;
use secateur_common::{ByteCount, Digest, Generation, VariantId};
use secateur_model::{Graph, OpSet, Tensor, canonical};
use secateur_update::{encode, stored_bytes};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// 32 tensors of 256 KiB that lie on no grid, so that they are sent as they are.
fn graph(seed: u64) -> Graph {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let tensor = |at: usize, uniform: &mut dyn FnMut() -> f32| {
        let values = (0..64 * 1024).map(|_| uniform() + uniform() - 1.0).collect();
        (format!("layer{at:03}.weight"), Tensor::f32([256, 256], values).unwrap())
    };
    let initializers = (0..32).map(|at| tensor(at, &mut uniform)).collect();
    Graph { opsets: vec![OpSet { domain: String::new(), version: 17 }], initializers, ..Graph::default() }
}

/// Receives an update and stores what it makes: the peak of the heap from its first piece on, above what was in use before.
fn install(
    cache: &Cache,
    folder: &std::path::Path,
    update: &[u8],
    target: VariantId,
    base: Option<VariantId>,
) -> usize {
    let id = Digest::of(update);
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    for (at, piece) in update.chunks(16 * 1024).enumerate() {
        cache.append_partial(id, at as u64 * 16 * 1024, piece).unwrap();
        if at % 16 == 0 {
            cache.flush().unwrap();
        }
    }
    cache.flush().unwrap();
    let size = ByteCount(update.len() as u64);
    let update = UpdateRef { id, size, base };
    let model = "m".parse().unwrap();
    let wanted = Wanted { generation: Generation(1), model, variant: target, update: Some(update) };
    install::store(cache, folder, update, &wanted).unwrap();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

#[test]
fn an_update_of_many_megabytes_is_stored_in_a_part_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(&folder.path().join("cache")).unwrap();
    let (first, second) = (graph(1), graph(2));
    let ids = [canonical::variant_id(&first), canonical::variant_id(&second)];
    let stored = stored_bytes(&second);
    let full = encode(None, &first, Generation(1)).unwrap();
    let delta = encode(Some(&first), &second, Generation(1)).unwrap();
    drop((first, second));
    for (update, target, base) in [(&full, ids[0], None), (&delta, ids[1], Some(ids[0]))] {
        let size = update.len();
        let peak = install(&cache, folder.path(), update, target, base);
        println!("an update of {} KiB: {} KiB at the peak", size / 1024, peak / 1024);
        assert!(size > 6 << 20 && peak < 2 << 20, "{peak} of {size} bytes");
    }
    assert_eq!(cache.stored_bytes(ids[1]).unwrap(), Some(stored), "what the planner counted");
}
