//! Why something failed: the step that was attempted, and what the system answered.

use core::fmt;

use crate::uapi::{Errno, QueueId};

/// The first cause of a failure.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cause {
    /// What was attempted.
    pub step: Step,
    /// What came of it.
    pub problem: Problem,
}

/// What was attempted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Step {
    /// Creating the supervisor's ring.
    ControlRing,
    /// GET_FEATURES.
    GetFeatures,
    /// ADD_DEV.
    AddDev,
    /// SET_PARAMS.
    SetParams,
    /// REG_BUF.
    ShareMemory,
    /// Starting the worker process.
    SpawnWorker,
    /// Creating the worker's ring.
    WorkerRing,
    /// Opening the character device.
    OpenChar,
    /// Starting the thread of a queue.
    SpawnQueue(QueueId),
    /// Creating a queue's ring.
    QueueRing(QueueId),
    /// Mapping a queue's descriptors and obtaining its buffers.
    MapQueue(QueueId),
    /// Arming a queue's tags with FETCH.
    Fetch(QueueId),
    /// Arming a queue's tags with PREP_IO_CMDS.
    Prepare(QueueId),
    /// Waiting for every queue to be primed.
    Prime,
    /// START_DEV.
    StartDev,
    /// Waiting for the queues to end.
    QueuesEnd,
    /// Serving requests on a queue.
    Serve(QueueId),
    /// Serving requests (the worker as a whole).
    Worker,
    /// GET_DEV_INFO.
    GetDevInfo,
    /// Getting hold of a running worker.
    AttachWorker,
    /// STOP_DEV.
    StopDev,
    /// Waiting for the worker to exit.
    WorkerExit,
    /// DEL_DEV.
    DelDev,
    /// Killing the worker.
    KillWorker,
    /// Waiting for the supervisor that had brought the device up to exit.
    SupervisorExit,
    /// Getting hold of the supervisor that had brought the device up.
    AttachSupervisor,
    /// Giving a device another worker.
    Recover,
    /// START_USER_RECOVERY.
    StartRecovery,
    /// END_USER_RECOVERY.
    EndRecovery,
    /// GET_PARAMS.
    GetParams,
    /// Replacing the worker of a device that is served.
    Handover,
    /// QUIESCE_DEV.
    QuiesceDev,
    /// UPDATE_SIZE, and what belongs to it.
    Resize,
    /// Making what is behind the device as large as the device is to be.
    FitStore,
    /// TRY_STOP_DEV.
    TryStopDev,
    /// Creating the launcher's ring.
    LauncherRing,
    /// Waiting for the supervisor to say whether the device is up.
    Verdict,
    /// Waiting in io_uring_enter.
    Enter,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Problem {
    /// The kernel answered with this errno.
    Errno(Errno),
    /// It did not finish within its deadline.
    Deadline,
    /// The worker exited in the middle of it.
    WorkerExited(crate::sys::WorkerExit),
    /// The other end of a link went away.
    LinkClosed,
    /// The operator asked to stop.
    Stopped,
    /// The kernel answered something the protocol does not allow in this state.
    Protocol,
    /// The kernel granted something we cannot work with.
    Unsupported,
    /// The device was added without recovery.
    NoRecovery,
    /// The device is DEAD: it has no disk whose requests a worker could serve.
    Dead,
    /// A worker serves the device.
    Served,
    /// The device is not the one that was written down: its number was granted anew.
    Foreign,
    /// The device has no worker that could be replaced, or told of a size.
    Unserved,
    /// The device was added without QUIESCE, or the kernel has none.
    NoQuiesce,
    /// The device is served in batches: QUIESCE_DEV would have its requests fail (H45).
    Batched,
    /// The driver cannot change the size of this device, or not without danger.
    NoResize,
    /// The driver has no TRY_STOP_DEV.
    NoTryStop,
    /// Somebody has the block device open.
    InUse,
    /// No device can have this size: it is 0, or no multiple of the logical block.
    BadSize,
    /// The last one of this kind was not answered.
    Busy,
}

impl Cause {
    /// A cause from an errno.
    pub const fn errno(step: Step, errno: Errno) -> Self {
        Self { step, problem: Problem::Errno(errno) }
    }

