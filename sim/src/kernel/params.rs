//! The parameters of a device, as the driver keeps them (`ub->params`), and what SET_PARAMS and GET_PARAMS do to them.

use blkproof_engine::uapi::{Features, KernelSeries, Params};

use crate::kernel::errno;

/// Type bits: BASIC, and DEVT, which only the driver sets.
const BASIC: u32 = 1;
const DEVT: u32 = 1 << 2;
/// Where the size stands.
const DEV_SECTORS: usize = 24;

/// `ub->params`: bytes, because a SET_PARAMS may replace no more than the first few of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Stored([u8; Params::SIZE]);

/// Bytes and type bits of `struct ublk_params` in a kernel.
const fn known(kernel: KernelSeries) -> (usize, u32) {
    match kernel {
        KernelSeries::V6_12 => (108, 0xf),
        KernelSeries::V6_18 => (136, 0x3f),
        KernelSeries::V7_3 => (152, 0x7f),
    }
}

impl Stored {
    /// Nothing was set.
    pub(crate) const NOTHING: Self = Self([0; Params::SIZE]);

    fn types(&self) -> u32 {
        u32::from_ne_bytes(*self.0[4..].first_chunk().expect("there are more bytes"))
    }

    fn set_types(&mut self, types: u32) {
        self.0[4..8].copy_from_slice(&types.to_ne_bytes());
    }

    /// UPDATE_SIZE changes the size in place.
    pub(crate) fn resize(&mut self, sectors: u64) {
        self.0[DEV_SECTORS..][..8].copy_from_slice(&sectors.to_ne_bytes());
    }

    /// Sectors of the disk, also where what was set was refused.
    pub(crate) fn sectors(&self) -> u64 {
        u64::from_ne_bytes(*self.0[DEV_SECTORS..].first_chunk().expect("there are more bytes"))
    }

    /// Whether a device may be started with them.
    pub(crate) fn has_basic(&self) -> bool {
        self.types() & BASIC != 0
    }

    /// The parts, whatever length the caller gave.
    pub(crate) fn parts(&self) -> Params {
        let mut whole = self.0;
        whole[..4].copy_from_slice(&(Params::SIZE as u32).to_ne_bytes());
        Params::decode(&whole).unwrap_or_default()
    }

    /// SET_PARAMS, once the lengths are found good: as many bytes as the caller says replace what was there. What breaks a rule is not kept,
    /// and takes along what was there before.
    pub(crate) fn set(
        &mut self,
        given: &[u8; Params::SIZE],
        kernel: KernelSeries,
        flags: Features,
        max_io_buf_bytes: u32,
    ) -> Result<(), i32> {
        let (bytes, types) = known(kernel);
        let len = u32::from_ne_bytes(*given.first_chunk().expect("there are more bytes")) as usize;
        let len = len.min(bytes);
        self.0[..len].copy_from_slice(&given[..len]);
        self.set_types(self.types() & types);
        let valid = self.parts().validate(kernel, flags, max_io_buf_bytes);
        if valid.is_err() {
            if kernel == KernelSeries::V7_3 {
                *self = Self::NOTHING;
            }
            self.set_types(0);
            return Err(errno::EINVAL);
        }
        Ok(())
    }

    /// GET_PARAMS of so many bytes. From then on the numbers of the devices are among what is set.
    pub(crate) fn get(&mut self, kernel: KernelSeries, bytes: usize) -> [u8; Params::SIZE] {
        self.set_types(self.types() | DEVT);
        let mut told = [0; Params::SIZE];
        let bytes = bytes.min(known(kernel).0);
        told[..bytes].copy_from_slice(&self.0[..bytes]);
        told
    }
}
