//! Targets against a plain reference: an array of bytes.

use blkproof_engine::data::{Place, TagMemory};
use blkproof_engine::sys::{BackendOp, MemoryOp};
use blkproof_engine::target::{AnyTarget, File, Mem, Null, Op, Request, Step, Target};
use blkproof_engine::uapi::{Errno, Features, KernelSeries};
use proptest::prelude::*;

const SECTORS: u64 = 32;
const BYTES: usize = SECTORS as usize * 512;

/// The world of one request: a buffer and a store, and a backend that answers short, or not at once.
struct Backend {
    store: Vec<u8>,
    buffer: Vec<u8>,
    moods: Vec<u8>,
}

impl Backend {
    fn memory(&mut self, op: MemoryOp) {
        match op {
            MemoryOp::Load { offset, len } => {
                let offset = offset as usize;
                self.buffer[..len as usize]
                    .copy_from_slice(&self.store[offset..offset + len as usize]);
            }
            MemoryOp::Store { offset, len } => {
                let offset = offset as usize;
                self.store[offset..offset + len as usize]
                    .copy_from_slice(&self.buffer[..len as usize]);
            }
            MemoryOp::Zero { offset, len } => self.store[offset as usize..][..len as usize].fill(0),
            MemoryOp::Clear { len } => self.buffer[..len as usize].fill(0),
            MemoryOp::CopyIn { .. } | MemoryOp::CopyOut { .. } => {
                panic!("not a target's to ask for")
            }
        }
    }

    fn answer(&mut self, op: BackendOp) -> i32 {
        let mood = self.moods.pop().unwrap_or(0);
        match mood % 5 {
            1 => return Errno::EINTR.to_result(),
            2 => return Errno::EAGAIN.to_result(),
            _ => {}
        }
        // A short answer moves what it says and no more.
        let short = |len: u32| if mood % 5 == 3 { (len / 2).max(1) } else { len };
        match op {
            BackendOp::Read { offset, buffer, len } => {
                let len = short(len) as usize;
                let (offset, buffer) = (offset as usize, buffer as usize);
                self.buffer[buffer..buffer + len]
                    .copy_from_slice(&self.store[offset..offset + len]);
                len as i32
            }
            BackendOp::Write { offset, buffer, len, durable: _ } => {
                let len = short(len) as usize;
                let (offset, buffer) = (offset as usize, buffer as usize);
                self.store[offset..offset + len]
                    .copy_from_slice(&self.buffer[buffer..buffer + len]);
                len as i32
            }
            BackendOp::Sync => 0,
            BackendOp::PunchHole { offset, len } | BackendOp::ZeroRange { offset, len } => {
                self.store[offset as usize..][..len as usize].fill(0);
                0
            }
        }
    }

    /// Serves a request to its end.
    fn serve<T: Target>(&mut self, target: &T, request: &Request) -> Result<(), Errno> {
        self.serve_in(TagMemory::Buffer, target, request)
    }

    fn serve_in<T: Target>(
        &mut self,
        memory: TagMemory,
        target: &T,
        request: &Request,
    ) -> Result<(), Errno> {
        let (mut job, mut step) = target.begin(request, memory);
        for _ in 0..1_000 {
            let res = match step {
                Step::Done(outcome) => return outcome,
                Step::Memory(op) => {
                    self.memory(op);
                    op.bytes() as i32
                }
                Step::Backend(op) => self.answer(op),
            };
            step = target.resume(request, &mut job, res);
        }
        panic!("a request ends after a bounded number of steps");
    }
}

