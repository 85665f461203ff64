//! The fuzz targets on random inputs, so that they are known to work before a fuzzer spends a night on them.

use proptest::collection::vec;
use proptest::prelude::*;

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
    fn simulation(data in vec(any::<u8>(), 0..400)) {
        blkproof_fuzz::simulation(&data);
    }
}
