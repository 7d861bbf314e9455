//! A disk in memory that can be told to lose power: records and files on it, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Cache;
use super::files::Files;
use super::kv::{Change, Kv, KvError, Pair, assert_within_cap};

/// Records and files, shared by all clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    records: Records,
    files: BTreeMap<String, Vec<u8>>,
    /// The files as they were when they were synced last.
    synced: BTreeMap<String, Vec<u8>>,
    /// Calls that change something and still work; after them the power is gone.
    left: Option<usize>,
}

#[derive(Debug, Default)]
struct Records {
    now: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    unflushed: Vec<Vec<Change>>,
}

impl MemoryDisk {
    /// What is held on it.
    pub(crate) fn cache(&self) -> Cache {
        Cache::on(self.clone(), self.clone())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::inner`], for a call that changes something.
    fn powered(&self) -> Result<MutexGuard<'_, Inner>, KvError> {
        let mut inner = self.inner();
        match &mut inner.left {
            Some(0) => return Err("the power is gone".into()),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(inner)
    }

    /// Power goes after `calls` more batches, writes, removals or flushes.
    pub(crate) fn cut_after(&self, calls: usize) {
        self.inner().left = Some(calls);
    }

    /// Whether the power is gone.
    pub(crate) fn is_cut(&self) -> bool {
        self.inner().left == Some(0)
    }

    /// What a cut may lose: batches, and files that are not as they were synced.
    pub(crate) fn unflushed(&self) -> usize {
        let inner = self.inner();
        let changed = |name: &&String| inner.files.get(*name) != inner.synced.get(*name);
        let names: BTreeSet<_> = inner.files.keys().chain(inner.synced.keys()).collect();
        inner.records.unflushed.len() + names.iter().filter(|name| changed(name)).count()
    }

    /// Power is back: what was flushed is there, and of the batches since the first `kept`. Of the files, where `kept` is
    /// even, what was synced; where it is odd, all of their length and of what was not synced other bytes.
    pub(crate) fn restart(&self, kept: usize) {
        let mut inner = self.inner();
        inner.left = None;
        let Inner { records, files, synced, .. } = &mut *inner;
        records.unflushed.drain(..).take(kept).for_each(|batch| put_all(&mut records.durable, batch));
        records.now.clone_from(&records.durable);
        if kept % 2 == 1 {
            for (name, bytes) in files.iter_mut() {
                let synced = synced.get(name).map_or(&[][..], |synced| synced);
                for (at, byte) in
                    bytes.iter_mut().enumerate().filter(|(at, byte)| synced.get(*at) != Some(*byte))
                {
                    *byte = at as u8 ^ 0xa5;
                }
            }
            synced.clone_from(files);
        }
        files.clone_from(synced);
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

impl Kv for MemoryDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.inner().records.now.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, KvError> {
        let inner = self.inner();
        let from = inner.records.now.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(from.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, KvError> {
        Ok(self.scan(prefix)?.into_iter().map(|(key, _)| key).collect())
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), KvError> {
        assert_within_cap(&changes);
        let mut inner = self.powered()?;
        put_all(&mut inner.records.now, changes.clone());
        inner.records.unflushed.push(changes);
        Ok(())
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut inner = self.powered()?;
        let Records { durable, unflushed, .. } = &mut inner.records;
        unflushed.drain(..).for_each(|batch| put_all(durable, batch));
        Ok(())
    }
}

impl Files for MemoryDisk {
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), KvError> {
        let mut inner = self.powered()?;
        let file = inner.files.entry(name.to_owned()).or_default();
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        file.resize(file.len().max(to), 0);
        file[from..to].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, name: &str) -> Result<(), KvError> {
        let mut inner = self.powered()?;
        let file = inner.files.get(name).ok_or("no such file")?.clone();
        inner.synced.insert(name.to_owned(), file);
        Ok(())
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> Result<Option<Vec<u8>>, KvError> {
        let from = offset as usize;
        Ok(self.inner().files.get(name).and_then(|file| file.get(from..from + length)).map(<[u8]>::to_vec))
    }

    fn length(&self, name: &str) -> Result<Option<u64>, KvError> {
        Ok(self.inner().files.get(name).map(|file| file.len() as u64))
    }

    fn remove(&self, name: &str) -> Result<(), KvError> {
        self.powered()?.files.remove(name);
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, KvError> {
        Ok(self.inner().files.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{files, kv};

    #[test]
    fn the_disk_in_memory_conforms() {
        kv::conformance(&MemoryDisk::default());
        files::conformance(&MemoryDisk::default());
    }

    #[test]
    fn a_cut_spares_what_was_synced_and_nothing_else() {
        for (kept, rest) in [(0, None), (1, Some(vec![b'a', 0xa4]))] {
            let disk = MemoryDisk::default();
            disk.write("f", 0, b"a").unwrap();
            disk.sync("f").unwrap();
            disk.write("f", 1, b"b").unwrap();
            disk.write("g", 0, b"c").unwrap();
            disk.cut_after(0);
            assert!(
                disk.write("h", 0, b"d").is_err() && disk.sync("f").is_err() && disk.remove("f").is_err()
            );
            disk.restart(kept);
            assert_eq!(disk.read("f", 0, 1).unwrap().unwrap(), b"a");
            assert_eq!(disk.read("f", 0, 2).unwrap(), rest);
            assert_eq!(disk.length("g").unwrap().is_some(), kept == 1);
        }
    }

    #[test]
    #[should_panic(expected = "over")]
    fn a_value_over_the_cap_is_a_defect() {
        let value = vec![0; secateur_common::caps::CACHE_VALUE_BYTES + 1];
        let _ = MemoryDisk::default().apply(vec![Change::Put(vec![1], value)]);
    }
}