    /// A cause of another kind.
    pub const fn new(step: Step, problem: Problem) -> Self {
        Self { step, problem }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlRing => f.write_str("creating the control ring"),
            Self::GetFeatures => f.write_str("asking the driver for its features (GET_FEATURES)"),
            Self::AddDev => f.write_str("adding the device (ADD_DEV)"),
            Self::SetParams => f.write_str("setting the device's parameters (SET_PARAMS)"),
            Self::ShareMemory => f.write_str("registering the shared memory (REG_BUF)"),
            Self::SpawnWorker => f.write_str("starting the worker process"),
            Self::WorkerRing => f.write_str("creating the worker's ring"),
            Self::OpenChar => f.write_str("opening the character device"),
            Self::SpawnQueue(q) => write!(f, "starting the thread of queue {}", q.0),
            Self::QueueRing(q) => write!(f, "creating the ring of queue {}", q.0),
            Self::MapQueue(q) => {
                write!(f, "mapping the descriptors and buffers of queue {}", q.0)
            }
            Self::Fetch(q) => write!(f, "arming the tags of queue {} (FETCH_REQ)", q.0),
            Self::Prepare(q) => write!(f, "arming the tags of queue {} (PREP_IO_CMDS)", q.0),
            Self::Prime => f.write_str("waiting for every queue to be primed"),
            Self::StartDev => f.write_str("starting the device (START_DEV)"),
            Self::QueuesEnd => f.write_str("waiting for the queues to end"),
            Self::Serve(q) => write!(f, "serving requests on queue {}", q.0),
            Self::Worker => f.write_str("serving requests"),
            Self::GetDevInfo => f.write_str("asking for the device's state (GET_DEV_INFO)"),
            Self::AttachWorker => f.write_str("getting hold of the worker process"),
            Self::StopDev => f.write_str("stopping the device (STOP_DEV)"),
            Self::WorkerExit => f.write_str("waiting for the worker to exit"),
            Self::DelDev => f.write_str("deleting the device (DEL_DEV)"),
            Self::KillWorker => f.write_str("killing the worker process"),
            Self::SupervisorExit => {
                f.write_str("waiting for the device's own supervisor process to exit")
            }
            Self::AttachSupervisor => {
                f.write_str("getting hold of the device's own supervisor process")
            }
            Self::Recover => f.write_str("recovering the device"),
            Self::StartRecovery => {
                f.write_str("beginning the device's recovery (START_USER_RECOVERY)")
            }
            Self::EndRecovery => f.write_str("ending the device's recovery (END_USER_RECOVERY)"),
            Self::GetParams => f.write_str("asking for the device's parameters (GET_PARAMS)"),
            Self::Handover => f.write_str("handing the device over to another worker"),
            Self::QuiesceDev => f.write_str("quiescing the device (QUIESCE_DEV)"),
            Self::Resize => f.write_str("resizing the device (UPDATE_SIZE)"),
            Self::FitStore => f.write_str("giving what is behind the device its new size"),
            Self::TryStopDev => f.write_str("stopping the device if unused (TRY_STOP_DEV)"),
            Self::LauncherRing => f.write_str("creating the launcher's ring"),
            Self::Verdict => f.write_str("waiting for the supervisor"),
            Self::Enter => f.write_str("waiting in io_uring_enter"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "the system answered {errno}"),
            Self::Deadline => f.write_str("it did not finish within its deadline"),
            Self::WorkerExited(crate::sys::WorkerExit::Code(code)) => {
                write!(f, "the worker exited with status {code}")
            }
            Self::WorkerExited(crate::sys::WorkerExit::Signal(signal)) => {
                write!(f, "the worker was killed by signal {signal}")
            }
            Self::WorkerExited(crate::sys::WorkerExit::Unknown) => f.write_str("the worker exited"),
            Self::LinkClosed => f.write_str("the process at the other end went away"),
            Self::Stopped => f.write_str("it was asked to stop"),
            Self::Protocol => f.write_str("the kernel answered what the protocol does not allow"),
            Self::Unsupported => f.write_str("the kernel does not offer what is needed"),
            Self::NoRecovery => f.write_str("the device was added without recovery"),
            Self::Dead => {
                f.write_str("the device is DEAD: it was stopped, and has no disk any more")
            }
            Self::Served => f.write_str("the device is LIVE, and its worker runs"),
            Self::Foreign => f.write_str("another device has this number now"),
            Self::Unserved => f.write_str("the device has no worker"),
            Self::NoQuiesce => f.write_str(
                "requests cannot be held back: this needs Linux 6.18, and a device added there with --recovery",
            ),
            Self::Batched => f.write_str(
                "the device is served in batches: held back, its requests would fail",
            ),
            Self::NoResize => f.write_str("the driver cannot resize this device"),
            Self::NoTryStop => f.write_str("this kernel's driver cannot do that: it needs Linux 7.3"),
            Self::InUse => f.write_str("somebody has the block device open"),
            Self::BadSize => f.write_str("it is 0, or no multiple of the device's logical block"),
            Self::Busy => f.write_str("the worker has not answered the last one"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.problem)
    }
}

impl core::error::Error for Cause {}
