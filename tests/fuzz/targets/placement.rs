//! See `fuzz::placement`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::placement::seeds), |data: &[u8]| fuzz::placement::run(data));
