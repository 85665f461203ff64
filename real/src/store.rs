//! Opening what a target keeps its bytes in.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags, Mode, OFlags};

use crate::error::{Attempt, Error, Result};
use crate::os::PAGE_BYTES;
use crate::task::TargetSpec;

/// log2 of the smallest and the largest logical block.
const BLOCK_SHIFT_MIN: u8 = 9;
const BLOCK_SHIFT_MAX: u8 = 12;
/// How long a worker that is gone may keep the lock of its file: until its last operation is done.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(50);

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
/// Somebody else may keep it locked for as long as `patience`.
///
/// # Errors
/// What the system answered.
pub fn backing_file(path: &Path, patience: Duration) -> Result<(TargetSpec, OwnedFd)> {
    let what = || format!("opening {}", path.display());
    let absolute = fs::canonicalize(path).attempting(what).map_err(|error| {
        error.advice("name an existing file or block device; `truncate -s 1G FILE` creates one")
    })?;
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
    let deadline = Instant::now() + patience;
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            return Err(Error::new(what(), "another process holds a lock on it")
                .advice("`blkproof list` shows whether it serves another device already"));
        }
        thread::sleep(LOCK_POLL_INTERVAL);
    }
    let size =
        file.seek(SeekFrom::End(0)).attempting(|| format!("measuring {}", path.display()))?;
    let bytes = size >> logical_bs_shift << logical_bs_shift;
    if bytes == 0 {
        return Err(Error::new(what(), format!("it holds {size} bytes, less than one block"))
            .advice("give it a size: truncate -s 1G FILE"));
    }
    let spec = TargetSpec::Loop {
        discard: !is_block_device && punches_holes(&file, size),
        zeroes: !is_block_device && zeroes_ranges(&absolute, &metadata),
        file: absolute,
        bytes,
        logical_bs_shift,
    };
    Ok((spec, file.into()))
}

/// Opens the file of a loop target again, for a device that is there and counts on what it was told of that file.
///
/// # Errors
/// What the system answered, or what has changed.
pub fn reopen(target: &TargetSpec) -> Result<Option<OwnedFd>> {
    let TargetSpec::Loop { file, bytes, logical_bs_shift, .. } = target else { return Ok(None) };
    let (found, store) = backing_file(file, LOCK_PATIENCE)?;
    let TargetSpec::Loop { bytes: now, logical_bs_shift: shift, .. } = found else {
        unreachable!("a backing file makes a loop target")
    };
    if now < *bytes || shift > *logical_bs_shift {
        return Err(Error::new(
            format!("opening {}", file.display()),
            format!(
                "it holds {now} bytes in blocks of {}, and the device has {bytes} in blocks of {}",
                1 << shift,
                1 << *logical_bs_shift
            ),
        )
        .advice("bring back the file that the device was added with"));
    }
    Ok(Some(store))
}

/// Gives what a device is kept in a size: memory is made so large, a file must be at least.
///
/// # Errors
/// What the system answered; `EINVAL` for a file that is smaller.
pub fn fit(target: &TargetSpec, store: Option<&OwnedFd>, bytes: u64) -> io::Result<()> {
    match (target, store) {
        (TargetSpec::Mem { .. }, Some(store)) => Ok(rustix::fs::ftruncate(store, bytes)?),
        (TargetSpec::Loop { .. }, Some(store)) => {
            if measure(store)? < bytes {
                return Err(rustix::io::Errno::INVAL.into());
            }
            Ok(())
        }
        (TargetSpec::Null { .. } | TargetSpec::Mem { .. } | TargetSpec::Loop { .. }, _) => Ok(()),
    }
}

/// The size of a file or block device. Nobody uses its position.
fn measure(file: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?)
}

/// How large the file of a loop target is now, in whole blocks of the device.
///
/// # Errors
/// What the system answered.
pub fn file_bytes(path: &Path, logical_bs_shift: u8) -> Result<u64> {
    let what = || format!("measuring {}", path.display());
    let size = File::open(path).and_then(measure).attempting(what)?;
    Ok(size >> logical_bs_shift << logical_bs_shift)
}

