//! Ordered keys and values on the device: one trait, one conformance suite.

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

/// What every store must do, on a fresh one.
#[cfg(test)]
pub(crate) fn conformance(kv: &dyn Kv) {
    let put = |key: &[u8], value: &[u8]| Change::Put(key.to_vec(), value.to_vec());
    assert_eq!(kv.get(b"a").unwrap(), None);
    kv.apply(vec![put(b"a/2", b"two"), put(b"a/1", b"one"), put(b"b", b"")]).unwrap();
    assert_eq!(kv.get(b"a/1").unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(kv.keys(b"a/").unwrap(), [b"a/1".to_vec(), b"a/2".to_vec()]);
    kv.apply(vec![put(b"a/1", b"uno"), Change::Delete(b"a/2".to_vec()), Change::Delete(b"z".to_vec())])
        .unwrap();
    assert_eq!(kv.scan(b"a/").unwrap(), [(b"a/1".to_vec(), b"uno".to_vec())]);
    kv.apply(vec![put(&[0xff, 1], &vec![7; caps::CACHE_VALUE_BYTES])]).unwrap();
    assert_eq!(kv.scan(&[0xff]).unwrap()[0].1.len(), caps::CACHE_VALUE_BYTES);
    kv.flush().unwrap();
}
