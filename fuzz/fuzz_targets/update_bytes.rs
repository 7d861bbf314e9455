//! Any bytes as an update: never a panic. (They rarely pass the checksums: `update_sealed` goes deeper.)
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = secateur_update::Manifest::read(bytes);
    let _ = secateur_update::apply(None, bytes);
});
