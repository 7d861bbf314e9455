//! What is held across restarts, power cuts at every write, and damage.

use secateur_common::{Digest, VariantId, caps};

use super::kv::MemoryKv;
use super::*;

fn id(byte: u8) -> VariantId {
    VariantId(Digest::from_bytes([byte; 32]))
}

fn active(byte: u8) -> Active {
    Active { model: "m".parse().unwrap(), variant: id(byte), generation: Generation(u64::from(byte)) }
}

fn bytes_of(byte: u8) -> Vec<u8> {
    (0..200_000u32).map(|i| (i as u8).wrapping_mul(byte)).collect()
}

/// As `install` stores a variant, its bytes being no update.
fn store(cache: &Cache, byte: u8) -> Result<()> {
    cache.drop_variant(id(byte))?;
    for (index, frame) in bytes_of(byte).chunks(caps::FRAME_BYTES).enumerate() {
        cache.put_frame(id(byte), index as u32, frame)?;
    }
    cache.hold(id(byte), b"manifest", ByteCount(200_000))
}

fn whole(cache: &Cache, variant: VariantId) -> Vec<u8> {
    let held = cache.stored_bytes(variant).unwrap().expect("it is held");
    assert_eq!(cache.manifest(variant).unwrap(), b"manifest");
    let frames = (0..).map_while(|index| cache.frame(variant, index).unwrap());
    let bytes: Vec<u8> = frames.flatten().collect();
    assert_eq!(held.get(), bytes.len() as u64);
    bytes
}

#[test]
fn what_is_stored_is_held_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    {
        let cache = Cache::open(&path).unwrap();
        for byte in 1..=3 {
            store(&cache, byte).unwrap();
            cache.activate(&active(byte)).unwrap();
        }
        cache.append_partial(Digest::of(b"u"), 0, &bytes_of(9)[..100_000]).unwrap();
        cache.append_partial(Digest::of(b"u"), 100_000, &bytes_of(9)[100_000..]).unwrap();
        cache.flush().unwrap();
    }
    let cache = Cache::open(&path).unwrap();
    let held = cache.held().unwrap();
    assert_eq!((held.active, held.accepted), (Some(active(3)), Generation(3)));
    assert_eq!(held.variants.into_iter().collect::<Vec<_>>(), [id(2), id(3)], "in force, and the one before");
    assert_eq!(whole(&cache, id(3)), bytes_of(3));
    assert_eq!(cache.partial_bytes(Digest::of(b"u")).unwrap(), 200_000);
    let piece = cache.partial(Digest::of(b"u"), 100_000).unwrap().unwrap();
    assert_eq!(piece, bytes_of(9)[100_000..][..caps::CACHE_VALUE_BYTES]);
    assert_eq!(cache.received().unwrap(), ByteCount(200_000));
    assert_eq!(cache.fall_back().unwrap(), Some(active(2)));
    assert_eq!(cache.held().unwrap().active, Some(active(2)));
}

/// Power goes at every write and flush of an update from variant 1 to variant 2, and what was not flushed is lost or not:
/// always the old or the new variant is in force, whole, and the update can be taken up again.
#[test]
fn a_power_cut_at_any_write_leaves_the_old_or_the_new_variant() {
    let install = |cache: &Cache, byte: u8| -> Result<()> {
        cache.accept(Generation(u64::from(byte)))?;
        cache.append_partial(Digest::of(&[byte]), 0, &bytes_of(byte))?;
        cache.flush()?;
        store(cache, byte)?;
        cache.drop_partials(None)?;
        cache.activate(&active(byte))
    };
    let (mut cuts, mut news) = (0, 0);
    for kept in [0, 1, usize::MAX] {
        for calls in 0.. {
            let kv = MemoryKv::default();
            let cache = Cache::on(kv.clone());
            install(&cache, 1).unwrap();
            install(&cache, 2).unwrap();
            kv.cut_after(calls);
            let done = install(&cache, 3);
            kv.restart(kept);
            let now = cache.held().unwrap().active.expect("something is in force");
            assert!([2, 3].contains(&now.generation.0), "neither the old nor the new");
            let byte = now.generation.0 as u8;
            assert_eq!(whole(&cache, now.variant), bytes_of(byte), "cut after {calls} calls");
            install(&cache, 3).unwrap();
            assert_eq!(cache.held().unwrap().active, Some(active(3)));
            assert_eq!(whole(&cache, id(3)), bytes_of(3));
            news += usize::from(byte == 3);
            cuts += 1;
            if done.is_ok() {
                break;
            }
        }
    }
    assert!(cuts > 20 && news > 2, "{cuts} cuts, {news} of them after the new variant was in force");
}

