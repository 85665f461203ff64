//! Errnos, as positive numbers.

use core::fmt;

/// An errno. The number is positive; the kernel returns it negated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Errno(pub u16);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// Its name, if it is one this crate knows.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What it says.
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($number => $text,)*
                    _ => "unknown error",
                }
            }

            /// All errnos this crate knows.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    ESRCH = 3, "no such process";
    EINTR = 4, "interrupted system call";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "argument list too long";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "resource temporarily unavailable";
    ENOMEM = 12, "cannot allocate memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "device or resource busy";
    EEXIST = 17, "already exists";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in system";
    EMFILE = 24, "too many open files";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left on device";
    EROFS = 30, "read-only file system";
    ENOSYS = 38, "function not implemented";
    ENODATA = 61, "no data available";
    ETIME = 62, "timer expired";
    ENOLINK = 67, "link has been severed";
    EOVERFLOW = 75, "value too large for defined data type";
    EBADE = 52, "invalid exchange";
    EILSEQ = 84, "invalid or incomplete multibyte or wide character";
    EOPNOTSUPP = 95, "operation not supported";
    ENOBUFS = 105, "no buffer space available";
    ETOOMANYREFS = 109, "too many references";
    ETIMEDOUT = 110, "connection timed out";
    EALREADY = 114, "operation already in progress";
    EREMOTEIO = 121, "remote I/O error";
    ECANCELED = 125, "operation canceled";
}

impl Errno {
    /// From a negative result. A result outside -4095..0 (never an errno of the kernel) becomes EIO.
    pub const fn from_result(res: i32) -> Self {
        match res {
            -4095..=-1 => Self(res.unsigned_abs() as u16),
            _ => Self::EIO,
        }
    }

    /// As the kernel returns it: negative.
    pub const fn to_result(self) -> i32 {
        -(self.0 as i32)
    }

    /// What a client sees when the server commits this errno (`blk_status_to_errno` after `errno_to_blk_status`).
    #[must_use]
    pub const fn seen_by_client(self) -> Self {
        match self {
            Self::EOPNOTSUPP
            | Self::ETIMEDOUT
            | Self::ENOSPC
            | Self::ENOLINK
            | Self::EREMOTEIO
            | Self::EBADE
            | Self::ENODATA
            | Self::EILSEQ
            | Self::ENOMEM
            | Self::EBUSY
            | Self::EAGAIN
            | Self::ENODEV
            | Self::ETOOMANYREFS
            | Self::EOVERFLOW
            | Self::ETIME
            | Self::EINVAL => self,
            _ => Self::EIO,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({}): {}", self.0, self.text()),
            None => write!(f, "errno {}", self.0),
        }
    }
}
