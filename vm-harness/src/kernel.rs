//! A kernel that can be booted: an image, its modules, and where they came from.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::fetch;

/// A kernel series: major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl FromStr for Series {
    type Err = ();
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self { major: major.parse().map_err(|_| ())?, minor: minor.parse().map_err(|_| ())? })
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the user asked to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChoice {
    /// The newest point release of a series, from the archive or the cache.
    Series(Series),
    /// The kernel this host runs.
    Host,
    /// A kernel image, or a directory unpacked from a kernel package.
    Path(PathBuf),
}

impl FromStr for KernelChoice {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "host" {
            return Ok(Self::Host);
        }
        if let Ok(series) = text.parse() {
            return Ok(Self::Series(series));
        }
        let path = PathBuf::from(text);
        if path.exists() {
            return Ok(Self::Path(path));
        }
        Err(format!(
            "`{text}` is neither a series such as 7.3, nor `host`, nor an existing file or directory"
        ))
    }
}

impl std::fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Series(series) => series.fmt(f),
            Self::Host => f.write_str("host"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// A kernel on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// What `uname -r` will print.
    pub release: String,
    /// The package version, or where else it came from.
    pub origin: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The directory that holds `modules.dep`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The running host's kernel.
    pub fn host() -> Result<Self> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let modules = PathBuf::from("/lib/modules").join(&release);
        let image = [PathBuf::from(format!("/boot/vmlinuz-{release}")), modules.join("vmlinuz")]
            .into_iter()
            .find(|p| fs::File::open(p).is_ok());
        match image {
            Some(image) if modules.join("modules.dep").is_file() => Ok(Self {
                release,
                origin: "this host".into(),
                image,
                modules,
            }),
            _ => Err(unavailable(format!("boot this host's kernel {release}"))
                .answer(format!(
                    "no readable image in /boot, or no {}",
                    modules.join("modules.dep").display()
                ))
                .advice("make /boot/vmlinuz-* readable, or name another kernel: --kernel 7.3, or --kernel PATH")),
        }
    }

    /// A kernel from a directory with a package's contents, or from an image file with `--modules`.
    pub fn from_path(path: &Path, modules: Option<&Path>) -> Result<Self> {
        let (image, modules) = if path.is_dir() {
            let found = search(path)?;
            (found.image, modules.map_or(found.modules, Path::to_path_buf))
        } else {
            let Some(modules) = modules else {
                return Err(Error::usage(format!("boot {}", path.display()))
                    .answer("an image alone has no ublk_drv")
                    .advice("add --modules DIR, the directory that holds the kernel's modules.dep (normally /lib/modules/RELEASE)"));
            };
            (path.to_path_buf(), modules.to_path_buf())
        };
        let absolute = |p: PathBuf| fs::canonicalize(&p).unwrap_or(p);
        let (image, modules) = (absolute(image), absolute(modules));
        let release =
            modules.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        fetch::index_modules(&modules, &release)?;
        Ok(Self { release, origin: path.display().to_string(), image, modules })
    }
}

fn unavailable(attempted: String) -> Error {
    Error::new(ErrorKind::KernelUnavailable, attempted)
}

/// The image and the modules inside an unpacked package.
#[derive(Debug)]
pub struct Unpacked {
    /// The bootable image.
    pub image: PathBuf,
    /// `…/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// Looks for the image and the modules below `root`, in the places that kernel packages use.
pub fn search(root: &Path) -> Result<Unpacked> {
    let list = |dir: PathBuf| -> Vec<PathBuf> {
        let mut entries: Vec<_> = fs::read_dir(dir)
            .map(|entries| entries.flatten().map(|e| e.path()).collect())
            .unwrap_or_default();
        entries.sort();
        entries
    };
    let modules = ["usr/lib/modules", "lib/modules", "."]
        .into_iter()
        .flat_map(|dir| list(root.join(dir)))
        .find(|dir| dir.join("kernel").is_dir());
    let Some(modules) = modules else {
        return Err(unavailable(format!("find kernel modules below {}", root.display()))
            .answer("no usr/lib/modules/RELEASE/kernel there")
            .advice("name the directory into which the kernel's packages were unpacked"));
    };
    let image = list(root.join("boot"))
        .into_iter()
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")))
        .or_else(|| Some(modules.join("vmlinuz")).filter(|p| p.is_file()));
    match image {
        Some(image) => Ok(Unpacked { image, modules }),
        None => Err(unavailable(format!("find a kernel image below {}", root.display()))
            .answer("neither boot/vmlinuz-* nor lib/modules/RELEASE/vmlinuz")
            .advice(
                "unpack the package that holds the image too, or name the image and --modules DIR",
            )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_series_the_host_or_something_that_exists() {
        assert_eq!("7.3".parse(), Ok(KernelChoice::Series(Series { major: 7, minor: 3 })));
        assert_eq!("host".parse(), Ok(KernelChoice::Host));
        assert_eq!("/".parse(), Ok(KernelChoice::Path("/".into())));
        assert!("7.x".parse::<KernelChoice>().is_err());
        assert!("no/such/thing".parse::<KernelChoice>().is_err());
    }

    #[test]
    fn packages_are_searched_in_both_layouts() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let modules = dir.path().join("usr/lib/modules/7.3.4");
        fs::create_dir_all(modules.join("kernel")).expect("mkdir");
        assert!(search(dir.path()).is_err(), "no image yet");
        fs::write(modules.join("vmlinuz"), "").expect("write");
        assert_eq!(search(dir.path()).expect("found").image, modules.join("vmlinuz"));
        fs::create_dir(dir.path().join("boot")).expect("mkdir");
        fs::write(dir.path().join("boot/vmlinuz-7.3.4"), "").expect("write");
        assert!(search(dir.path()).expect("found").image.ends_with("boot/vmlinuz-7.3.4"));
    }
}
