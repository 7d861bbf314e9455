//! What the device keeps. Disk types stop here.
//!
//! Architecture invariant: the cache can be lost: all of it can be fetched again, and one that will not open is moved
//! aside. The device's identity is therefore not in it.

mod kv;
mod record;
mod sled_kv;

use std::path::{Path, PathBuf};

use secateur_common::{ByteCount, Digest, Generation, Report, VariantId, caps};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::kv::{Change, Kv, KvError};
use self::sled_kv::{OpenError, SledKv};
use crate::core::{Active, Held};

/// The cache of one device.
pub struct Cache {
    kv: Box<dyn Kv>,
    folder: PathBuf,
}

/// Why the cache failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CacheError {
    #[error("the cache cannot be read or written")]
    Store(#[source] KvError),
    #[error("the cache {folder} cannot be opened: is another agent using it?")]
    Open { folder: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the damaged cache {folder} cannot be moved aside")]
    Aside { folder: PathBuf, source: std::io::Error },
    #[error("the cache's record `{0}` is damaged")]
    Damaged(&'static str),
}

type Result<T, E = CacheError> = std::result::Result<T, E>;

const ACTIVE: &str = "active";
const PREVIOUS: &str = "previous";
const ACCEPTED: &str = "accepted";
const SEQUENCE: &str = "sequence";
const RECEIVED: &str = "received";
/// Damaged caches that are kept for inspection.
const ASIDES: usize = 3;

impl Cache {
    /// Opens the cache in `folder`. One that is damaged is moved aside to `folder.corrupt-N`, and an empty one takes its
    /// place.
    ///
    /// # Errors
    /// Where another program has it, the disk refuses, or it cannot be moved aside.
    pub fn open(folder: &Path) -> Result<Self> {
        let refused = |source| CacheError::Open { folder: folder.to_owned(), source: Box::new(source) };
        let damage = match SledKv::open(folder) {
            Ok(kv) => {
                let cache = Self { kv: Box::new(kv), folder: folder.to_owned() };
                match cache.check() {
                    Ok(()) => return Ok(cache),
                    Err(error) => error.to_string(), // the cache is closed here, before it is moved
                }
            }
            Err(OpenError::Damaged(problem)) => problem,
            Err(error) => return Err(refused(error)),
        };
        tracing::error!(damage, "the cache is moved aside and fetched again");
        move_aside(folder).map_err(|source| CacheError::Aside { folder: folder.to_owned(), source })?;
        let kv = SledKv::open(folder).map_err(refused)?;
        Ok(Self { kv: Box::new(kv), folder: folder.to_owned() })
    }

    /// Reads every record once.
    fn check(&self) -> Result<()> {
        self.held()?;
        self.record::<Active>(PREVIOUS)?;
        self.record::<u64>(SEQUENCE)?;
        self.record::<u64>(RECEIVED)?;
        self.outbox().map(drop)
    }

    /// What is held: what the state machine needs to know.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn held(&self) -> Result<Held> {
        let held = self.scan(b"h/")?;
        let variants = held.iter().filter_map(|(key, _)| Digest::try_from(&key[2..]).ok().map(VariantId));
        Ok(Held {
            active: self.record(ACTIVE)?,
            accepted: self.record(ACCEPTED)?.unwrap_or_default(),
            variants: variants.collect(),
        })
    }

    /// The variant that was in force before.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn previous(&self) -> Result<Option<Active>> {
        self.record(PREVIOUS)
    }

    /// Stores a variant: its bytes first, then, once they are durable, the record that makes it held.
    ///
    /// # Errors
    /// Where the cache cannot be written, such as on a full disk.
    pub fn store_variant(&self, variant: VariantId, bytes: &[u8]) -> Result<()> {
        self.delete_all(&pieces(variant))?;
        for (index, piece) in bytes.chunks(caps::CACHE_VALUE_BYTES).enumerate() {
            let key = [&pieces(variant)[..], &(index as u32).to_be_bytes()].concat();
            self.apply(vec![Change::Put(key, piece.to_vec())])?;
        }
        self.flush()?;
        self.apply(vec![Change::Put(held_key(variant), (bytes.len() as u64).to_be_bytes().to_vec())])?;
        self.flush()
    }

    /// The stored bytes of a variant; none where it is not held or not whole.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn variant(&self, variant: VariantId) -> Result<Option<Vec<u8>>> {
        let Some(length) = self.kv.get(&held_key(variant)).map_err(CacheError::Store)? else {
            return Ok(None);
        };
        let bytes = self.joined(&pieces(variant))?;
        Ok((length == (bytes.len() as u64).to_be_bytes()).then_some(bytes))
    }

    /// Forgets a variant: the record that makes it held first, then its bytes.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_variant(&self, variant: VariantId) -> Result<()> {
        self.apply(vec![Change::Delete(held_key(variant))])?;
        self.delete_all(&pieces(variant))?;
        self.flush()
    }

    /// Brings `active` into force in one atomic write; keeps the variant that was, and forgets all others.
    ///
    /// # Errors
    /// Where the cache cannot be written; then the old one stays in force.
    pub fn activate(&self, active: &Active) -> Result<()> {
        let before: Option<Active> = self.record(ACTIVE)?;
        let mut batch = vec![put(ACTIVE, active), put(ACCEPTED, &active.generation)];
        if let Some(before) = before.filter(|before| before.variant != active.variant) {
            batch.push(put(PREVIOUS, &before));
        }
        self.apply(batch)?;
        self.flush()?;
        let previous = self.previous()?.map(|previous| previous.variant);
        for variant in self.held()?.variants {
            if variant != active.variant && Some(variant) != previous {
                self.drop_variant(variant)?;
            }
        }
        Ok(())
    }

    /// Goes back to what was in force before, where what is in force is damaged.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn fall_back(&self) -> Result<Option<Active>> {
        let previous = self.previous()?;
        let delete = |name: &str| Change::Delete(record::key(name));
        let active = previous.as_ref().map_or_else(|| delete(ACTIVE), |previous| put(ACTIVE, previous));
        self.apply(vec![active, delete(PREVIOUS)])?;
        self.flush()?;
        Ok(previous)
    }

    /// The bytes received so far of the update `id`.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn partial(&self, id: Digest) -> Result<Vec<u8>> {
        self.joined(&partials(id))
    }

    /// Appends to the received bytes of the update `id`, which are `offset` so far. Durable after [`Cache::flush`].
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn append_partial(&self, id: Digest, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = offset;
        let mut batch = Vec::new();
        for piece in bytes.chunks(caps::CACHE_VALUE_BYTES) {
            batch.push(Change::Put([&partials(id)[..], &at.to_be_bytes()].concat(), piece.to_vec()));
            at += piece.len() as u64;
        }
        let received = self.record::<u64>(RECEIVED)?.unwrap_or(0).saturating_add(bytes.len() as u64);
        batch.push(put(RECEIVED, &received));
        self.apply(batch)
    }

    /// Forgets all partial updates but `keep`.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_partials(&self, keep: Option<Digest>) -> Result<()> {
        let kept = keep.map(partials);
        let other = |key: &[u8]| kept.as_ref().is_none_or(|kept| !key.starts_with(kept));
        let gone = self.scan(b"p/")?.into_iter().map(|(key, _)| key).filter(|key| other(key));
        self.apply(gone.map(Change::Delete).collect())
    }

    /// Update bytes received since the cache was made.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn received(&self) -> Result<ByteCount> {
        Ok(ByteCount(self.record(RECEIVED)?.unwrap_or(0)))
    }

    /// The newest generation that was accepted, durable before anything is done for it.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn accept(&self, generation: Generation) -> Result<()> {
        self.apply(vec![put(ACCEPTED, &generation)])?;
        self.flush()
    }

    /// The next report's number, never given twice, even to a cache that was lost: `floor`, such as the time, is a lower
    /// bound.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn next_sequence(&self, floor: u64) -> Result<u64> {
        let sequence = self.record::<u64>(SEQUENCE)?.unwrap_or(0).saturating_add(1).max(floor);
        self.apply(vec![put(SEQUENCE, &sequence)])?;
        self.flush()?;
        Ok(sequence)
    }

    /// Keeps a report until it is acknowledged. Over [`caps::OUTBOX_REPORTS`] the oldest is dropped.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn post(&self, report: &Report) -> Result<()> {
        let waiting = self.scan(b"o/")?;
        let surplus = (waiting.len() + 1).saturating_sub(caps::OUTBOX_REPORTS);
        let mut batch: Vec<Change> =
            waiting.into_iter().take(surplus).map(|(key, _)| Change::Delete(key)).collect();
        batch.push(Change::Put(outbox_key(report.sequence), record::encode(report)));
        self.apply(batch)?;
        self.flush()
    }

    /// The reports that wait, oldest first.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn outbox(&self) -> Result<Vec<Report>> {
        let decode =
            |(_, value): (Vec<u8>, Vec<u8>)| record::decode(&value).ok_or(CacheError::Damaged("report"));
        self.scan(b"o/")?.into_iter().map(decode).collect()
    }

    /// The coordinator has this report and all before.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn acknowledged(&self, sequence: u64) -> Result<()> {
        let last = outbox_key(sequence);
        let gone = self.scan(b"o/")?.into_iter().map(|(key, _)| key).filter(|key| *key <= last);
        self.apply(gone.map(Change::Delete).collect())
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

    /// All that was written so far is durable when this returns.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn flush(&self) -> Result<()> {
        self.kv.flush().map_err(CacheError::Store)
    }

    fn record<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>> {
        let value = self.kv.get(&record::key(name)).map_err(CacheError::Store)?;
        value.map(|value| record::decode(&value).ok_or(CacheError::Damaged(name))).transpose()
    }

    fn apply(&self, changes: Vec<Change>) -> Result<()> {
        self.kv.apply(changes).map_err(CacheError::Store)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<kv::Pair>> {
        self.kv.scan(prefix).map_err(CacheError::Store)
    }

    fn joined(&self, prefix: &[u8]) -> Result<Vec<u8>> {
        Ok(self.scan(prefix)?.into_iter().flat_map(|(_, piece)| piece).collect())
    }

    fn delete_all(&self, prefix: &[u8]) -> Result<()> {
        self.apply(self.scan(prefix)?.into_iter().map(|(key, _)| Change::Delete(key)).collect())
    }
}

