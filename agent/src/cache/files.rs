//! The bulk of what is kept, as files: variants and downloads, written once from their beginning and read at random. sled
//! holds what is known of them. It is no place for megabytes: it keeps 256 of its pages in memory whatever their size and
//! `cache_capacity`, writes a page of up to 16 values anew for each few that change, and gives disk back late.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::kv::KvError;

/// Files of one folder. What was written to a file is durable after [`Files::sync`] of it; a crash before leaves of it what it
/// likes, and may undo a removal, but harms no byte that was synced before and not written since.
pub trait Files: Send + Sync {
    /// Writes `bytes` at `offset` of the file `name`, which is made where it is not there.
    ///
    /// # Errors
    /// Where the disk refuses; so for all others.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), KvError>;

    /// Makes the file, and that it is there, durable.
    ///
    /// # Errors
    /// As above.
    fn sync(&self, name: &str) -> Result<(), KvError>;

    /// `length` bytes from `offset` on; none where the file does not have them.
    ///
    /// # Errors
    /// As above.
    fn read(&self, name: &str, offset: u64, length: usize) -> Result<Option<Vec<u8>>, KvError>;

    /// Bytes of the file; none where it is not there.
    ///
    /// # Errors
    /// As above.
    fn length(&self, name: &str) -> Result<Option<u64>, KvError>;

    /// Removes the file; one that is not there is no error.
    ///
    /// # Errors
    /// As above.
    fn remove(&self, name: &str) -> Result<(), KvError>;

    /// The names of all files, in no particular order.
    ///
    /// # Errors
    /// As above.
    fn names(&self) -> Result<Vec<String>, KvError>;
}

/// Files on disk.
pub(crate) struct DiskFiles(PathBuf);

impl DiskFiles {
    /// Those in `folder`, which is made where it is not there.
    pub(crate) fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }
}

impl Files for DiskFiles {
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), KvError> {
        let file = File::options().write(true).create(true).truncate(false).open(self.0.join(name))?;
        Ok(file.write_all_at(bytes, offset)?)
    }

    fn sync(&self, name: &str) -> Result<(), KvError> {
        File::open(self.0.join(name))?.sync_all()?;
        Ok(File::open(&self.0)?.sync_all()?)
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> Result<Option<Vec<u8>>, KvError> {
        let mut bytes = vec![0; length];
        let read = File::open(self.0.join(name)).and_then(|file| file.read_exact_at(&mut bytes, offset));
        match read {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn length(&self, name: &str) -> Result<Option<u64>, KvError> {
        match std::fs::metadata(self.0.join(name)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, name: &str) -> Result<(), KvError> {
        match std::fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn names(&self) -> Result<Vec<String>, KvError> {
        let name = |entry: std::io::Result<std::fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
        std::fs::read_dir(&self.0)?.filter_map(|entry| name(entry).transpose()).collect()
    }
}

/// What all files must do, on none.
#[cfg(test)]
pub(crate) fn conformance(files: &dyn Files) {
    assert_eq!(files.length("a").unwrap(), None);
    assert_eq!(files.read("a", 0, 1).unwrap(), None);
    files.write("a", 0, b"0123").unwrap();
    files.write("a", 4, b"456").unwrap();
    files.write("a", 2, b"xy").unwrap();
    files.write("b", 0, b"").unwrap();
    files.sync("a").unwrap();
    assert!(files.sync("c").is_err(), "it is not there");
    assert_eq!(files.length("a").unwrap(), Some(7));
    assert_eq!(files.read("a", 1, 4).unwrap().as_deref(), Some(&b"1xy4"[..]));
    assert_eq!(files.read("a", 5, 3).unwrap(), None, "beyond the end");
    let mut names = files.names().unwrap();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    files.remove("a").unwrap();
    files.remove("a").unwrap();
    assert_eq!((files.length("a").unwrap(), files.names().unwrap()), (None, vec!["b".to_owned()]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_on_disk_conform() {
        let folder = tempfile::tempdir().unwrap();
        conformance(&DiskFiles::open(&folder.path().join("files")).unwrap());
    }
}
