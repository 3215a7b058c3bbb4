//! See `twinkeep_fuzz::words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::words::body(data));