fn put(name: &str, value: &impl Serialize) -> Change {
    Change::Put(record::key(name), record::encode(value))
}

fn held_key(variant: VariantId) -> Vec<u8> {
    [&b"h/"[..], variant.0.as_bytes()].concat()
}

fn pieces(variant: VariantId) -> Vec<u8> {
    [&b"v/"[..], variant.0.as_bytes()].concat()
}

fn partials(id: Digest) -> Vec<u8> {
    [&b"p/"[..], id.as_bytes()].concat()
}

fn outbox_key(sequence: u64) -> Vec<u8> {
    [&b"o/"[..], &sequence.to_be_bytes()].concat()
}

/// Renames a damaged cache to the first free `folder.corrupt-N`; the oldest goes where there are too many.
fn move_aside(folder: &Path) -> std::io::Result<()> {
    let aside = |n: usize| folder.with_extension(format!("corrupt-{n}"));
    let free = (1..=ASIDES).find(|&n| !aside(n).exists());
    if free.is_none() {
        std::fs::remove_dir_all(aside(1))?;
        (2..=ASIDES).try_for_each(|n| std::fs::rename(aside(n), aside(n - 1)))?;
    }
    std::fs::rename(folder, aside(free.unwrap_or(ASIDES)))
}

#[cfg(test)]
mod tests;
