#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringpost_fuzz_bodies::peer::run(data));
