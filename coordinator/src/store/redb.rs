//! The default store: one redb file. Commits are durable when they return.

use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::{Change, Store, StoreError, Visit};

/// Pages that redb keeps, bytes; its default is a gigabyte. What is read often is in memory anyway.
const CACHE_BYTES: usize = 4 << 20;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("secateur");

/// A redb file.
#[derive(Debug)]
pub struct Redb(Database);

impl Redb {
    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    /// Where it cannot be opened: another coordinator has it, it is damaged beyond redb's own repair, or the disk refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed =
            |source: redb::Error| StoreError::Open { path: path.to_owned(), source: Box::new(source) };
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = database.map_err(|error| failed(error.into()))?;
        let write = database.begin_write().map_err(|error| failed(error.into()))?;
        write.open_table(TABLE).map_err(|error| failed(error.into()))?;
        write.commit().map_err(|error| failed(error.into()))?;
        Ok(Self(database))
    }
}

fn failed(operation: &'static str) -> impl Fn(redb::Error) -> StoreError {
    move |source| StoreError::Failed { operation, source: Box::new(source) }
}

impl Store for Redb {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let get = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.0.begin_read()?.open_table(TABLE)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        get().map_err(failed("read"))
    }

    fn each(&self, prefix: &[u8], to: Visit<'_>) -> Result<(), StoreError> {
        let range = || Ok(self.0.begin_read()?.open_table(TABLE)?.range(prefix..)?);
        for entry in range().map_err(failed("read"))? {
            let (key, value) = entry.map_err(|error| failed("read")(error.into()))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            to(key.value(), value.value())?;
        }
        Ok(())
    }

    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let commit = || -> Result<(), redb::Error> {
            let write = self.0.begin_write()?;
            {
                let mut table = write.open_table(TABLE)?;
                for change in changes {
                    match change {
                        Change::Put(key, value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                        Change::Delete(key) => drop(table.remove(key.as_slice())?),
                    }
                }
            }
            write.commit()?;
            Ok(())
        };
        commit().map_err(failed("write"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_conforms_and_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Redb::open(&path).unwrap();
        super::super::conformance(&store);
        assert!(matches!(Redb::open(&path), Err(StoreError::Open { .. })), "a second coordinator is refused");
        drop(store);
        assert_eq!(Redb::open(&path).unwrap().get(b"c").unwrap().as_deref(), Some(&b"2"[..]));
    }
}
