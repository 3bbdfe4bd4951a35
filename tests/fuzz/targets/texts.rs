//! See `fuzz::texts`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::texts::seeds), |data: &[u8]| fuzz::texts::run(data));
