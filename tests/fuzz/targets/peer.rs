//! See `fuzz::peer`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::peer::seeds), |data: &[u8]| fuzz::peer::run(data));
