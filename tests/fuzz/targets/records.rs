//! See `fuzz::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::records::seeds), |data: &[u8]| fuzz::records::run(data));
