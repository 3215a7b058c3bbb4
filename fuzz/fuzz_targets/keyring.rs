//! See `twinkeep_fuzz::keyring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::keyring::body(data));
