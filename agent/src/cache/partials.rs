//! Updates that are being received: each a file that grows, and a record of how much of it is durable. What lies beyond
//! the record after a cut is written again.

use std::sync::{MutexGuard, PoisonError};

use secateur_common::{ByteCount, Digest, caps};

use super::kv::Change;
use super::{Cache, CacheError, METER, RECEIVED, Result, put};
use crate::meter::Kept;

/// What came since the last flush.
pub(super) struct Arriving {
    id: Digest,
    /// Bytes of the update so far.
    bytes: u64,
    /// Of them, those that are not durable.
    fresh: u64,
}

impl Cache {
    /// How many bytes of the update `id` were received so far.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn partial_bytes(&self, id: Digest) -> Result<u64> {
        if let Some(arriving) = self.arriving().as_ref().filter(|arriving| arriving.id == id) {
            return Ok(arriving.bytes);
        }
        let Some(value) = self.get(&key(id))? else { return Ok(0) };
        let durable = u64::from_be_bytes(value.try_into().map_err(|_| CacheError::Damaged("partial"))?);
        // A file that someone cut short is begun anew.
        let length = self.files.length(&name(id)).map_err(CacheError::Store)?;
        Ok(if length >= Some(durable) { durable } else { 0 })
    }

    /// The piece of the update `id` that begins at `offset`, 64 KiB or up to the end.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn partial(&self, id: Digest, offset: u64) -> Result<Option<Vec<u8>>> {
        let left = self.partial_bytes(id)?.saturating_sub(offset);
        let length = left.min(caps::FRAME_BYTES as u64) as usize;
        self.files.read(&name(id), offset, length).map_err(CacheError::Store)
    }

    /// Appends to the received bytes of the update `id`, which are `offset` so far. Durable after [`Cache::flush`].
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn append_partial(&self, id: Digest, offset: u64, bytes: &[u8]) -> Result<()> {
        self.files.write(&name(id), offset, bytes).map_err(CacheError::Store)?;
        let mut arriving = self.arriving();
        let before =
            arriving.as_ref().filter(|arriving| arriving.id == id).map_or(0, |arriving| arriving.fresh);
        let length = bytes.len() as u64;
        *arriving = Some(Arriving { id, bytes: offset + length, fresh: before + length });
        Ok(())
    }

    /// Makes what arrived durable: the file, then, with the next flush, the record.
    pub(super) fn settle(&self) -> Result<()> {
        let mut arriving = self.arriving();
        let Some(Arriving { id, bytes, fresh }) = arriving.as_mut().filter(|arriving| arriving.fresh > 0)
        else {
            return Ok(());
        };
        self.files.sync(&name(*id)).map_err(CacheError::Store)?;
        let received = self.recorded()?.saturating_add(*fresh);
        let length = Change::Put(key(*id), bytes.to_be_bytes().to_vec());
        self.apply(vec![length, put(RECEIVED, &received)])?;
        *fresh = 0;
        Ok(())
    }

    /// Forgets all partial updates but `keep`: their records first, for ever, then their files.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_partials(&self, keep: Option<Digest>) -> Result<()> {
        self.settle()?; // so that what came of them is counted
        let kept = keep.map(key);
        let gone: Vec<_> =
            self.keys(PARTIALS)?.into_iter().filter(|key| Some(key) != kept.as_ref()).collect();
        if !gone.is_empty() {
            self.apply(gone.into_iter().map(Change::Delete).collect())?;
            self.flush()?;
        }
        self.arriving().take_if(|arriving| Some(arriving.id) != keep);
        let kept = keep.map(name);
        self.remove_files(|file| file.starts_with(PREFIX) && Some(file) != kept.as_deref())
    }

    /// The day's bytes and the cap, as kept last.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn meter(&self) -> Result<Option<Kept>> {
        self.record(METER)
    }

    /// Keeps the day's bytes and the cap; durable when this returns.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn keep_meter(&self, kept: &Kept) -> Result<()> {
        self.apply(vec![put(METER, kept)])?;
        self.flush()
    }

    /// Update bytes received since the cache was made.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn received(&self) -> Result<ByteCount> {
        let fresh = self.arriving().as_ref().map_or(0, |arriving| arriving.fresh);
        Ok(ByteCount(self.recorded()?.saturating_add(fresh)))
    }

    fn recorded(&self) -> Result<u64> {
        Ok(self.record(RECEIVED)?.unwrap_or(0))
    }

    fn arriving(&self) -> MutexGuard<'_, Option<Arriving>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PARTIALS: &[u8] = b"p/";
const PREFIX: &str = "update-";

fn key(id: Digest) -> Vec<u8> {
    [PARTIALS, id.as_bytes()].concat()
}

fn name(id: Digest) -> String {
    format!("{PREFIX}{id}")
}
