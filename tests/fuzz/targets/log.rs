//! See `fuzz::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::log::seeds), |data: &[u8]| fuzz::log::run(data));
