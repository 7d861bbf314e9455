//! Files in and out: reads are capped, writes are whole or not at all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use secateur_common::{ByteCount, caps};

use crate::failure::{Failure, OrFail, Outcome};

/// The bytes of `path`, at most `cap` of them.
///
/// # Errors
/// Where it cannot be read or is larger.
pub(crate) fn read(path: &Path, cap: usize) -> Outcome<Vec<u8>> {
    let shown = path.display();
    let file = File::open(path)
        .or_input(format!("cannot open {shown}"), "give the path of an existing, readable file")?;
    let mut bytes = Vec::new();
    let read = file.take(cap as u64 + 1).read_to_end(&mut bytes);
    read.or_input(format!("cannot read {shown}"), "give the path of an ordinary file, not of a folder")?;
    if bytes.len() > cap {
        let what = format!("{shown} is over the limit of {}", ByteCount(cap as u64));
        return Err(Failure::input(what, "give a smaller file"));
    }
    Ok(bytes)
}

/// The text of `path`, a configuration.
///
/// # Errors
/// As [`read`], and where it is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Outcome<String> {
    let bytes = read(path, caps::CONFIG_BYTES)?;
    String::from_utf8(bytes).or_input(format!("cannot read {}", path.display()), "give a text file in UTF-8")
}

/// Writes `bytes` to `path`: beside it first, then renamed, so that a reader sees all or nothing.
///
/// # Errors
/// Where the folder is missing, full or not writable.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Outcome {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let advice = "check that the folder exists, is writable and has space";
    let whole = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        make_readable(file.as_file())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    whole().or_work(format!("cannot write {}", path.display()), advice)
}

/// A temporary file is private; a result is as readable as any other file.
fn make_readable(file: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_cap_and_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert!(read(&path, 4).is_err());
        assert!(read(&folder.path().join("b"), 4).is_err());
        assert!(write(&folder.path().join("missing/a"), b"").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
