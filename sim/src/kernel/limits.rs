//! The limits of a disk, and what they make of something larger: several requests.

use blkproof_engine::uapi::{ParamAttrs, Params};

use crate::kernel::block::BlockOp;

/// What START_DEV makes of parameters, in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Limits {
    /// Largest read or write.
    pub(crate) sectors: u16,
    /// Reads and writes do not cross multiples of it. 0: they may.
    pub(crate) chunk: u16,
    /// Where large reads and writes are split if it can be helped.
    pub(crate) physical_block: u16,
    /// Largest discard. 0: none.
    pub(crate) discard: u32,
    /// What discards are aligned to if it can be helped.
    pub(crate) granule: u16,
    /// Largest write-zeroes. 0: none.
    pub(crate) zeroes: u32,
}

/// Sectors, from the first on.
type Range = (u16, u16);

impl Limits {
    pub(crate) fn new(params: &Params) -> Self {
        let basic = params.basic.unwrap_or_default();
        let discard = params.discard.unwrap_or_default();
        let small = |sectors: u32| u16::try_from(sectors).unwrap_or(u16::MAX);
        Self {
            sectors: small(basic.max_sectors),
            chunk: small(basic.chunk_sectors),
            physical_block: 1 << (basic.physical_bs_shift.max(9) - 9).min(15),
            discard: discard.max_discard_sectors,
            granule: small(discard.discard_granularity / 512).max(1),
            zeroes: discard.max_write_zeroes_sectors,
        }
    }

    /// The first part of what is asked: as large as one request may be.
    fn first_part(&self, op: BlockOp, (start, sectors): Range) -> u16 {
        let most = match op {
            BlockOp::Flush | BlockOp::ReportZones(_) => 0,
            // One zone after another (`blkdev_zone_mgmt`).
            BlockOp::Zone(_) => self.chunk,
            BlockOp::ResetZones => sectors,
            BlockOp::Read | BlockOp::Write { .. } => self.within_blocks(start, self.sectors),
            // `bio_split_discard`
            BlockOp::Discard => {
                let granules = self.discard / u32::from(self.granule);
                let most = u16::try_from(granules * u32::from(self.granule)).unwrap_or(u16::MAX);
                if most == 0 || sectors <= most {
                    sectors
                } else {
                    most - (start.wrapping_add(most)) % self.granule
                }
            }
            BlockOp::WriteZeroes { .. } => {
                self.within_blocks(start, u16::try_from(self.zeroes).unwrap_or(u16::MAX))
            }
        };
        sectors.min(most)
    }

    /// The most that neighbours may become, from there on (`blk_rq_get_max_sectors`).
    pub(super) fn whole(&self, start: u16) -> u16 {
        match self.chunk {
            0 => self.sectors,
            chunk => self.sectors.min(chunk - start % chunk),
        }
    }

    /// What does not cross chunks, and ends where a block does if it can be helped (`get_max_io_size`).
    fn within_blocks(&self, start: u16, most: u16) -> u16 {
        let most = match self.chunk {
            0 => most,
            chunk => most.min(chunk - start % chunk),
        };
        let (within, block) =
            (u32::from(start % self.physical_block), u32::from(self.physical_block));
        let whole = (within + u32::from(most)) / block * block;
        u16::try_from(whole.saturating_sub(within)).ok().filter(|part| *part > 0).unwrap_or(most)
    }

    /// The requests that something becomes, in order.
    pub(crate) fn split(&self, op: BlockOp, (mut start, mut sectors): Range) -> Vec<Range> {
        let mut parts = Vec::new();
        while sectors > 0 {
            let part = self.first_part(op, (start, sectors)).max(1);
            parts.push((start, part));
            (start, sectors) = (start + part, sectors - part);
        }
        if parts.is_empty() {
            parts.push((start, 0));
        }
        parts
    }
}

/// Whether writes are durable only after a flush, and whether the driver itself can make one durable.
pub(crate) fn cache(params: &Params) -> (bool, bool) {
    let attrs = params.basic.unwrap_or_default().attrs;
    let cache = attrs.contains(ParamAttrs::VOLATILE_CACHE);
    (cache, cache && attrs.contains(ParamAttrs::FUA))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_split_where_blocks_end() {
        let limits =
            Limits { sectors: 8, chunk: 0, physical_block: 8, discard: 16, granule: 8, zeroes: 8 };
        let parts = |op, range| limits.split(op, range);
        assert_eq!(parts(BlockOp::Read, (0, 20)), [(0, 8), (8, 8), (16, 4)]);
        assert_eq!(parts(BlockOp::Read, (4, 12)), [(4, 4), (8, 8)]);
        assert_eq!(parts(BlockOp::Read, (2, 4)), [(2, 4)]);
        assert_eq!(parts(BlockOp::Flush, (0, 0)), [(0, 0)]);
        assert_eq!(parts(BlockOp::Discard, (4, 20)), [(4, 12), (16, 8)]);
        let zeroes = BlockOp::WriteZeroes { unmap: true };
        assert_eq!(parts(zeroes, (3, 16)), [(3, 5), (8, 8), (16, 3)]);
        let chunked = Limits { chunk: 4, ..limits };
        assert_eq!(chunked.split(zeroes, (8, 8)), [(8, 4), (12, 4)]);
        assert_eq!(chunked.split(BlockOp::Read, (2, 8)), [(2, 2), (4, 4), (8, 2)]);
    }
}
