//! The store on disk: sled 0.34.7, within the limits that were measured of it (DESIGN section 4): values of at most
//! 64 KiB, a small page cache, a flush before anything is acknowledged, an opening that may fail or panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::kv::{Change, Kv, KvError, Pair, assert_within_cap};

/// Pages that sled keeps in memory, bytes.
const PAGE_CACHE_BYTES: u64 = 1 << 20;

/// How long a lock may stay taken before another program is held to have it: sled's own threads keep it a moment longer
/// than the handle lives, under load seconds.
const LET_GO: Duration = Duration::from_secs(10);

/// A sled database.
pub(crate) struct SledKv(sled::Db);

/// Why it will not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// What is there is damaged: it can be moved aside.
    #[error("the cache is damaged: {0}")]
    Damaged(String),
    /// Another program has it, or the disk or its permissions refuse: nothing may be moved.
    #[error("the cache cannot be opened")]
    Refused(#[source] sled::Error),
}

impl SledKv {
    pub(crate) fn open(folder: &Path) -> Result<Self, OpenError> {
        match opened(folder) {
            Ok(Ok(db)) => Ok(Self(db)),
            Ok(Err(error @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_)))) => {
                Err(OpenError::Damaged(error.to_string()))
            }
            Ok(Err(sled::Error::Unsupported(problem))) => Err(OpenError::Damaged(problem)),
            // sled tells a damaged configuration file as an I/O error of these kinds.
            Ok(Err(sled::Error::Io(error)))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                Err(OpenError::Damaged(error.to_string()))
            }
            Ok(Err(error)) => Err(OpenError::Refused(error)),
            Err(_) => Err(OpenError::Damaged("opening it panicked".into())),
        }
    }
}

/// What sled says, or that it panicked, once its lock is free or is held to be another program's.
fn opened(folder: &Path) -> std::thread::Result<sled::Result<sled::Db>> {
    let open = || sled::Config::new().path(folder).cache_capacity(PAGE_CACHE_BYTES).open();
    let until = Instant::now() + LET_GO;
    loop {
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Err(error)) if is_locked(&error) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

/// sled tells a taken lock by its text only.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

/// sled may panic where its file is damaged: then that is the error.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, KvError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(KvError::from),
        Err(_) => Err("sled panicked".into()),
    }
}

fn pair((key, value): (sled::IVec, sled::IVec)) -> Pair {
    (key.to_vec(), value.to_vec())
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        guarded(|| Ok(self.0.get(key)?.map(|value| value.to_vec())))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, KvError> {
        guarded(|| self.0.scan_prefix(prefix).map(|entry| entry.map(pair)).collect())
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, KvError> {
        guarded(|| self.0.scan_prefix(prefix).keys().map(|key| Ok(key?.to_vec())).collect())
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, KvError> {
        guarded(|| Ok(self.0.scan_prefix(prefix).next_back().transpose()?.map(pair)))
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), KvError> {
        assert_within_cap(&changes);
        let mut batch = sled::Batch::default();
        for change in changes {
            match change {
                Change::Put(key, value) => batch.insert(key, value),
                Change::Delete(key) => batch.remove(key),
            }
        }
        guarded(|| self.0.apply_batch(batch))
    }

    fn flush(&self) -> Result<(), KvError> {
        guarded(|| self.0.flush().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_conforms_and_a_second_opener_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let kv = SledKv::open(folder.path()).unwrap();
        super::super::kv::conformance(&kv);
        assert!(matches!(SledKv::open(folder.path()), Err(OpenError::Refused(_))), "its lock is held");
        drop(kv);
        assert_eq!(SledKv::open(folder.path()).unwrap().get(b"a/1").unwrap().as_deref(), Some(&b"uno"[..]));
    }
}
