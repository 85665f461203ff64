//! Signals that arrive as data.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use blkproof_engine::uapi::Errno;

/// Blocks signals in the calling thread, and in the threads and processes that it starts.
///
/// # Errors
/// A number that is no signal.
pub fn block(signals: &[i32]) -> io::Result<()> {
    let set = signal_set(signals)?;
    // SAFETY: `set` is initialised; the old mask is not asked for.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// A descriptor that becomes readable when one of these (blocked) signals is pending. Non-blocking, close-on-exec.
///
/// # Errors
/// What `signalfd` answered.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals)?;
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just handed out this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal with a value to a process (`sigqueue`, by a descriptor that cannot come to mean another process).
///
/// # Errors
/// What `pidfd_send_signal` answered.
pub fn signal_with_value(process: BorrowedFd<'_>, signal: i32, value: u64) -> Result<(), Errno> {
    /// `siginfo_t` as the kernel lays it out on 64-bit machines: number and code, sender, value; 128 bytes in all.
    #[repr(C)]
    struct Info {
        signo: i32,
        errno: i32,
        code: i32,
        pad: i32,
        pid: i32,
        uid: u32,
        value: u64,
        rest: [u64; 12],
    }
    let (pid, uid) = (rustix::process::getpid(), rustix::process::getuid());
    let info = Info {
        signo: signal,
        errno: 0,
        code: libc::SI_QUEUE,
        pad: 0,
        pid: pid.as_raw_nonzero().get(),
        uid: uid.as_raw(),
        value,
        rest: [0; 12],
    };
    // SAFETY: `info` is as large as the kernel's and initialised to its last byte; the kernel only reads it.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, &raw const info, 0)
    };
    if result == 0 { Ok(()) } else { Err(super::errno(&io::Error::last_os_error())) }
}

fn signal_set(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given, and never fails on valid memory.
    let mut set: libc::sigset_t = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: the set is initialised.
        if unsafe { libc::sigaddset(&raw mut set, signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}
