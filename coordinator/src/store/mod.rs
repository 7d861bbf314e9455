//! Where the coordinator's state lives: one trait over ordered keys, with atomic batches.
//!
//! Architecture invariant: no other room knows a file, a table or a query. A shared database takes the place of
//! [`Redb`] by passing [`conformance`].

mod compact;
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
    Damaged { kind: &'static str, source: Option<Box<dyn std::error::Error + Send + Sync>> },
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Takes a key and its value.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError>;

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

    /// Gives `to` all keys that begin with `prefix`, in order, with their values; what `to` refuses ends it.
    ///
    /// # Errors
    /// Where the store cannot read, and what `to` refuses with.
    fn each(&self, prefix: &[u8], to: Visit<'_>) -> Result<(), StoreError>;

    /// All keys that begin with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// Where the store cannot read.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StoreError> {
        let mut found = Vec::new();
        self.each(prefix, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(found)
    }

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
    let mut seen = 0;
    let refused = store.each(b"a/", &mut |_, _| {
        seen += 1;
        Err(StoreError::Damaged { kind: "test", source: None })
    });
    assert!(refused.is_err() && seen == 1);
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
