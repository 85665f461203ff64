//! Integrity metadata (7.3): what the block layer adds to reads and writes of a device that says so, and the server copies apart from the data.

use blkproof_engine::uapi::{IntegrityParams, KernelSeries};

use crate::kernel::block::{BlockOp, Request};
use crate::kernel::data::Part;
use crate::kernel::errno;
use crate::run::{Run, Sabotage};
use crate::world::{RequestId, ThreadId, World};

/// What is in a tuple that is not to be verified (`T10_PI_APP_ESCAPE`, `T10_PI_REF_ESCAPE`).
const ESCAPE: u8 = 0xff;
/// log2 of the bytes of a sector.
const SECTOR_SHIFT: u8 = 9;

impl World {
    /// The integrity profile of the disk, if a request has metadata, and the bytes of that (`bio_integrity_bytes`).
    pub(crate) fn metadata_of(&self, request: &Request) -> Option<(IntegrityParams, u16)> {
        let profile = self.device.as_ref()?.params.parts().integrity?;
        let intervals = request.sectors >> profile.interval_exp.saturating_sub(SECTOR_SHIFT);
        let has = matches!(request.op, BlockOp::Read | BlockOp::Write { .. });
        has.then_some((profile, intervals * u16::from(profile.metadata_size)))
    }

    /// `pread` and `pwrite` of a request's metadata, in bytes. `put`: what is put into a read's.
    pub(crate) fn copies_metadata(
        &mut self,
        thread: ThreadId,
        tag: (u16, u16),
        (first, count): Part,
        put: Option<u8>,
    ) -> Result<(i32, Option<u8>), i32> {
        let old = self.device.as_ref().is_some_and(|device| device.kernel < KernelSeries::V7_3);
        if old {
            // The bit is not looked at.
            return self.user_copy(thread, tag, (first / 512, count / 512), put);
        }
        let id = self.copies_of(thread, tag, true)?;
        let Some(request) = &self.requests[id.index()] else { return Err(errno::EINVAL) };
        let (brings, profile) = (request.op.brings_data(), self.metadata_of(request));
        let bytes = profile.map_or(0, |(_, bytes)| bytes);
        if first > bytes {
            return Err(errno::EINVAL);
        }
        if put.is_some() != brings {
            return Err(errno::EACCES);
        }
        let there = count.min(bytes - first);
        let plain = profile.is_some_and(|(it, _)| it.csum_type == IntegrityParams::CSUM_NONE);
        if let (Some(request), true) = (&mut self.requests[id.index()], put.is_some()) {
            request.metadata = put.filter(|_| there == bytes);
        }
        // Tuples are generated. Where there are none, it is zeroes.
        let zeroes = put.is_none() && plain && there > 0;
        Ok((i32::from(there), zeroes.then_some(0)))
    }

    /// What a read brought fits its metadata (`bio_integrity_verify_fn`). Nobody makes tuples that do, but for one that says not to look.
    pub(crate) fn verifies(&self, run: &Run<'_>, id: RequestId) -> Result<(), i32> {
        let Some(request) = &self.requests[id.index()] else { return Ok(()) };
        let Some((profile, _)) = self.metadata_of(request) else { return Ok(()) };
        let verified = request.op == BlockOp::Read
            && profile.csum_type != IntegrityParams::CSUM_NONE
            && run.sabotage != Some(Sabotage::TrustMetadata);
        if verified && request.metadata != Some(ESCAPE) { Err(errno::EILSEQ) } else { Ok(()) }
    }
}
