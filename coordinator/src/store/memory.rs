//! A store that forgets, for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Change, Store, StoreError, Visit};

/// Keys in a map.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Store for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn each(&self, prefix: &[u8], to: Visit<'_>) -> Result<(), StoreError> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from = map.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        from.try_for_each(|(key, value)| to(key, value))
    }

    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Put(key, value) => drop(map.insert(key.clone(), value.clone())),
                Change::Delete(key) => drop(map.remove(key)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_conforms() {
        super::super::conformance(&super::Memory::default());
    }
}
