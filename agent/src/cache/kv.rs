//! Ordered keys and values on the device: one trait, one conformance suite, a store in memory for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use secateur_common::caps;

/// Why a store did not do what it was asked.
pub type KvError = Box<dyn std::error::Error + Send + Sync>;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// One change of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; one that is not there is no error.
    Delete(Vec<u8>),
}

/// Batches are atomic and in order; what was applied is durable after [`Kv::flush`], and a crash before keeps a prefix of
/// the batches.
pub trait Kv: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// Where the store cannot read; so for the others that read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// All keys that begin with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// As above.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, KvError>;

    /// As [`Kv::scan`], the keys alone.
    ///
    /// # Errors
    /// As above.
    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, KvError>;

    /// The last of [`Kv::scan`].
    ///
    /// # Errors
    /// As above.
    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, KvError>;

    /// Applies a batch.
    ///
    /// # Errors
    /// Where the store cannot write.
    fn apply(&self, changes: Vec<Change>) -> Result<(), KvError>;

    /// Makes all that was applied durable.
    ///
    /// # Errors
    /// Where the store cannot write.
    fn flush(&self) -> Result<(), KvError>;
}

/// No value is longer than sled 0.34 bears.
pub(crate) fn assert_within_cap(changes: &[Change]) {
    let within = |change: &Change| match change {
        Change::Put(_, value) => value.len() <= caps::CACHE_VALUE_BYTES,
        Change::Delete(_) => true,
    };
    assert!(changes.iter().all(within), "a value is over {} bytes", caps::CACHE_VALUE_BYTES);
}

/// A store that forgets; it can be told to lose power.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryKv(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    now: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    unflushed: Vec<Vec<Change>>,
    /// Calls that change something and still work; after them the power is gone.
    left: Option<usize>,
}

#[cfg_attr(not(test), allow(dead_code))]
impl MemoryKv {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power goes after `calls` more batches or flushes.
    pub(crate) fn cut_after(&self, calls: usize) {
        self.inner().left = Some(calls);
    }

    /// Whether the power is gone.
    pub(crate) fn is_cut(&self) -> bool {
        self.inner().left == Some(0)
    }

    /// Batches that a cut may lose.
    pub(crate) fn unflushed(&self) -> usize {
        self.inner().unflushed.len()
    }

    /// Power is back: what was flushed is there, and of the batches since the first `kept`.
    pub(crate) fn restart(&self, kept: usize) {
        let mut inner = self.inner();
        let Inner { now, durable, unflushed, left } = &mut *inner;
        *left = None;
        unflushed.drain(..).take(kept).for_each(|batch| put_all(durable, batch));
        now.clone_from(durable);
    }
}

fn put_all(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: Vec<Change>) {
    for change in batch {
        match change {
            Change::Put(key, value) => drop(map.insert(key, value)),
            Change::Delete(key) => drop(map.remove(&key)),
        }
    }
}

impl Inner {
    fn power(&mut self) -> Result<(), KvError> {
        match &mut self.left {
            Some(0) => Err("the power is gone".into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.inner().now.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, KvError> {
        let inner = self.inner();
        let from = inner.now.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(from.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, KvError> {
        Ok(self.scan(prefix)?.into_iter().map(|(key, _)| key).collect())
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, KvError> {
        Ok(self.scan(prefix)?.pop())
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), KvError> {
        assert_within_cap(&changes);
        let mut inner = self.inner();
        inner.power()?;
        put_all(&mut inner.now, changes.clone());
        inner.unflushed.push(changes);
        Ok(())
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut inner = self.inner();
        inner.power()?;
        let Inner { durable, unflushed, .. } = &mut *inner;
        unflushed.drain(..).for_each(|batch| put_all(durable, batch));
        Ok(())
    }
}

/// What every store must do, on a fresh one.
#[cfg(test)]
pub(crate) fn conformance(kv: &dyn Kv) {
    let put = |key: &[u8], value: &[u8]| Change::Put(key.to_vec(), value.to_vec());
    assert_eq!(kv.get(b"a").unwrap(), None);
    kv.apply(vec![put(b"a/2", b"two"), put(b"a/1", b"one"), put(b"b", b"")]).unwrap();
    assert_eq!(kv.get(b"a/1").unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(kv.keys(b"a/").unwrap(), [b"a/1".to_vec(), b"a/2".to_vec()]);
    assert_eq!(kv.last(b"a/").unwrap(), Some((b"a/2".to_vec(), b"two".to_vec())));
    assert_eq!(kv.last(b"c").unwrap(), None);
    kv.apply(vec![put(b"a/1", b"uno"), Change::Delete(b"a/2".to_vec()), Change::Delete(b"z".to_vec())])
        .unwrap();
    assert_eq!(kv.scan(b"a/").unwrap(), [(b"a/1".to_vec(), b"uno".to_vec())]);
    kv.apply(vec![put(&[0xff, 1], &vec![7; caps::CACHE_VALUE_BYTES])]).unwrap();
    assert_eq!(kv.scan(&[0xff]).unwrap()[0].1.len(), caps::CACHE_VALUE_BYTES);
    kv.flush().unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_in_memory_conforms() {
        conformance(&MemoryKv::default());
    }

    #[test]
    #[should_panic(expected = "over")]
    fn a_value_over_the_cap_is_a_defect() {
        let _ = MemoryKv::default().apply(vec![Change::Put(vec![1], vec![0; caps::CACHE_VALUE_BYTES + 1])]);
    }
}
