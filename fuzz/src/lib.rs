//! Fuzz targets over the engine, the simulator and what users type.
//!
//! Each target is a function of bytes that panics on a finding. The binaries of the same names feed them: with the
//! feature `libfuzzer` from libFuzzer, without it from the files named on the command line, so that a crash file replays on
//! a plain build. `fuzz.sh` (`just fuzz 60`) runs them all; [`mutate`] does where libFuzzer cannot be linked.

pub mod blkproof_cli;
pub mod corpus;
pub mod engine;
pub mod mutate;
pub mod texts;

use std::process::ExitCode;
use std::{env, fs};

use blkproof_engine::supervisor::Recovery;
use blkproof_engine::sys::Token;
use blkproof_engine::tag::{Sent, TagAction, TagEvent, TagState};
use blkproof_engine::uapi::{BatchIo, DevInfo, Errno, IoDesc, Params, ShmemBufReg};
use blkproof_sim::choices::{Choices, Site};
use blkproof_sim::config::Config;
use blkproof_sim::outcome::Verdict;

pub use blkproof_cli::blkproof_cli;
pub use engine::engine;
pub use texts::{cli, tape};

/// A target: a function of bytes that panics on a finding.
pub type Target = fn(&[u8]);

/// Every target, with its name.
pub const TARGETS: [(&str, Target); 7] = [
    ("uapi", uapi),
    ("tag", tag),
    ("engine", engine),
    ("simulation", simulation),
    ("tape", tape),
    ("cli", cli),
    ("blkproof-cli", blkproof_cli),
];

/// The target that must be found, or else whoever looks is blind.
pub const PLANTED: (&str, Target) = ("planted", planted);

/// Panics on inputs with `bug!` in them. One comparison leads to the next, so that coverage shows the way.
pub fn planted(data: &[u8]) {
    for window in data.windows(4) {
        if window[0] == b'b' && window[1] == b'u' && window[2] == b'g' {
            assert_ne!(window[3], b'!', "planted");
        }
    }
}

/// Decisions taken from bytes; after their end, always the first alternative.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// Decisions from these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl Choices for Bytes<'_> {
    fn choose(&mut self, _site: Site, n: u32) -> u32 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        u32::from(*first) % n
    }
}

/// A decoder: some number of bytes, and what must hold of them.
fn fixed<const N: usize>(data: &[u8], check: impl Fn(&[u8; N])) {
    if let Some(bytes) = data.first_chunk() {
        check(bytes);
    }
}

/// Whatever bytes the kernel hands over, decoding them does not panic, and what was decoded encodes to the same.
pub fn uapi(data: &[u8]) {
    fixed(data, |bytes| {
        if let Ok(info) = DevInfo::decode(bytes) {
            assert_eq!(DevInfo::decode(&info.encode()), Ok(info));
        }
    });
    fixed(data, |bytes| {
        if let Ok(params) = Params::decode(bytes) {
            assert_eq!(Params::decode(&params.encode()), Ok(params));
        }
    });
    fixed(data, |bytes| assert_eq!(IoDesc::decode(bytes).encode(), *bytes));
    fixed(data, |bytes| {
        if let Ok(batch) = BatchIo::decode(bytes) {
            assert_eq!(BatchIo::decode(&batch.encode()), Ok(batch));
        }
    });
    fixed(data, |bytes| {
        if let Ok(reg) = ShmemBufReg::decode(bytes) {
            assert_eq!(reg.encode(), *bytes);
        }
    });
    fixed(data, |bytes| {
        let user_data = u64::from_ne_bytes(*bytes);
        if let Some(token) = Token::decode(user_data) {
            assert_eq!(token.encode(), user_data);
        }
    });
}