fn open(path: &Path, extra: OFlags) -> std::result::Result<File, rustix::io::Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | extra;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// log2 of the block that direct I/O needs; `None` when it should not be used.
fn direct_block_shift(file: impl AsFd, is_block_device: bool) -> Option<u8> {
    let bytes = if is_block_device {
        rustix::fs::ioctl_blksszget(&file).ok()?
    } else {
        let wanted = rustix::fs::StatxFlags::DIOALIGN;
        let stat = rustix::fs::statx(&file, c"", rustix::fs::AtFlags::EMPTY_PATH, wanted).ok()?;
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

/// Whether holes can be punched: tried beyond the end, where there is nothing to lose.
fn punches_holes(file: impl AsFd, size: u64) -> bool {
    allocates(file, FallocateFlags::PUNCH_HOLE, size.next_multiple_of(PAGE_BYTES))
}

/// Whether ranges can be zeroed in place (tmpfs, for one, cannot). Trying it leaves space allocated, also beyond the end, and the kernel
/// answers to an empty range before it asks the file system. So another file of the same file system is tried, one without a name.
fn zeroes_ranges(path: &Path, metadata: &Metadata) -> bool {
    let scratch = path.parent().and_then(|directory| open(directory, OFlags::TMPFILE).ok());
    scratch.is_some_and(|scratch| {
        // A file can be mounted by itself.
        scratch.metadata().is_ok_and(|its| its.dev() == metadata.dev())
            && allocates(scratch, FallocateFlags::ZERO_RANGE, 0)
    })
}

fn allocates(file: impl AsFd, mode: FallocateFlags, offset: u64) -> bool {
    rustix::fs::fallocate(file, mode | FallocateFlags::KEEP_SIZE, offset, PAGE_BYTES).is_ok()
}

/// Another descriptor for the same open file.
///
/// # Errors
/// What the system answered.
pub fn share(store: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    store.map(OwnedFd::try_clone).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the probes find out is true, and the file is as it was.
    fn probes_in(directory: &Path) -> (bool, bool) {
        let directory = tempfile::tempdir_in(directory).expect("a directory");
        let path = directory.path().join("disk.img");
        fs::write(&path, [7; 3 * 4096]).expect("written");
        File::open(&path).and_then(|file| file.sync_all()).expect("on its disk");
        let before = fs::metadata(&path).expect("it exists");

        let (spec, file) = backing_file(&path, Duration::ZERO).expect("it can be served");
        let after = fs::metadata(&path).expect("it exists");
        assert_eq!((after.len(), after.blocks()), (before.len(), before.blocks()));
        assert_eq!(fs::read(&path).expect("read"), [7; 3 * 4096]);
        assert_eq!(fs::read_dir(directory.path()).expect("it exists").count(), 1);

        let TargetSpec::Loop { discard, zeroes, .. } = spec else { panic!("{spec:?}") };
        for (claimed, mode) in
            [(discard, FallocateFlags::PUNCH_HOLE), (zeroes, FallocateFlags::ZERO_RANGE)]
        {
            let done = rustix::fs::fallocate(&file, mode | FallocateFlags::KEEP_SIZE, 0, 4096);
            assert_eq!(claimed, done.is_ok(), "{mode:?}");
        }
        (discard, zeroes)
    }

    #[test]
    fn what_a_file_system_can_do_is_found_out_without_a_trace() {
        let found = probes_in(&std::env::temp_dir());
        println!("temporary files: discard, zeroes: {found:?}");
        let tmpfs = Path::new("/dev/shm");
        let is_tmpfs = rustix::fs::statfs(tmpfs).is_ok_and(|fs| fs.f_type == libc::TMPFS_MAGIC);
        if is_tmpfs {
            assert_eq!(probes_in(tmpfs), (true, false));
        } else {
            println!("skipped: no tmpfs at {}", tmpfs.display());
        }
    }
}
