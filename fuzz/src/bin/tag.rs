//! Fuzzes [`blkproof_fuzz::tag`].
#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(|data: &[u8]| blkproof_fuzz::tag(data));

#[cfg(not(feature = "libfuzzer"))]
fn main() -> std::process::ExitCode {
    blkproof_fuzz::replay(blkproof_fuzz::tag)
}
