#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mizzen_testkit::fuzz::proxy_protocol(data));
