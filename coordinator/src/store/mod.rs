//! Where the coordinator's state lives: one trait over ordered keys, with atomic batches.
//!
//! Architecture invariant: no other room knows a file, a table or a query. A shared database takes the place of
//! [`Redb`] by passing [`conformance`].

mod memory;
mod migrate;
pub mod records;
mod redb;

pub use memory::Memory;
pub(crate) use migrate::migrate;
pub use redb::Redb;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("cannot open the store {path}")]
    Open { path: std::path::PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the store cannot {operation}")]
    Failed { operation: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("record {kind} is of version {version}, which this program does not know: run a newer one")]
    Version { kind: &'static str, version: u8 },
    #[error("record {kind} is damaged")]
    Damaged { kind: &'static str, source: Option<serde_json::Error> },
}

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

/// Ordered keys and values. A batch is applied whole or not at all, and is durable when [`Store::commit`] returns.
pub trait Store: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// Where the store cannot read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// All keys that begin with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// Where the store cannot read.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StoreError>;

    /// Applies `changes` in order, atomically and durably.
    ///
    /// # Errors
    /// Where the store cannot write; nothing is changed then.
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError>;
}

/// What every store must do. Called by each store's tests on a fresh one.
///
/// # Panics
/// Where it does not.
#[cfg(test)]
pub(crate) fn conformance(store: &dyn Store) {
    let put = |key: &[u8], value: &[u8]| Change::Put(key.to_vec(), value.to_vec());
    assert_eq!(store.get(b"a").unwrap(), None);
    store.commit(&[put(b"a/2", b"two"), put(b"a/1", b"one"), put(b"b", b"")]).unwrap();
    assert_eq!(store.get(b"a/1").unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(store.get(b"b").unwrap().as_deref(), Some(&b""[..]));
    let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
    assert_eq!(store.scan(b"a/").unwrap(), [pair(b"a/1", b"one"), pair(b"a/2", b"two")]);
    store
        .commit(&[put(b"a/1", b"uno"), Change::Delete(b"a/2".to_vec()), Change::Delete(b"zz".to_vec())])
        .unwrap();
    assert_eq!(store.scan(b"a/").unwrap(), [pair(b"a/1", b"uno")]);
    store.commit(&[put(b"c", b"1"), put(b"c", b"2")]).unwrap();
    assert_eq!(store.get(b"c").unwrap().as_deref(), Some(&b"2"[..]));
    store.commit(&[put(&[0xff, 0xff], b"end")]).unwrap();
    assert_eq!(store.scan(&[0xff]).unwrap().len(), 1);
    let large = vec![7; 3 << 20];
    store.commit(&[put(b"large", &large)]).unwrap();
    assert_eq!(store.get(b"large").unwrap(), Some(large));
}
