//! The fuzz targets on random inputs, so that they are known to work before a fuzzer spends a night on them.

use proptest::collection::vec;
use proptest::prelude::*;

/// Words of `blkproof`'s command line, and values that are and are not in its ranges.
const WORDS: [&str; 38] = [
    "add",
    "null",
    "mem",
    "loop",
    "list",
    "del",
    "resize",
    "dump",
    "--size",
    "-q",
    "--depth=4096",
    "--depth=0",
    "--buffer",
    "--data",
    "--batch",
    "--shared=x",
    "--recovery",
    "--restart",
    "--record",
    "--all",
    "--if-unused",
    "--json",
    "--help",
    "-n",
    "--",
    "copy",
    "get-data",
    "zero-copy",
    "reissue",
    "0",
    "1",
    "4096",
    "4097",
    "64M",
    "9E",
    "1e3",
    "-1",
    "",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn uapi(data in vec(any::<u8>(), 0..256)) {
        blkproof_fuzz::uapi(&data);
    }

    #[test]
    fn tag(data in vec(any::<u8>(), 0..64)) {
        blkproof_fuzz::tag(&data);
    }

    #[test]
    fn engine(data in vec(any::<u8>(), 0..600)) {
        blkproof_fuzz::engine(&data);
    }

    #[test]
    fn tape(data in vec(any::<u8>(), 0..200)) {
        blkproof_fuzz::tape(&data);
    }

    #[test]
    fn cli(data in vec(any::<u8>(), 0..100)) {
        blkproof_fuzz::cli(&data);
    }

    #[test]
    fn blkproof_cli(data in vec(any::<u8>(), 0..100)) {
        blkproof_fuzz::blkproof_cli(&data);
    }

    /// Of words that it knows.
    #[test]
    fn blkproof_cli_of_its_words(chosen in vec(any::<prop::sample::Selector>(), 0..9)) {
        let words: Vec<_> = chosen.iter().map(|one| one.select(WORDS)).collect();
        blkproof_fuzz::blkproof_cli(words.join("\n").as_bytes());
    }

    #[test]
    fn simulation(data in vec(any::<u8>(), 0..400)) {
        blkproof_fuzz::simulation(&data);
    }
}
