//! Memory that clients share with the server: what of it lies in a request nobody copies between kernel and server.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blkproof_engine::uapi::ShmemBufReg;

use crate::error::{Attempt, Error, Result};
use crate::os::{PAGE_BYTES, Store};
use crate::task::SharedSpec;

/// `HUGETLBFS_MAGIC`.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Looks at the file that clients share with the server.
///
/// # Errors
/// Why it cannot be that.
pub fn look(path: &Path) -> Result<SharedSpec> {
    let what = || format!("sharing {}", path.display());
    let file = fs::canonicalize(path).attempting(what).map_err(|error| {
        error.advice("name an existing file; `truncate -s 64M /dev/shm/FILE` creates one")
    })?;
    let metadata = fs::metadata(&file).attempting(what)?;
    let system = rustix::fs::statfs(&file).attempting(what)?;
    let magic = system.f_type as u64;
    let in_memory = magic == HUGETLBFS_MAGIC || magic == libc::TMPFS_MAGIC as u64;
    if !metadata.is_file() || !in_memory {
        return Err(Error::new(what(), "it is no file of a file system in memory")
            .advice("name a file on tmpfs (/dev/shm) or hugetlbfs"));
    }
    let page = if magic == HUGETLBFS_MAGIC { system.f_bsize as u64 } else { PAGE_BYTES };
    let bytes = metadata.len();
    if bytes == 0 || bytes > ShmemBufReg::LEN_MAX || !bytes.is_multiple_of(page) {
        let max = ShmemBufReg::LEN_MAX;
        return Err(Error::new(what(), format!("it holds {bytes} bytes")).advice(format!(
            "give it a multiple of {page} bytes, at most {max}: truncate -s 64M FILE"
        )));
    }
    Ok(SharedSpec { file, bytes, device: metadata.dev(), inode: metadata.ino() })
}

/// Maps it, if it still is the file that was looked at.
///
/// # Errors
/// What the system answered, or what has changed.
pub fn map(spec: &SharedSpec) -> io::Result<Store> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("sharing {}: {error}", spec.file.display()))
    };
    let file = File::options().read(true).write(true).open(&spec.file).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if (metadata.dev(), metadata.ino()) != (spec.device, spec.inode) {
        let other = "another file has that name now, and the device knows the pages of the old one";
        return Err(failed(io::Error::other(other)));
    }
    // What is not there any more would be touched all the same, which ends a process.
    if metadata.len() < spec.bytes {
        let smaller = format!("it is smaller than the {} bytes it had", spec.bytes);
        return Err(failed(io::Error::other(smaller)));
    }
    Store::map(file.into(), spec.bytes)
        .map_err(|errno| failed(io::Error::from_raw_os_error(i32::from(errno.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_memory_and_in_pages_is_shared() {
        let tmpfs = Path::new("/dev/shm");
        if !rustix::fs::statfs(tmpfs).is_ok_and(|fs| fs.f_type == libc::TMPFS_MAGIC) {
            println!("skipped: no tmpfs at {}", tmpfs.display());
            return;
        }
        let directory = tempfile::tempdir_in(tmpfs).expect("a directory");
        let path = directory.path().join("shared");
        assert!(look(&path).is_err(), "it is not there");
        let file = File::create(&path).expect("created");
        for (bytes, fits) in [(0, false), (4095, false), (8192, true), ((1 << 32) + 4096, false)] {
            file.set_len(bytes).expect("resized");
            assert_eq!(look(&path).is_ok(), fits, "{bytes}");
        }
        assert!(look(directory.path()).is_err(), "it is a directory");
        file.set_len(8192).expect("resized");
        let spec = look(&path).expect("it fits");
        assert!(map(&spec).is_ok());
        file.set_len(4096).expect("resized");
        assert!(map(&spec).is_err(), "it is smaller");
        fs::remove_file(&path).expect("removed");
        File::create(&path).and_then(|file| file.set_len(8192)).expect("created");
        assert!(map(&spec).is_err(), "it is another file");
    }
}
