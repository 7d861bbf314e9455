//! Variants as stored: each its full update, the payload in frames as the format cuts them, the manifest beside them.
//!
//! Architecture invariant: the record that makes a variant held is written last, when all else is durable, and goes first.

use std::collections::BTreeSet;

use secateur_common::{ByteCount, Digest, VariantId, caps};
use secateur_engine::KernelChoices;

use super::kv::Change;
use super::{Cache, CacheError, Result, record};

impl Cache {
    /// The variants that are held.
    pub(super) fn variants(&self) -> Result<BTreeSet<VariantId>> {
        let keys = self.keys(b"h/")?;
        Ok(keys.iter().filter_map(|key| Digest::try_from(&key[2..]).ok().map(VariantId)).collect())
    }

    /// Stores frame `index` of a variant that is being made. Durable with [`Cache::hold`].
    ///
    /// # Errors
    /// Where the cache cannot be written, such as on a full disk.
    pub fn put_frame(&self, variant: VariantId, index: u32, frame: &[u8]) -> Result<()> {
        self.apply(vec![Change::Put(piece(FRAMES, variant, index), frame.to_vec())])
    }

    /// Makes a variant held, of which all frames were put: its manifest, then, once all is durable, the record.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn hold(&self, variant: VariantId, manifest: &[u8], bytes: ByteCount) -> Result<()> {
        for (index, part) in manifest.chunks(caps::CACHE_VALUE_BYTES).enumerate() {
            self.apply(vec![Change::Put(piece(MANIFEST, variant, index as u32), part.to_vec())])?;
        }
        self.flush()?;
        self.apply(vec![Change::Put(held_key(variant), bytes.get().to_be_bytes().to_vec())])?;
        self.flush()
    }

    /// Bytes of a variant as stored; none where it is not held.
    ///
    /// # Errors
    /// Where the cache cannot be read, or the record is damaged.
    pub fn stored_bytes(&self, variant: VariantId) -> Result<Option<ByteCount>> {
        let Some(value) = self.get(&held_key(variant))? else { return Ok(None) };
        let bytes = value.try_into().map_err(|_| CacheError::Damaged("held"))?;
        Ok(Some(ByteCount(u64::from_be_bytes(bytes))))
    }

    /// The manifest of a variant; empty where it is not held.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn manifest(&self, variant: VariantId) -> Result<Vec<u8>> {
        Ok(self.scan(&pieces(MANIFEST, variant))?.into_iter().flat_map(|(_, part)| part).collect())
    }

    /// Frame `index` of a variant.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn frame(&self, variant: VariantId, index: u32) -> Result<Option<Vec<u8>>> {
        self.get(&piece(FRAMES, variant, index))
    }

    /// The kernels that trials found for a variant on this device; none where they are not known, or damaged.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn kernels(&self, variant: VariantId) -> Result<Option<KernelChoices>> {
        let stored = self.get(&pieces(KERNELS, variant))?;
        let stored: Option<(String, Vec<String>)> = stored.and_then(|bytes| record::decode(&bytes));
        Ok(stored.map(|(set, ways)| KernelChoices { set, ways }))
    }

    /// Keeps the kernels that trials found for a variant, unless there are too many for one value: then it is tried again.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn keep_kernels(&self, variant: VariantId, kernels: &KernelChoices) -> Result<()> {
        let value = record::encode(&(&kernels.set, &kernels.ways));
        if value.len() > caps::CACHE_VALUE_BYTES {
            return Ok(());
        }
        self.apply(vec![Change::Put(pieces(KERNELS, variant), value)])
    }

    /// Forgets a variant: the record that makes it held first, then its bytes.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_variant(&self, variant: VariantId) -> Result<()> {
        self.apply(vec![Change::Delete(held_key(variant))])?;
        self.delete_all(&pieces(FRAMES, variant))?;
        self.delete_all(&pieces(MANIFEST, variant))?;
        self.delete_all(&pieces(KERNELS, variant))?;
        self.flush()
    }

    /// Forgets what was stored of variants that never became held, because the power went or the disk was full.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_unheld(&self) -> Result<()> {
        let held = self.variants()?;
        let of_held = |key: &[u8]| {
            let digest = key.get(2..34).and_then(|digest| Digest::try_from(digest).ok());
            digest.is_some_and(|digest| held.contains(&VariantId(digest)))
        };
        let keys = [self.keys(FRAMES)?, self.keys(MANIFEST)?, self.keys(KERNELS)?].concat();
        self.apply(keys.into_iter().filter(|key| !of_held(key)).map(Change::Delete).collect())
    }
}

const FRAMES: &[u8] = b"v/";
const MANIFEST: &[u8] = b"m/";
const KERNELS: &[u8] = b"k/";

fn held_key(variant: VariantId) -> Vec<u8> {
    [&b"h/"[..], variant.0.as_bytes()].concat()
}

fn pieces(kind: &[u8], variant: VariantId) -> Vec<u8> {
    [kind, variant.0.as_bytes()].concat()
}

fn piece(kind: &[u8], variant: VariantId, index: u32) -> Vec<u8> {
    [&pieces(kind, variant)[..], &index.to_be_bytes()].concat()
}
