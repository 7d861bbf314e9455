//! What an update of many megabytes needs in memory on the device, beside what its store needs. One test, as the allocator
//! counts all.
#![allow(clippy::unwrap_used)] // a test panics where it fails

use std::path::PathBuf;

use peak_alloc::PeakAlloc;
use secateur_agent::cache::Cache;
use secateur_agent::cache::kv::{Change, Kv, KvError, Pair};
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

/// A store that needs no memory: a file for each key.
struct Files(PathBuf);

impl Files {
    fn path(&self, key: &[u8]) -> PathBuf {
        self.0.join(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl Kv for Files {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let path = self.path(key);
        Ok(if path.exists() { Some(std::fs::read(path)?) } else { None })
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, KvError> {
        let value = |key: Vec<u8>| self.get(&key).map(|value| (key, value.unwrap_or_default()));
        self.keys(prefix)?.into_iter().map(value).collect()
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, KvError> {
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name().into_string().map_err(|_| "a strange name")?;
            let byte = |at: usize| u8::from_str_radix(&name[at..at + 2], 16);
            keys.push((0..name.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, _>>()?);
        }
        keys.retain(|key| key.starts_with(prefix));
        keys.sort();
        Ok(keys)
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, KvError> {
        let Some(key) = self.keys(prefix)?.pop() else { return Ok(None) };
        Ok(self.get(&key)?.map(|value| (key, value)))
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), KvError> {
        changes.into_iter().try_for_each(|change| match change {
            Change::Put(key, value) => Ok(std::fs::write(self.path(&key), value)?),
            Change::Delete(key) => {
                let _ = std::fs::remove_file(self.path(&key));
                Ok(())
            }
        })
    }

    fn flush(&self) -> Result<(), KvError> {
        Ok(())
    }
}

/// Receives an update and stores what it makes: the peak of the heap above what was in use before.
fn install(
    cache: &Cache,
    folder: &std::path::Path,
    update: Vec<u8>,
    target: VariantId,
    base: Option<VariantId>,
) -> usize {
    let id = Digest::of(&update);
    for (at, piece) in update.chunks(16 * 1024).enumerate() {
        cache.append_partial(id, at as u64 * 16 * 1024, piece).unwrap();
        if at % 16 == 0 {
            cache.flush().unwrap();
        }
    }
    cache.flush().unwrap();
    let size = ByteCount(update.len() as u64);
    drop(update);
    let update = UpdateRef { id, size, base };
    let model = "m".parse().unwrap();
    let wanted = Wanted { generation: Generation(1), model, variant: target, update: Some(update) };
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    install::store(cache, folder, update, &wanted).unwrap();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

#[test]
fn an_update_of_many_megabytes_is_stored_in_a_part_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("cache");
    std::fs::create_dir(&files).unwrap();
    let cache = Cache::on(Files(files));
    let (first, second) = (graph(1), graph(2));
    let ids = [canonical::variant_id(&first), canonical::variant_id(&second)];
    let stored = stored_bytes(&second);
    let full = encode(None, &first, Generation(1)).unwrap();
    let delta = encode(Some(&first), &second, Generation(1)).unwrap();
    drop((first, second));
    for (update, target, base) in [(full, ids[0], None), (delta, ids[1], Some(ids[0]))] {
        let size = update.len();
        let peak = install(&cache, folder.path(), update, target, base);
        println!("an update of {} KiB: {} KiB at the peak", size / 1024, peak / 1024);
        assert!(size > 6 << 20 && peak < 2 << 20, "{peak} of {size} bytes");
    }
    assert_eq!(cache.stored_bytes(ids[1]).unwrap(), Some(stored), "what the planner counted");
}
