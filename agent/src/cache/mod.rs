//! What the device keeps, in sled. Disk types stop here. The cache can be lost: all of it can be fetched again, and a
//! folder that will not open is moved aside. Values are at most 64 KiB, because sled 0.34 leaks larger ones.

use std::path::{Path, PathBuf};

use secateur_common::{ByteCount, Digest, Generation, VariantId, caps};
use serde::de::DeserializeOwned;

use crate::core::{Active, Held};

/// The cache of one device.
pub struct Cache {
    db: sled::Db,
    folder: PathBuf,
}

/// Why the cache failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CacheError {
    #[error("the cache cannot be read or written")]
    Sled(#[from] sled::Error),
    #[error("the cache's folder cannot be used")]
    Io(#[from] std::io::Error),
    #[error("a record of the cache is damaged")]
    Record(#[from] serde_json::Error),
}

type Result<T, E = CacheError> = std::result::Result<T, E>;

const ACTIVE: &str = "active";
const PREVIOUS: &str = "previous";
const ACCEPTED: &str = "accepted";
const CREDENTIAL: &str = "credential";
const SEQUENCE: &str = "sequence";
const RECEIVED: &str = "received";
/// Pages that sled keeps in memory, bytes.
const PAGE_CACHE_BYTES: u64 = 1 << 20;

impl Cache {
    /// Opens the cache in `folder`. One that will not open is moved aside, and an empty one takes its place.
    ///
    /// # Errors
    /// Where not even an empty one can be made.
    pub fn open(folder: &Path) -> Result<Self> {
        let open = || sled::Config::new().path(folder).cache_capacity(PAGE_CACHE_BYTES).open();
        let db = match open() {
            Ok(db) => db,
            Err(error) => {
                tracing::error!(%error, "the cache will not open; it is moved aside and fetched again");
                let aside = folder.with_extension("broken");
                let _ = std::fs::remove_dir_all(&aside);
                std::fs::rename(folder, &aside)?;
                open()?
            }
        };
        Ok(Self { db, folder: folder.to_owned() })
    }

    /// What is held: what the state machine needs to know.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn held(&self) -> Result<Held> {
        let mut held = Held {
            active: self.get(ACTIVE)?,
            accepted: self.get(ACCEPTED)?.unwrap_or_default(),
            ..Held::default()
        };
        for entry in self.db.open_tree("variants")?.iter() {
            let (key, _) = entry?;
            held.variants.extend(Digest::try_from(&key[..]).map(VariantId));
        }
        Ok(held)
    }

    /// Stores a variant: its bytes first, then the record that makes it held.
    ///
    /// # Errors
    /// Where the cache cannot be written, such as on a full disk.
    pub fn store_variant(&self, variant: VariantId, bytes: &[u8]) -> Result<()> {
        self.write_pieces(&piece_tree(variant.0), bytes)?;
        let length = (bytes.len() as u64).to_be_bytes();
        self.db.open_tree("variants")?.insert(variant.0.as_bytes(), &length)?;
        self.flush()
    }

    /// The stored bytes of a variant; none where it is not held or not whole.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn variant(&self, variant: VariantId) -> Result<Option<Vec<u8>>> {
        let Some(length) = self.db.open_tree("variants")?.get(variant.0.as_bytes())? else { return Ok(None) };
        let bytes = self.read_pieces(&piece_tree(variant.0))?;
        Ok((length.as_ref() == (bytes.len() as u64).to_be_bytes()).then_some(bytes))
    }

    /// Forgets a variant.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_variant(&self, variant: VariantId) -> Result<()> {
        self.db.open_tree("variants")?.remove(variant.0.as_bytes())?;
        self.db.drop_tree(piece_tree(variant.0))?;
        self.flush()
    }

    /// Brings `active` into force; keeps the variant that was, and forgets all others.
    ///
    /// # Errors
    /// Where the cache cannot be written; then the old one stays in force.
    pub fn activate(&self, active: &Active) -> Result<()> {
        let before: Option<Active> = self.get(ACTIVE)?;
        let mut batch = sled::Batch::default();
        batch.insert(ACTIVE, serde_json::to_vec(active)?);
        batch.insert(ACCEPTED, serde_json::to_vec(&active.generation)?);
        if let Some(before) = before.as_ref().filter(|before| before.variant != active.variant) {
            batch.insert(PREVIOUS, serde_json::to_vec(before)?);
        }
        self.db.apply_batch(batch)?;
        self.flush()?;
        let previous: Option<Active> = self.get(PREVIOUS)?;
        for variant in self.held()?.variants {
            let kept = variant == active.variant || previous.as_ref().is_some_and(|p| p.variant == variant);
            if !kept {
                self.drop_variant(variant)?;
            }
        }
        Ok(())
    }

    /// The bytes received so far of the update `id`.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn partial(&self, id: Digest) -> Result<Vec<u8>> {
        self.read_pieces(&partial_tree(id))
    }

    /// Appends to the received bytes of the update `id`, which are `offset` so far.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn append_partial(&self, id: Digest, offset: u64, bytes: &[u8]) -> Result<()> {
        let tree = self.db.open_tree(partial_tree(id))?;
        let mut at = offset;
        for piece in bytes.chunks(caps::CACHE_VALUE_BYTES) {
            tree.insert(at.to_be_bytes(), piece)?;
            at += piece.len() as u64;
        }
        self.add(RECEIVED, bytes.len() as u64)?;
        self.flush()
    }

    /// Forgets all partial updates but `keep`.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_partials(&self, keep: Option<Digest>) -> Result<()> {
        let keep = keep.map(|id| partial_tree(id).into_bytes());
        for name in self.db.tree_names() {
            if name.starts_with(b"partial/") && Some(name.as_ref()) != keep.as_deref() {
                self.db.drop_tree(name)?;
            }
        }
        Ok(())
    }

    /// This device's credential; `fresh` becomes it where there is none.
    ///
    /// # Errors
    /// Where the cache cannot be read or written.
    pub fn credential(&self, fresh: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>> {
        if let Some(credential) = self.get(CREDENTIAL)? {
            return Ok(credential);
        }
        let credential = fresh();
        self.db.insert(CREDENTIAL, serde_json::to_vec(&credential)?)?;
        self.flush()?;
        Ok(credential)
    }

    /// The next report's number, never given twice.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn next_sequence(&self) -> Result<u64> {
        let sequence = self.add(SEQUENCE, 1)?;
        self.flush()?;
        Ok(sequence)
    }

    /// Update bytes received since the device was enrolled.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn received(&self) -> Result<ByteCount> {
        Ok(ByteCount(self.get(RECEIVED)?.unwrap_or(0)))
    }

    /// Bytes of the cache on disk.
    pub fn disk_bytes(&self) -> ByteCount {
        fn size(folder: &Path) -> u64 {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let of = |entry: std::fs::DirEntry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => size(&entry.path()),
                Ok(metadata) => metadata.len(),
                Err(_) => 0,
            };
            entries.map(of).sum()
        }
        ByteCount(size(&self.folder))
    }

    /// The newest generation that was accepted, durable before anything is done for it.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn accept(&self, generation: Generation) -> Result<()> {
        self.db.insert(ACCEPTED, serde_json::to_vec(&generation)?)?;
        self.flush()
    }

    fn add(&self, key: &str, amount: u64) -> Result<u64> {
        let sum = self.get::<u64>(key)?.unwrap_or(0).saturating_add(amount);
        self.db.insert(key, serde_json::to_vec(&sum)?)?;
        Ok(sum)
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let record = self.db.get(key)?;
        Ok(record.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    fn write_pieces(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let tree = self.db.open_tree(name)?;
        tree.clear()?;
        for (index, piece) in bytes.chunks(caps::CACHE_VALUE_BYTES).enumerate() {
            tree.insert((index as u64).to_be_bytes(), piece)?;
        }
        Ok(())
    }

    fn read_pieces(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for entry in self.db.open_tree(name)?.iter() {
            bytes.extend_from_slice(&entry?.1);
        }
        Ok(bytes)
    }

    fn flush(&self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }
}

fn piece_tree(digest: Digest) -> String {
    format!("pieces/{digest}")
}

fn partial_tree(digest: Digest) -> String {
    format!("partial/{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_held_across_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let ids: Vec<_> = (1..=3).map(|byte| VariantId(Digest::from_bytes([byte; 32]))).collect();
        let active = |index: usize| Active {
            model: "m".parse().unwrap(),
            variant: ids[index],
            generation: Generation(index as u64 + 1),
        };
        {
            let cache = Cache::open(&path).unwrap();
            for (index, id) in ids.iter().enumerate() {
                cache.store_variant(*id, &bytes).unwrap();
                cache.activate(&active(index)).unwrap();
            }
            cache.append_partial(Digest::of(b"u"), 0, &bytes[..100_000]).unwrap();
            cache.append_partial(Digest::of(b"u"), 100_000, &bytes[100_000..]).unwrap();
        }
        let cache = Cache::open(&path).unwrap();
        let held = cache.held().unwrap();
        assert_eq!((held.active, held.accepted), (Some(active(2)), Generation(3)));
        assert_eq!(
            held.variants.into_iter().collect::<Vec<_>>(),
            ids[1..],
            "the one in force and the one before"
        );
        assert_eq!(cache.variant(ids[2]).unwrap().unwrap(), bytes);
        assert_eq!(cache.partial(Digest::of(b"u")).unwrap(), bytes);
        assert_eq!(cache.received().unwrap(), ByteCount(200_000));
        assert_eq!(cache.credential(|| vec![1]).unwrap(), cache.credential(|| vec![2]).unwrap());
    }

    #[test]
    fn a_cache_that_will_not_open_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("conf"), b"no sled").unwrap();
        std::fs::write(path.join("db"), [7; 4096]).unwrap();
        let cache = Cache::open(&path).unwrap();
        assert!(cache.held().unwrap().active.is_none());
    }
}
