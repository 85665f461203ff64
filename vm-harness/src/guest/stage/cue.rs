//! What the conductor and the processes of the actors say to each other: lines of JSON on a socket, one for each process.

use blkproof_engine::uapi::{RequestFlags, ShmemAddr};
use blkproof_sim::script::{Delivered, InPlace};
use serde::{Deserialize, Serialize};

/// From the conductor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cue {
    /// A thread enters.
    Enter {
        /// Its number in the process; the first is 0.
        thread: u16,
    },
    /// A thread does something.
    Act {
        /// Who.
        thread: u16,
        /// The step's number.
        step: u16,
        /// What, as a script says it.
        op: String,
        /// The device as it was before.
        device: Device,
        /// The process that serves, for START_DEV.
        server: u32,
    },
    /// The process has a child that does nothing, but for mapping a queue's descriptors.
    Fork {
        /// Which it maps.
        map: Option<u16>,
        /// The device.
        device: Device,
    },
    /// A thread executes a program that does nothing.
    Exec {
        /// Who.
        thread: u16,
    },
    /// Which completions are there?
    Peek,
}

/// The device that a step is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    pub(super) id: u32,
    pub(super) queues: u16,
    pub(super) depth: u16,
}

/// From a process of actors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// A thread is there.
    Entered { thread: u16, tid: i32 },
    /// A thread is done with a step.
    Returned {
        thread: u16,
        step: u16,
        /// None: the step completes later, or has no result.
        result: Option<i32>,
        /// The byte that all data read is.
        data: Option<u8>,
        /// What it told.
        told: String,
    },
    /// The process has a child; what mapping came to in it.
    Forked { pid: i32, result: i32 },
    /// The answer to [`Cue::Peek`].
    Completions(Vec<Completion>),
}

/// A completion.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Completion {
    pub(super) step: u16,
    pub(super) result: i32,
    /// The request that it brought.
    pub(super) request: Option<Brought>,
    pub(super) data: Option<u8>,
    /// The number of the device that was added.
    pub(super) added: Option<u32>,
    /// What a control command told.
    pub(super) told: String,
}

/// A request, as its descriptor says it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Brought {
    pub(super) op: u8,
    pub(super) first: u64,
    pub(super) count: u32,
    /// Where the command did not name it.
    pub(super) tag: Option<u16>,
    /// `UBLK_IO_F_*`.
    pub(super) flags: u32,
    /// What the descriptor says of where its data is.
    pub(super) addr: u64,
    /// Where the tag's buffer is.
    pub(super) buffer: u64,
}

impl Completion {
    pub(super) fn delivered(&self) -> Option<Delivered> {
        let Brought { op, first, count, tag, flags, addr, buffer } = *self.request.as_ref()?;
        let has = |flag| RequestFlags(flags).contains(flag);
        let place = if addr == buffer {
            InPlace::Buffer
        } else {
            ShmemAddr::decode(addr).map_or(InPlace::Elsewhere, InPlace::At)
        };
        Some(Delivered {
            op,
            first,
            count,
            tag,
            unregistered: has(RequestFlags::NEED_REG_BUF),
            fua: has(RequestFlags::FUA),
            nounmap: has(RequestFlags::NOUNMAP),
            integrity: has(RequestFlags::INTEGRITY),
            in_place: has(RequestFlags::SHMEM_ZC).then_some(place),
        })
    }
}
