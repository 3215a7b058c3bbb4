//! See `twinkeep_fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::record::body(data));
