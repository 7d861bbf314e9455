//! This device's secret, in a file of its own beside the cache.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};

/// Bytes of a credential: two random UUIDs, 244 random bits.
const KEY_BYTES: usize = 32;

/// The secret; made on the first start.
pub(crate) fn credential(data: &Path) -> anyhow::Result<Vec<u8>> {
    let path = data.join("device.key");
    let doing = || format!("cannot use the credential {}", path.display());
    if path.exists() {
        let key = std::fs::read(&path).with_context(doing)?;
        if key.len() != KEY_BYTES {
            bail!(
                "the credential {} has not {KEY_BYTES} bytes: restore it, or delete it to enrol anew",
                path.display()
            );
        }
        return Ok(key);
    }
    let key = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()]
        .iter()
        .flat_map(|part| *part.as_bytes())
        .collect::<Vec<_>>();
    let temporary = data.join("device.key.new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(doing)?;
    file.write_all(&key).and_then(|()| file.sync_all()).with_context(doing)?;
    std::fs::rename(&temporary, &path).with_context(doing)?;
    std::fs::File::open(data).and_then(|folder| folder.sync_all()).with_context(doing)?;
    Ok(key)
}
