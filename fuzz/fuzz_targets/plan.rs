//! See `twinkeep_fuzz::plan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::plan::body(data));
