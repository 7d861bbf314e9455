//! Any bytes as data, and any bytes as the array inside an archive: never a panic, never a large allocation.
#![no_main]

use std::io::{Cursor, Write};

use secateur_engine::Dataset;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Dataset::from_npz(bytes);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let whole = archive.start_file("x.npy", options).is_ok() && archive.write_all(bytes).is_ok();
    if let (true, Ok(archive)) = (whole, archive.finish()) {
        let _ = Dataset::from_npz(archive.get_ref());
    }
});