/// Whatever happens to a tag: a violation changes nothing, a dead tag stays dead, and only an owned tag commits anew.
pub fn tag(data: &[u8]) {
    let mut state = TagState::Idle;
    for byte in data {
        let before = state;
        let event = match byte % 11 {
            0 => TagEvent::Prime,
            1 => TagEvent::Delivered,
            2 => TagEvent::Finished { result: i32::from(*byte) },
            3 => TagEvent::Aborted,
            4 => TagEvent::Refused(Errno::EINVAL),
            5 => TagEvent::NotRegistered,
            6 => TagEvent::SlotDone,
            7 => TagEvent::SlotRefused(Errno::ENOMEM),
            9 => TagEvent::Unconsumed,
            8 => TagEvent::Announced { sectors: u32::from(*byte) },
            _ => TagEvent::Refused(Errno::EBUSY),
        };
        let action = state.handle(event);
        match action {
            TagAction::Violation => assert_eq!(state, before, "a violation changes nothing"),
            TagAction::Fetch => {
                assert_eq!((before, state), (TagState::Idle, TagState::Armed(Sent::Fetch)));
            }
            TagAction::Serve => {
                assert!(matches!(before, TagState::Armed(_) | TagState::Announced { .. }));
                assert_eq!(state, TagState::Owned);
            }
            TagAction::GetData => {
                assert!(matches!(before, TagState::Armed(_) | TagState::Announced { .. }));
                assert!(matches!(state, TagState::Announced { .. }));
            }
            TagAction::Commit { result } => {
                let TagState::Armed(Sent::Commit { result: sent, .. }) = state else {
                    panic!("O1: a commit arms the tag: {before:?} -> {state:?}")
                };
                assert_eq!(sent, result);
                assert_ne!(before, TagState::Registered, "H11: the pages are given back first");
            }
            TagAction::Register => {
                assert_eq!((before, state), (TagState::Owned, TagState::Registering));
            }
            TagAction::Begin => {
                assert_eq!((before, state), (TagState::Registering, TagState::Registered));
            }
            TagAction::Unregister => {
                assert_eq!(before, TagState::Registered);
                assert!(matches!(state, TagState::Unregistering { .. }));
            }
            TagAction::Retire => assert_eq!(state, TagState::Dead),
            TagAction::Fail(_) => {
                assert!(matches!(
                    before,
                    TagState::Armed(_)
                        | TagState::Announced { .. }
                        | TagState::Unregistering { .. }
                ));
            }
        }
        if before == TagState::Dead {
            assert_eq!(state, TagState::Dead, "O11: a dead tag stays dead");
        }
    }
}

/// The configuration that a byte stands for.
pub fn shape(shape: u8) -> Config {
    let mut config = Config::engine();
    config.queues = 1 + u16::from(shape & 1);
    config.depth = 1 + u16::from(shape >> 1 & 1);
    config.recovery = Recovery::ALL[usize::from(shape >> 3 & 3)];
    config.restart = shape & 32 != 0 && config.recovery != Recovery::None;
    config.faults = if shape & 4 == 0 {
        blkproof_sim::config::Faults::NONE
    } else {
        blkproof_sim::config::Faults::ALL
    };
    config
}

/// The real engine in the simulated world, its decisions taken from bytes: no schedule may break it.
pub fn simulation(data: &[u8]) {
    let Some((shape, schedule)) = data.split_first() else { return };
    let config = self::shape(*shape);
    let outcome = blkproof_sim::run::run(&config, &mut Bytes::new(schedule));
    assert_eq!(outcome.verdict, Verdict::Clean, "{}: {}", outcome.oracle, outcome.finding);
}

/// The binary of a target without libFuzzer: runs it on each file named on the command line.
pub fn replay(target: fn(&[u8])) -> ExitCode {
    let files: Vec<_> = env::args_os().skip(1).collect();
    if files.is_empty() {
        eprintln!(
            "Usage: name one or more input files to replay. To fuzz, build with --features libfuzzer."
        );
        return ExitCode::from(2);
    }
    for file in files {
        match fs::read(&file) {
            Ok(data) => {
                target(&data);
                println!("{}: clean ({} bytes)", file.display(), data.len());
            }
            Err(error) => {
                eprintln!("Reading the input {} failed: {error}. Check the path.", file.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
