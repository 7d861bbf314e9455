//! Updates that are being received: pieces by offset, without holes.

use secateur_common::{ByteCount, Digest, caps};

use super::kv::Change;
use super::{Cache, CacheError, METER, RECEIVED, Result, put};
use crate::meter::Kept;

impl Cache {
    /// How many bytes of the update `id` were received so far.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn partial_bytes(&self, id: Digest) -> Result<u64> {
        let last = self.kv.last(&partials(id)).map_err(CacheError::Store)?;
        let Some((key, piece)) = last else { return Ok(0) };
        let offset = key[partials(id).len()..].try_into().map_err(|_| CacheError::Damaged("partial"))?;
        Ok(u64::from_be_bytes(offset) + piece.len() as u64)
    }

    /// The piece of the update `id` that begins at `offset`.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn partial(&self, id: Digest, offset: u64) -> Result<Option<Vec<u8>>> {
        self.get(&piece(id, offset))
    }

    /// Appends to the received bytes of the update `id`, which are `offset` so far. Durable after [`Cache::flush`].
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn append_partial(&self, id: Digest, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = offset;
        let mut batch = Vec::new();
        for part in bytes.chunks(caps::CACHE_VALUE_BYTES) {
            batch.push(Change::Put(piece(id, at), part.to_vec()));
            at += part.len() as u64;
        }
        let received = self.received()?.get().saturating_add(bytes.len() as u64);
        batch.push(put(RECEIVED, &received));
        self.apply(batch)
    }

    /// Forgets all partial updates but `keep`.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_partials(&self, keep: Option<Digest>) -> Result<()> {
        let kept = keep.map(partials);
        let other = |key: &Vec<u8>| kept.as_ref().is_none_or(|kept| !key.starts_with(kept));
        self.apply(self.keys(b"p/")?.into_iter().filter(other).map(Change::Delete).collect())
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
        Ok(ByteCount(self.record(RECEIVED)?.unwrap_or(0)))
    }
}

fn partials(id: Digest) -> Vec<u8> {
    [&b"p/"[..], id.as_bytes()].concat()
}

fn piece(id: Digest, offset: u64) -> Vec<u8> {
    [&partials(id)[..], &offset.to_be_bytes()].concat()
}
