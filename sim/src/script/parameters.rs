//! What `params` says: the parameters of SET_PARAMS.

use std::fmt;

use blkproof_engine::uapi::{BasicParams, DiscardParams, ParamAttrs, Params};

use super::parse::{known, number, value, yes};
use crate::world::BUFFER_SECTORS;

/// Granule of discards, in bytes.
const GRANULE: u32 = 4096;

/// `params sectors=N [cache=yes] [fua=yes] [chunk=N] [discard=N] [zeroes=N]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Parameters {
    /// Size of the device.
    pub sectors: u64,
    /// Writes are durable only after a flush: VOLATILE_CACHE.
    pub cache: bool,
    /// A write can be asked to be durable at its completion: FUA.
    pub fua: bool,
    /// Requests do not cross multiples of this many sectors. 0: they may.
    pub chunk: u32,
    /// Largest discard in sectors. 0: none.
    pub discard: u32,
    /// Largest write-zeroes in sectors. 0: none.
    pub zeroes: u32,
}

impl Parameters {
    /// Of a device with nothing but a size.
    pub fn of_size(sectors: u64) -> Self {
        Self { sectors, ..Self::default() }
    }

    /// From the words after `params`.
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        known(words, &["sectors", "cache", "fua", "chunk", "discard", "zeroes"])?;
        let sectors = value(words, "sectors").ok_or("params needs sectors=N")?;
        let count = |key| value(words, key).map_or(Ok(0), |word| number(word, "number of sectors"));
        Ok(Self {
            sectors: number(sectors, "number of sectors")?,
            cache: yes(words, "cache")?,
            fua: yes(words, "fua")?,
            chunk: count("chunk")?,
            discard: count("discard")?,
            zeroes: count("zeroes")?,
        })
    }

    /// As SET_PARAMS takes them.
    pub fn encode(&self) -> Params {
        let mut attrs = ParamAttrs::default();
        for (wanted, attr) in
            [(self.cache, ParamAttrs::VOLATILE_CACHE), (self.fua, ParamAttrs::FUA)]
        {
            attrs = if wanted { attrs.union(attr) } else { attrs };
        }
        Params {
            basic: Some(BasicParams {
                attrs,
                logical_bs_shift: 9,
                physical_bs_shift: 12,
                io_opt_shift: 12,
                io_min_shift: 9,
                // The least that the driver accepts: what is larger is split.
                max_sectors: BUFFER_SECTORS as u32,
                chunk_sectors: self.chunk,
                dev_sectors: self.sectors,
                ..BasicParams::default()
            }),
            discard: (self.discard > 0 || self.zeroes > 0).then_some(DiscardParams {
                discard_alignment: 0,
                discard_granularity: GRANULE,
                max_discard_sectors: self.discard,
                max_write_zeroes_sectors: self.zeroes,
                max_discard_segments: u16::from(self.discard > 0),
            }),
            ..Params::default()
        }
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors={}", self.sectors)?;
        for (is, key) in [(self.cache, "cache"), (self.fua, "fua")] {
            if is {
                write!(f, " {key}=yes")?;
            }
        }
        let counts = [(self.chunk, "chunk"), (self.discard, "discard"), (self.zeroes, "zeroes")];
        for (count, key) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, " {key}={count}")?;
        }
        Ok(())
    }
}
