//! Opening what a target keeps its bytes in.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags, Mode, OFlags};

use crate::error::{Attempt, Error, Result};
use crate::task::TargetSpec;

/// log2 of the smallest and the largest logical block.
const BLOCK_SHIFT_MIN: u8 = 9;
const BLOCK_SHIFT_MAX: u8 = 12;

/// Creates the memory of a mem target.
///
/// # Errors
/// What the system answered.
pub fn memory(bytes: u64) -> Result<OwnedFd> {
    let what = || format!("setting aside {bytes} bytes of memory");
    let file = rustix::fs::memfd_create("blkproof-mem", MemfdFlags::CLOEXEC).attempting(what)?;
    rustix::fs::ftruncate(&file, bytes).attempting(what)?;
    Ok(file)
}

/// Opens the file or block device of a loop target, past the page cache where it allows that, and locks it against a second device.
///
/// # Errors
/// What the system answered.
pub fn backing_file(path: &Path) -> Result<(TargetSpec, OwnedFd)> {
    let what = || format!("opening {}", path.display());
    let absolute = fs::canonicalize(path)
        .attempting(what)
        .map_err(|error| error.advice("name an existing file or block device; `truncate -s 1G FILE` creates one"))?;
    let metadata = fs::metadata(&absolute).attempting(what)?;
    let is_block_device = metadata.file_type().is_block_device();
    if !is_block_device && !metadata.is_file() {
        return Err(Error::new(what(), "it is neither a regular file nor a block device"));
    }
    let direct = open(&absolute, OFlags::DIRECT);
    let (mut file, logical_bs_shift) = match direct {
        Ok(file) => {
            let shift = direct_block_shift(&file, is_block_device);
            match shift {
                Some(shift) => (file, shift),
                // It says that direct I/O is not for it, or needs more than a page.
                None => (open(&absolute, OFlags::empty()).attempting(what)?, BLOCK_SHIFT_MIN),
            }
        }
        Err(rustix::io::Errno::INVAL) => {
            (open(&absolute, OFlags::empty()).attempting(what)?, BLOCK_SHIFT_MIN)
        }
        Err(errno) => return Err(errno).attempting(what),
    };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::new(what(), "another process holds a lock on it")
            .advice("`blkproof list` shows whether it serves another device already")
    })?;
    let size = file.seek(SeekFrom::End(0)).attempting(|| format!("measuring {}", path.display()))?;
    let bytes = size >> logical_bs_shift << logical_bs_shift;
    if bytes == 0 {
        return Err(Error::new(what(), format!("it holds {size} bytes, less than one block"))
            .advice("give it a size: truncate -s 1G FILE"));
    }
    let can = |mode| !is_block_device && allocates(&file, size, mode);
    let spec = TargetSpec::Loop {
        file: absolute,
        bytes,
        logical_bs_shift,
        discard: can(FallocateFlags::PUNCH_HOLE),
        // tmpfs, for one, can punch holes and cannot do this.
        zeroes: can(FallocateFlags::ZERO_RANGE),
    };
    Ok((spec, file.into()))
}

fn open(path: &PathBuf, extra: OFlags) -> std::result::Result<File, rustix::io::Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | extra;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// log2 of the block that direct I/O needs; `None` when it should not be used.
fn direct_block_shift(file: impl AsFd, is_block_device: bool) -> Option<u8> {
    let bytes = if is_block_device {
        rustix::fs::ioctl_blksszget(&file).ok()?
    } else {
        let wanted = rustix::fs::StatxFlags::DIOALIGN;
        let stat =
            rustix::fs::statx(&file, c"", rustix::fs::AtFlags::EMPTY_PATH, wanted).ok()?;
        if stat.stx_mask & wanted.bits() == 0 {
            // Not told (tmpfs, overlayfs, older kernels): a page suits every file system that accepts O_DIRECT at all.
            1 << BLOCK_SHIFT_MAX
        } else {
            stat.stx_dio_offset_align.max(stat.stx_dio_mem_align)
        }
    };
    let shift = u8::try_from(bytes.checked_ilog2()?).ok()?.max(BLOCK_SHIFT_MIN);
    (bytes.is_power_of_two() && shift <= BLOCK_SHIFT_MAX).then_some(shift)
}

/// Whether the file system knows this kind of `fallocate`: tried beyond the end, where there is nothing to lose.
fn allocates(file: impl AsFd, size: u64, mode: FallocateFlags) -> bool {
    let (beyond, block) = (size.next_multiple_of(1 << BLOCK_SHIFT_MAX), 1 << BLOCK_SHIFT_MAX);
    rustix::fs::fallocate(file, mode | FallocateFlags::KEEP_SIZE, beyond, block).is_ok()
}

/// Another descriptor for the same open file.
///
/// # Errors
/// What the system answered.
pub fn share(store: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    store.map(OwnedFd::try_clone).transpose()
}
