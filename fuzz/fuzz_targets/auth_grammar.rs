#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| boltgate_fuzz::auth_grammar(data));
