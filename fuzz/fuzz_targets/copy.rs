#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| planetscale_ingest::fuzzing::copy(input));
