//! See `fuzz::files`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::sow(fuzz::files::seeds), |data: &[u8]| fuzz::files::run(data));
