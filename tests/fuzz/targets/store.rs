//! See `fuzz::store`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::store::seeds), |data: &[u8]| fuzz::store::run(data));
