//! Variants as stored: each a file of its full update, the payload first, as its frames are made before the manifest is known.
//!
//! Architecture invariant: the record that makes a variant held is written last, when the file is durable, and goes first.

use std::collections::BTreeSet;

use secateur_common::{ByteCount, Digest, VariantId, caps};
use secateur_engine::KernelChoices;

use super::kv::Change;
use super::{Cache, CacheError, Result, record};

/// The lengths of a variant's file.
#[derive(Clone, Copy)]
struct Extent {
    payload: u64,
    manifest: u64,
}

impl Extent {
    fn of_record(value: Vec<u8>) -> Result<Self> {
        let value: [u8; 16] = value.try_into().map_err(|_| CacheError::Damaged("held"))?;
        let both = u128::from_be_bytes(value);
        Ok(Self { payload: (both >> 64) as u64, manifest: both as u64 })
    }

    fn record(self) -> Vec<u8> {
        [self.payload.to_be_bytes(), self.manifest.to_be_bytes()].concat()
    }

    fn bytes(self) -> u64 {
        self.payload.saturating_add(self.manifest)
    }
}

impl Cache {
    /// The variants that are held.
    pub(super) fn variants(&self) -> Result<BTreeSet<VariantId>> {
        let keys = self.keys(HELD)?;
        Ok(keys.iter().filter_map(|key| Digest::try_from(&key[HELD.len()..]).ok().map(VariantId)).collect())
    }

    /// Stores frame `index` of a variant that is being made; all frames but the last are full. Durable with [`Cache::hold`].
    ///
    /// # Errors
    /// Where the cache cannot be written, such as on a full disk.
    pub fn put_frame(&self, variant: VariantId, index: u32, frame: &[u8]) -> Result<()> {
        self.files.write(&name(variant), place(index), frame).map_err(CacheError::Store)
    }

    /// Makes a variant held, of which all frames were put, `payload` in all: its manifest, then, once the file is durable, the
    /// record.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn hold(&self, variant: VariantId, manifest: &[u8], payload: ByteCount) -> Result<()> {
        let name = name(variant);
        self.files.write(&name, payload.get(), manifest).map_err(CacheError::Store)?;
        self.files.sync(&name).map_err(CacheError::Store)?;
        let extent = Extent { payload: payload.get(), manifest: manifest.len() as u64 };
        self.apply(vec![Change::Put(key(variant), extent.record())])?;
        self.flush()
    }

    /// Bytes of a variant as stored; none where it is not held.
    ///
    /// # Errors
    /// Where the cache cannot be read, or the record is damaged.
    pub fn stored_bytes(&self, variant: VariantId) -> Result<Option<ByteCount>> {
        Ok(self.extent(variant)?.map(|extent| ByteCount(extent.bytes())))
    }

    /// The manifest of a variant; none where it is not held, or its file does not have it.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn manifest(&self, variant: VariantId) -> Result<Option<Vec<u8>>> {
        let Some(extent) = self.whole(variant)? else { return Ok(None) };
        let read = self.files.read(&name(variant), extent.payload, extent.manifest as usize);
        read.map_err(CacheError::Store)
    }

    /// Frame `index` of a variant; none where there is no such frame.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn frame(&self, variant: VariantId, index: u32) -> Result<Option<Vec<u8>>> {
        let Some(extent) = self.extent(variant)? else { return Ok(None) };
        let length = extent.payload.saturating_sub(place(index)).min(caps::FRAME_BYTES as u64) as usize;
        if length == 0 {
            return Ok(None);
        }
        self.files.read(&name(variant), place(index), length).map_err(CacheError::Store)
    }

    /// The kernels that trials found for a variant on this device; none where they are not known, or damaged.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn kernels(&self, variant: VariantId) -> Result<Option<KernelChoices>> {
        let stored = self.get(&kernels_key(variant))?;
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
        self.apply(vec![Change::Put(kernels_key(variant), value)])
    }

    /// Forgets a variant: the record that makes it held first, for ever, with its kernels, then its file.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_variant(&self, variant: VariantId) -> Result<()> {
        if self.get(&key(variant))?.is_some() {
            let both = [key(variant), kernels_key(variant)];
            self.apply(both.into_iter().map(Change::Delete).collect())?;
            self.flush()?;
        }
        self.files.remove(&name(variant)).map_err(CacheError::Store)
    }

    /// Forgets what was stored of variants that never became held, because the power went or the disk was full.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub fn drop_unheld(&self) -> Result<()> {
        let held: Vec<_> = self.variants()?.into_iter().map(name).collect();
        self.remove_files(|file| file.starts_with(PREFIX) && !held.iter().any(|held| held == file))
    }

    /// Forgets the variants of which the file is not there, or is not of its length.
    pub(super) fn drop_incomplete(&self) -> Result<()> {
        for variant in self.variants()? {
            if self.whole(variant)?.is_none() {
                tracing::error!(variant = %variant.0.short(), "a variant is incomplete on disk and is dropped");
                self.drop_variant(variant)?;
            }
        }
        Ok(())
    }

    fn extent(&self, variant: VariantId) -> Result<Option<Extent>> {
        self.get(&key(variant))?.map(Extent::of_record).transpose()
    }

    /// As [`Self::extent`], where the file is of that length.
    fn whole(&self, variant: VariantId) -> Result<Option<Extent>> {
        let length = self.files.length(&name(variant)).map_err(CacheError::Store)?;
        Ok(self.extent(variant)?.filter(|extent| length == Some(extent.bytes())))
    }
}

const HELD: &[u8] = b"h/";
const KERNELS: &[u8] = b"k/";
const PREFIX: &str = "variant-";

fn key(variant: VariantId) -> Vec<u8> {
    [HELD, variant.0.as_bytes()].concat()
}

fn kernels_key(variant: VariantId) -> Vec<u8> {
    [KERNELS, variant.0.as_bytes()].concat()
}

fn name(variant: VariantId) -> String {
    format!("{PREFIX}{}", variant.0)
}

/// Where a frame begins.
fn place(index: u32) -> u64 {
    u64::from(index) * caps::FRAME_BYTES as u64
}
