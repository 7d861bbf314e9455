//! A decoded variant in a file without a name, while an update is made into its stored form: tensors are written as they
//! are decoded and read at random, so that the memory needed does not depend on the model. The file is gone with the
//! program, however that ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use secateur_common::VariantId;
use secateur_model::DType;
use secateur_update::{AccessError, Base, Sink};

/// Bytes that are written or read at once.
const WINDOW: usize = 64 * 1024;

/// A variant, first as a sink, then, when its digest was found to hold, as a base.
pub(crate) struct Scratch {
    file: File,
    variant: VariantId,
    skeleton: Vec<u8>,
    tensors: BTreeMap<String, Place>,
    written: u64,
    pending: Vec<u8>,
    window: RefCell<Window>,
}

/// Where a tensor lies.
struct Place {
    dtype: DType,
    shape: Vec<usize>,
    start: u64,
}

/// What was read last.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Scratch {
    /// An empty one for `variant`, its file in `folder`.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub(crate) fn new(folder: &Path, variant: VariantId) -> std::io::Result<Self> {
        let path = folder.join("scratch");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self {
            file,
            variant,
            skeleton: Vec::new(),
            tensors: BTreeMap::new(),
            written: 0,
            pending: Vec::with_capacity(WINDOW),
            window: RefCell::default(),
        })
    }

    /// Everything came.
    ///
    /// # Errors
    /// Where the disk is full.
    pub(crate) fn finish(mut self) -> Result<Self, AccessError> {
        self.flush()?;
        self.pending = Vec::new();
        Ok(self)
    }

    fn flush(&mut self) -> Result<(), AccessError> {
        self.file.write_all(&self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Makes room for `count` more bytes.
    fn room(&mut self, count: usize) -> Result<(), AccessError> {
        if self.pending.len() + count > WINDOW { self.flush() } else { Ok(()) }
    }

    /// Gives `take` the bytes of a tensor from `first` on, piece by piece of whole elements of `size` bytes.
    fn read(
        &self,
        name: &str,
        (first, count, size): (usize, usize, usize),
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<(), AccessError> {
        let place = self.tensors.get(name).ok_or("no such tensor")?;
        let mut window = self.window.borrow_mut();
        let (mut at, end) = (place.start + first as u64, place.start + (first + count) as u64);
        if end > self.written {
            return Err("elements beyond the end".into());
        }
        while at < end {
            let inside =
                at.checked_sub(window.start).filter(|&from| from + size as u64 <= window.bytes.len() as u64);
            let Some(from) = inside else {
                let length = (self.written - at).min(WINDOW as u64) as usize;
                window.start = at;
                window.bytes.resize(length, 0);
                self.file.read_exact_at(&mut window.bytes, at)?;
                continue;
            };
            let there = &window.bytes[from as usize..];
            let now = there.len().min((end - at) as usize) / size * size;
            take((at - place.start) as usize - first, &there[..now]);
            at += now as u64;
        }
        Ok(())
    }
}

impl Sink for Scratch {
    fn skeleton(&mut self, skeleton: &[u8]) -> Result<(), AccessError> {
        self.skeleton = skeleton.to_vec();
        Ok(())
    }

    fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), AccessError> {
        let place = Place { dtype, shape: shape.to_vec(), start: self.written + self.pending.len() as u64 };
        self.tensors.insert(name.to_owned(), place);
        Ok(())
    }

    fn floats(&mut self, values: &[f32]) -> Result<(), AccessError> {
        for values in values.chunks(WINDOW / 4) {
            self.room(values.len() * 4)?;
            self.pending.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Ok(())
    }

    fn bytes(&mut self, elements: &[u8]) -> Result<(), AccessError> {
        for elements in elements.chunks(WINDOW) {
            self.room(elements.len())?;
            self.pending.extend_from_slice(elements);
        }
        Ok(())
    }
}

impl Base for Scratch {
    fn variant_id(&self) -> VariantId {
        self.variant
    }

    fn skeleton(&self) -> Vec<u8> {
        self.skeleton.clone()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn tensor(&self, name: &str) -> Option<(DType, &[usize])> {
        self.tensors.get(name).map(|place| (place.dtype, &place.shape[..]))
    }

    fn floats(&self, name: &str, first: usize, values: &mut [f32]) -> Result<(), AccessError> {
        let extent = (first * 4, values.len() * 4, 4);
        self.read(name, extent, |at, bytes| {
            let (chunks, _) = bytes.as_chunks();
            values[at / 4..]
                .iter_mut()
                .zip(chunks)
                .for_each(|(value, &chunk)| *value = f32::from_le_bytes(chunk));
        })
    }

    fn bytes(&self, name: &str, first: usize, elements: &mut [u8]) -> Result<(), AccessError> {
        let extent = (first, elements.len(), 1);
        self.read(name, extent, |at, bytes| elements[at..at + bytes.len()].copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_at_random_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let variant = VariantId(secateur_common::Digest::from_bytes([1; 32]));
        let mut scratch = Scratch::new(folder.path(), variant).unwrap();
        let values: Vec<f32> = (0..70_000u32).map(|value| value as f32 / 3.0).collect();
        Sink::skeleton(&mut scratch, b"graph").unwrap();
        Sink::tensor(&mut scratch, "a", DType(2), &[3]).unwrap();
        Sink::bytes(&mut scratch, &[7, 8, 9]).unwrap(); // what follows lies at odd places
        Sink::tensor(&mut scratch, "b", DType::F32, &[70, 1000]).unwrap();
        values.chunks(999).for_each(|values| Sink::floats(&mut scratch, values).unwrap());
        let scratch = scratch.finish().unwrap();
        assert_eq!(scratch.names(), ["a", "b"]);
        assert_eq!(Base::tensor(&scratch, "b"), Some((DType::F32, &[70, 1000][..])));
        let mut read = vec![0.0; 70_000];
        Base::floats(&scratch, "b", 0, &mut read).unwrap();
        assert_eq!(read, values);
        for first in [69_999, 0, 16_383, 16_384, 40_000] {
            let mut one = [0.0];
            Base::floats(&scratch, "b", first, &mut one).unwrap();
            assert_eq!(one[0], values[first]);
        }
        let mut bytes = [0; 2];
        Base::bytes(&scratch, "a", 1, &mut bytes).unwrap();
        assert_eq!(bytes, [8, 9]);
        assert!(Base::floats(&scratch, "b", 69_999, &mut [0.0; 2]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
