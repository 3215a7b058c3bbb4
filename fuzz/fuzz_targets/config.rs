//! See `twinkeep_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::config::body(data));
