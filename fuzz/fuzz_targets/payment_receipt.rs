#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| boltgate_fuzz::payment_receipt(data));
