//! What the device keeps. Disk types stop here.
//!
//! Architecture invariant: the cache can be lost: all of it can be fetched again, and one that will not open is moved
//! aside. The device's identity is therefore not in it.

pub mod files;
pub mod kv;
mod outbox;
mod partials;
mod record;
#[cfg(test)]
pub(crate) mod simulated;
mod sled_kv;
mod variants;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use secateur_common::{ByteCount, Generation};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::files::{DiskFiles, Files};
use self::kv::{Change, Kv, KvError};
use self::partials::Arriving;
use self::sled_kv::{OpenError, SledKv};
use crate::core::{Active, Held};

/// The cache of one device: records in sled, and the bulk of what they tell of in files beside it.
pub struct Cache {
    kv: Box<dyn Kv>,
    files: Box<dyn Files>,
    folder: PathBuf,
    arriving: Mutex<Option<Arriving>>,
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
const SENT: &str = "sent";
const RECEIVED: &str = "received";
const METER: &str = "meter";
/// The folder of the files, in sled's.
const FILES: &str = "files";
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
                let cache = Self::within(folder, kv)?;
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
        Self::within(folder, SledKv::open(folder).map_err(refused)?)
    }

    fn within(folder: &Path, kv: SledKv) -> Result<Self> {
        let files = DiskFiles::open(&folder.join(FILES));
        let files =
            files.map_err(|error| CacheError::Open { folder: folder.to_owned(), source: error.into() })?;
        Ok(Self { folder: folder.to_owned(), ..Self::on(kv, files) })
    }

    /// A cache in other stores than those on disk.
    pub fn on(kv: impl Kv + 'static, files: impl Files + 'static) -> Self {
        let (kv, files) = (Box::new(kv), Box::new(files));
        Self { kv, files, folder: PathBuf::new(), arriving: Mutex::default() }
    }

    /// Reads every record once: what cannot be read is not to be found in the middle of an update. What lies in files is
    /// found by its digest where it is damaged; where it is not all there, it is forgotten here.
    fn check(&self) -> Result<()> {
        self.held()?;
        self.record::<Active>(PREVIOUS)?;
        self.record::<u64>(SEQUENCE)?;
        self.record::<u64>(SENT)?;
        self.record::<u64>(RECEIVED)?;
        self.meter()?;
        self.outbox()?;
        self.scan(b"p/")?;
        self.drop_incomplete()
    }

    /// What is held: what the state machine needs to know.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn held(&self) -> Result<Held> {
        Ok(Held {
            active: self.record(ACTIVE)?,
            accepted: self.record(ACCEPTED)?.unwrap_or_default(),
            variants: self.variants()?,
        })
    }

    /// The variant that was in force before.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn previous(&self) -> Result<Option<Active>> {
        self.record(PREVIOUS)
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

    /// The newest generation that was accepted, durable before anything is done for it.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn accept(&self, generation: Generation) -> Result<()> {
        self.apply(vec![put(ACCEPTED, &generation)])?;
        self.flush()
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
        self.settle()?;
        self.kv.flush().map_err(CacheError::Store)
    }

    fn record<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>> {
        let value = self.get(&record::key(name))?;
        value.map(|value| record::decode(&value).ok_or(CacheError::Damaged(name))).transpose()
    }

    fn apply(&self, changes: Vec<Change>) -> Result<()> {
        self.kv.apply(changes).map_err(CacheError::Store)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<kv::Pair>> {
        self.kv.scan(prefix).map_err(CacheError::Store)
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.kv.keys(prefix).map_err(CacheError::Store)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.kv.get(key).map_err(CacheError::Store)
    }

    /// Removes the files whose names are `gone`.
    fn remove_files(&self, gone: impl Fn(&str) -> bool) -> Result<()> {
        let names = self.files.names().map_err(CacheError::Store)?;
        let mut names = names.iter().filter(|name| gone(name));
        names.try_for_each(|name| self.files.remove(name)).map_err(CacheError::Store)
    }
}

fn put(name: &str, value: &impl Serialize) -> Change {
    Change::Put(record::key(name), record::encode(value))
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