fn request() -> impl Strategy<Value = Request> {
    let op = prop_oneof![
        3 => Just(Op::Read),
        3 => any::<bool>().prop_map(|fua| Op::Write { fua }),
        1 => Just(Op::Flush),
        1 => Just(Op::Discard),
        1 => any::<bool>().prop_map(|unmap| Op::WriteZeroes { unmap }),
    ];
    (op, 0..SECTORS).prop_flat_map(|(op, start)| {
        (1..=SECTORS - start).prop_map(move |sectors| {
            let (offset, len) =
                if op == Op::Flush { (0, 0) } else { (start * 512, sectors as u32 * 512) };
            Request { op, offset, len, place: Place::Tag }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_return_what_was_written(
        file in any::<bool>(),
        requests in proptest::collection::vec((request(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..8)), 1..40),
    ) {
        let target = if file {
            AnyTarget::File(File { sectors: SECTORS, logical_bs_shift: 9, discard: true, write_zeroes: true })
        } else {
            AnyTarget::Mem(Mem { sectors: SECTORS })
        };
        let mut reference = vec![0u8; BYTES];
        let mut backend = Backend { store: vec![0; BYTES], buffer: vec![0; BYTES], moods: Vec::new() };
        for (request, fill, moods) in requests {
            backend.moods = moods;
            let range = request.offset as usize..request.offset as usize + request.len as usize;
            match request.op {
                Op::Read => backend.buffer.fill(!fill),
                Op::Write { .. } => {
                    for (at, byte) in backend.buffer.iter_mut().enumerate() {
                        *byte = fill.wrapping_add(at as u8);
                    }
                    reference[range.clone()].copy_from_slice(&backend.buffer[..request.len as usize]);
                }
                Op::Discard | Op::WriteZeroes { .. } => reference[range.clone()].fill(0),
                Op::Flush => {}
            }
            prop_assert_eq!(backend.serve(&target, &request), Ok(()));
            if request.op == Op::Read {
                prop_assert_eq!(&backend.buffer[..request.len as usize], &reference[range]);
            }
            prop_assert_eq!(&backend.store, &reference);
        }
    }

    #[test]
    fn null_reads_zeroes_and_keeps_nothing(request in request()) {
        let target = Null { sectors: SECTORS };
        let mut backend = Backend { store: vec![7; BYTES], buffer: vec![9; BYTES], moods: Vec::new() };
        prop_assert_eq!(backend.serve(&target, &request), Ok(()));
        prop_assert_eq!(&backend.store, &vec![7; BYTES]);
        if request.op == Op::Read {
            prop_assert!(backend.buffer[..request.len as usize].iter().all(|byte| *byte == 0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Where the request's pages are used in place, zeroes come from a backend that has nothing else, and may be short.
    #[test]
    fn null_reads_zeroes_from_its_backend(
        request in request(),
        moods in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let target = AnyTarget::Null(Null { sectors: SECTORS });
        let mut backend = Backend { store: vec![0; BYTES], buffer: vec![9; BYTES], moods };
        prop_assert_eq!(backend.serve_in(TagMemory::Slot, &target, &request), Ok(()));
        let cleared = if request.op == Op::Read { request.len as usize } else { 0 };
        prop_assert!(backend.buffer[..cleared].iter().all(|byte| *byte == 0));
        prop_assert!(backend.buffer[cleared..].iter().all(|byte| *byte == 9));
    }
}

#[test]
fn a_backend_that_never_answers_well_is_an_error() {
    let target = File { sectors: SECTORS, logical_bs_shift: 9, discard: true, write_zeroes: true };
    let request = Request { op: Op::Write { fua: true }, offset: 0, len: 4096, place: Place::Tag };
    for (res, errno) in [
        (Errno::EAGAIN.to_result(), Errno::EIO),
        (Errno::EINTR.to_result(), Errno::EIO),
        (Errno::ENOSPC.to_result(), Errno::ENOSPC),
        (1, Errno::EIO),
        (0, Errno::EIO),
        (4097, Errno::EIO),
    ] {
        let (mut job, mut step) = target.begin(&request, TagMemory::Buffer);
        let mut turns = 0;
        while let Step::Backend(op) = step {
            assert_eq!(op, BackendOp::Write { offset: 0, buffer: 0, len: 4096, durable: true });
            turns += 1;
            assert!(turns < 100);
            step = target.resume(&request, &mut job, res);
        }
        assert_eq!(step, Step::Done(Err(errno)), "{res}");
    }
}

#[test]
fn the_parameters_of_every_target_are_valid_on_every_kernel() {
    let targets = [
        AnyTarget::Null(Null { sectors: 1 << 29 }),
        AnyTarget::Mem(Mem { sectors: 8 }),
        AnyTarget::File(File {
            sectors: 2048,
            logical_bs_shift: 12,
            discard: false,
            write_zeroes: false,
        }),
        AnyTarget::File(File {
            sectors: 2048,
            logical_bs_shift: 9,
            discard: true,
            write_zeroes: true,
        }),
    ];
    for target in targets {
        for series in KernelSeries::ALL {
            let bytes = 512 * 1024;
            let params = target.geometry().params(bytes);
            assert_eq!(
                params.validate(series, Features::NONE, bytes),
                Ok(()),
                "{target:?} on {series}"
            );
        }
    }
}
