#![no_main]
job_corpus::counted!();
libfuzzer_sys::fuzz_target!(|data: &[u8]| job_corpus::bounded(data, job_images::fuzzing::archive));
