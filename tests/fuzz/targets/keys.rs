//! See `fuzz::keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::keys::seeds), |data: &[u8]| fuzz::keys::run(data));
