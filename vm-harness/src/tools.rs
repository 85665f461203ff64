//! Programs of the host that the harness calls, and one message about all that are missing.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::error::{Error, ErrorKind, Result};

/// A program and the packages that bring it, by package manager.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program's name.
    pub program: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
}

macro_rules! tools {
    ($($(#[$doc:meta])* $name:ident = $program:literal, $purpose:literal, $apt:literal, $dnf:literal, $pacman:literal;)*) => {
        $($(#[$doc])* pub const $name: Tool =
            Tool { program: $program, purpose: $purpose, apt: $apt, dnf: $dnf, pacman: $pacman };)*
    };
}

tools! {
    /// The emulator.
    QEMU = "qemu-system-x86_64", "boots the kernels", "qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86";
    /// The I/O generator that runs in the guest.
    FIO = "fio", "writes and verifies data in the guest", "fio", "fio", "fio";
    /// Makes file systems in the guest.
    MKFS = "mkfs.ext4", "makes file systems in the guest", "e2fsprogs", "e2fsprogs", "e2fsprogs";
    /// Checks file systems in the guest.
    FSCK = "fsck.ext4", "checks file systems in the guest", "e2fsprogs", "e2fsprogs", "e2fsprogs";
    /// Tells which libraries a program needs.
    LDD = "ldd", "finds the libraries that go into the guest", "libc-bin", "glibc-common", "glibc";
    /// Writes `modules.dep` for a kernel that was unpacked, not installed.
    DEPMOD = "depmod", "orders the kernel's modules", "kmod", "kmod", "kmod";
    /// Unpacks modules.
    XZ = "xz", "unpacks kernel modules", "xz-utils", "xz", "xz";
    /// Unpacks modules of other distributions.
    ZSTD = "zstd", "unpacks kernel modules", "zstd", "zstd", "zstd";
    /// Fetches kernel packages.
    APT_GET = "apt-get", "fetches kernels", "apt", "apt", "apt";
    /// Searches the index of kernel packages.
    APT_CACHE = "apt-cache", "finds kernels", "apt", "apt", "apt";
    /// Unpacks kernel packages.
    DPKG_DEB = "dpkg-deb", "unpacks kernels", "dpkg", "dpkg", "dpkg";
    /// Freezes a file system, to plant a hang that the kernel owes.
    FSFREEZE = "fsfreeze", "plants a fault in the self-test", "util-linux", "util-linux", "util-linux";
    /// A shell for looking round in a guest.
    BUSYBOX = "busybox", "gives --keep-console a shell", "busybox-static", "busybox", "busybox";
}

impl Tool {
    /// A command that calls the program where [`find`] found it.
    pub fn command(&self) -> Command {
        Command::new(find(self.program).unwrap_or_else(|| self.program.into()))
    }
}

/// What every run needs, wherever its kernel comes from.
pub const FOR_A_RUN: [Tool; 7] = [QEMU, FIO, MKFS, FSCK, LDD, DEPMOD, XZ];
/// What fetching a kernel needs besides.
pub const FOR_A_FETCH: [Tool; 5] = [APT_GET, APT_CACHE, DPKG_DEB, DEPMOD, XZ];

/// Finds a program in `PATH` or in the system directories that a plain user's `PATH` leaves out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// Fails with one message that names every missing program and the command that installs them all.
pub fn require(tools: &[Tool]) -> Result<()> {
    let missing: Vec<Tool> = tools.iter().copied().filter(|t| find(t.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let manager = ["apt-get", "dnf", "pacman"].into_iter().find(|m| find(m).is_some());
    Err(missing_programs(&missing, manager.unwrap_or("apt-get")))
}

fn missing_programs(missing: &[Tool], manager: &str) -> Error {
    let mut packages: Vec<&str> = missing
        .iter()
        .map(|t| match manager {
            "dnf" => t.dnf,
            "pacman" => t.pacman,
            _ => t.apt,
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    let packages = packages.join(" ");
    let command = match manager {
        "dnf" => format!("sudo dnf install -y {packages}"),
        "pacman" => format!("sudo pacman -S --needed {packages}"),
        _ => format!("sudo apt-get install -y {packages}"),
    };
    let wanted: Vec<String> =
        missing.iter().map(|t| format!("{} ({})", t.program, t.purpose)).collect();
    Error::new(ErrorKind::MissingPrograms, "go on without these programs")
        .answer(wanted.join("\n"))
        .advice(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_names_all_and_one_command_installs_all() {
        let error = missing_programs(&[QEMU, MKFS, FSCK], "apt-get");
        assert_eq!(error.kind(), ErrorKind::MissingPrograms);
        let text = error.to_string();
        assert!(text.contains("mkfs.ext4") && text.contains("fsck.ext4"), "{text}");
        assert!(text.ends_with("sudo apt-get install -y e2fsprogs qemu-system-x86"), "{text}");
    }

    #[test]
    fn other_package_managers_get_their_own_command() {
        assert!(missing_programs(&[XZ], "dnf").to_string().ends_with("sudo dnf install -y xz"));
        assert!(
            missing_programs(&[XZ], "pacman").to_string().ends_with("sudo pacman -S --needed xz")
        );
    }
}
