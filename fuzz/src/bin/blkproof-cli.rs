//! Fuzzes [`blkproof_fuzz::blkproof_cli()`].
#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(|data: &[u8]| blkproof_fuzz::blkproof_cli(data));

#[cfg(not(feature = "libfuzzer"))]
fn main() -> std::process::ExitCode {
    blkproof_fuzz::replay(blkproof_fuzz::blkproof_cli)
}