#[test]
fn a_damaged_cache_is_moved_aside_and_few_of_them_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    for round in 1..=ASIDES + 2 {
        let cache = Cache::open(&path).unwrap();
        assert!(cache.held().unwrap().active.is_none(), "it begins anew");
        cache.activate(&active(1)).unwrap();
        cache.apply(vec![Change::Put(record::key(ACTIVE), b"\x01junk{}".to_vec())]).unwrap();
        cache.flush().unwrap();
        drop(cache);
        drop(Cache::open(&path).unwrap());
        let asides = (1..10).filter(|n| path.with_extension(format!("corrupt-{n}")).exists()).count();
        assert_eq!(asides, round.min(ASIDES));
    }
}

#[test]
fn a_cache_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let cache = Cache::open(&path).unwrap();
    cache.activate(&active(1)).unwrap();
    assert!(matches!(Cache::open(&path), Err(CacheError::Open { .. })), "another agent has it");
    assert_eq!(cache.held().unwrap().active, Some(active(1)));
    assert!(!path.with_extension("corrupt-1").exists());
}

/// The files of a real cache with bits flipped, cut short or emptied: it opens, with what it held whole or empty and the
/// damaged one moved aside, and can be used.
#[test]
fn a_damaged_directory_is_used_whole_or_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good");
    {
        let cache = Cache::open(&good).unwrap();
        for byte in 1..=2 {
            store(&cache, byte).unwrap();
            cache.activate(&active(byte)).unwrap();
        }
        cache.flush().unwrap();
    }
    let mut state = 0x5eca_7e04u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % bound.max(1)
    };
    let (mut whole_again, mut aside, mut damaged) = (0, 0, 0);
    for round in 0..40 {
        let path = folder.path().join(format!("cache{round}"));
        std::fs::create_dir(&path).unwrap();
        for name in ["conf", "db"] {
            std::fs::copy(good.join(name), path.join(name)).unwrap();
        }
        let victim = path.join(if round % 8 == 7 { "conf" } else { "db" });
        let mut bytes = std::fs::read(&victim).unwrap();
        match round % 4 {
            0 => bytes.truncate(below(bytes.len())),
            1 => bytes.clear(),
            _ => (0..1 + below(20)).for_each(|_| {
                let at = below(bytes.len());
                bytes[at] ^= 1 << below(8);
            }),
        }
        std::fs::write(&victim, bytes).unwrap();
        let cache = Cache::open(&path).unwrap();
        match cache.held().unwrap().active {
            Some(now) => {
                assert!(now == active(1) || now == active(2));
                match cache.stored_bytes(now.variant).unwrap() {
                    // A frame's own check finds what sled's does not.
                    Some(_) => whole_again += 1,
                    None => damaged += 1,
                }
            }
            None => aside += usize::from(path.with_extension("corrupt-1").exists()),
        }
        store(&cache, 3).unwrap();
        cache.activate(&active(3)).unwrap();
        assert_eq!(whole(&cache, id(3)), bytes_of(3), "round {round}");
        drop(cache);
        assert_eq!(Cache::open(&path).unwrap().held().unwrap().active, Some(active(3)), "round {round}");
    }
    println!("{whole_again} whole, {damaged} without the variant, {aside} moved aside");
    assert!(whole_again > 0 && aside > 0);
}
