//! Kernel modules for a guest: which ones, in which order, unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Attempt, Error, Result};
use crate::tools;

/// Modules every guest needs. A kernel that has them built in is fine too.
const REQUIRED: [&str; 2] = ["ublk_drv", "virtio_blk"];
/// Modules that are used when the kernel has them. The scheduler waits until a script wants it.
const OPTIONAL: [&str; 8] = [
    "virtio_pci",
    "virtio_console",
    "virtio_rng",
    "crc32c_generic",
    "crc32c_cryptoapi",
    "ext4",
    "null_blk",
    "mq_deadline",
];

/// One module, ready to be handed to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The uncompressed object.
    pub image: Vec<u8>,
}

/// The guest's modules in loading order: dependencies before their users.
pub fn for_guest(modules_dir: &Path) -> Result<Vec<Module>> {
    let index = fs::read_to_string(modules_dir.join("modules.dep")).map_err(|e| {
        Error::environment(format!("read {}", modules_dir.join("modules.dep").display()))
            .answer(e)
            .advice("--modules must name the directory that depmod has indexed")
    })?;
    let builtin = fs::read_to_string(modules_dir.join("modules.builtin")).unwrap_or_default();
    let dependencies = Dependencies::parse(&index);
    let mut order: Vec<PathBuf> = Vec::new();
    for name in REQUIRED.iter().chain(&OPTIONAL) {
        if dependencies.closure(name, &mut order) || is_builtin(&builtin, name) {
            continue;
        }
        if REQUIRED.contains(name) {
            return Err(Error::environment(format!(
                "find the module {name} in {}",
                modules_dir.display()
            ))
            .answer("the kernel was built without it")
            .advice("boot another kernel: one with CONFIG_BLK_DEV_UBLK and CONFIG_VIRTIO_BLK"));
        }
    }
    order
        .into_iter()
        .map(|path| {
            Ok(Module { name: module_name(&path), image: unpack(&modules_dir.join(path))? })
        })
        .collect()
}

fn is_builtin(list: &str, name: &str) -> bool {
    list.lines().any(|line| module_name(Path::new(line.trim())) == name)
}

/// `kernel/drivers/block/null_blk/null_blk.ko.xz` → `null_blk`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// The contents of `modules.dep`.
#[derive(Debug)]
struct Dependencies {
    by_name: BTreeMap<String, (PathBuf, Vec<PathBuf>)>,
}

impl Dependencies {
    fn parse(text: &str) -> Self {
        let by_name = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                let needs = needs.split_whitespace().map(PathBuf::from).collect();
                (module_name(Path::new(path)), (PathBuf::from(path), needs))
            })
            .collect();
        Self { by_name }
    }

    /// Appends `name` and what it needs to `order`. False if there is no such module.
    fn closure(&self, name: &str, order: &mut Vec<PathBuf>) -> bool {
        let Some((path, needs)) = self.by_name.get(name) else {
            return false;
        };
        // modules.dep lists the whole closure, the deepest dependency last.
        for path in needs.iter().rev().chain([path]) {
            if !order.contains(path) {
                order.push(path.clone());
            }
        }
        true
    }
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => tools::XZ,
        Some("zst") => tools::ZSTD,
        _ => return fs::read(path).attempting(|| format!("read {}", path.display())),
    };
    tools::require(&[program])?;
    let output = program
        .command()
        .args(["-d", "-c", "-q"])
        .arg(path)
        .output()
        .attempting(|| format!("run {}", program.program))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Error::environment(format!("unpack {}", path.display()))
            .answer(String::from_utf8_lossy(&output.stderr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "kernel/fs/configfs/configfs.ko.xz:\n\
        kernel/drivers/block/null_blk/null_blk.ko.xz: kernel/fs/configfs/configfs.ko.xz\n\
        kernel/a/top-most.ko: kernel/a/middle.ko kernel/a/bottom.ko\nkernel/a/middle.ko: kernel/a/bottom.ko\nkernel/a/bottom.ko:\n";

    #[test]
    fn dependencies_come_before_their_users_and_only_once() {
        let dependencies = Dependencies::parse(INDEX);
        let mut order = Vec::new();
        assert!(dependencies.closure("top_most", &mut order));
        assert!(dependencies.closure("null_blk", &mut order));
        assert!(dependencies.closure("middle", &mut order));
        assert!(!dependencies.closure("absent", &mut order));
        let names: Vec<String> = order.iter().map(|p| module_name(p)).collect();
        assert_eq!(names, ["bottom", "middle", "top_most", "configfs", "null_blk"]);
    }

    #[test]
    fn builtin_modules_are_recognised() {
        let list = "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/virtio_console.ko\n";
        assert!(is_builtin(list, "ext4"));
        assert!(!is_builtin(list, "ext"));
    }
}
