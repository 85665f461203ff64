//! The guest's only disk image: an initramfs with the runner, the programs it calls and their libraries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::error::{Attempt, Error, Result};
use crate::modules::Module;
use crate::protocol::Job;
use crate::tools;

/// Where an interactive guest finds its job.
pub const JOB: &str = "/job.json";
/// Where the guest finds the programs that were copied from the host.
pub const PROGRAMS: &str = "/programs";
/// Where the guest finds the scheduler that scripts load.
pub const SCHEDULER: &str = "/modules.later/mq_deadline.ko";
/// Where the guest finds its modules, numbered in loading order.
pub const MODULES: &str = "/modules";

/// What goes into an image.
#[derive(Debug)]
pub struct Contents<'a> {
    /// This program: the guest's init and runner.
    pub runner: &'a Path,
    /// Programs of the host, by the name the guest calls them.
    pub programs: &'a [(&'a str, PathBuf)],
    /// Modules in loading order.
    pub modules: &'a [Module],
    /// What an interactive guest shall do.
    pub job: Option<&'a Job>,
}

/// Writes the initramfs to `path`.
pub fn write(path: &Path, contents: &Contents<'_>) -> Result<()> {
    let job = contents.job.map(serde_json::to_vec).transpose();
    let job = job.attempting(|| "describe the guest's job".into())?;
    let mut libraries = BTreeSet::new();
    closure(contents.runner, &mut libraries)?;
    for (_, program) in contents.programs {
        closure(program, &mut libraries)?;
    }

    let file = File::create(path).attempting(|| format!("create {}", path.display()))?;
    let mut archive = Initramfs::new(BufWriter::new(file));
    let written = (|| -> io::Result<()> {
        for dir in ["/dev", "/proc", "/sys", "/run", "/tmp", "/mnt", "/scratch"] {
            archive.directory(dir)?;
        }
        // The standard library refuses to start with standard streams closed, and the kernel opens this node for them.
        archive.character_device("/dev/console", 5, 1)?;
        archive.file("/init", &fs::read(contents.runner)?)?;
        if let Some(job) = &job {
            archive.file(JOB, job)?;
        }
        for (index, module) in contents.modules.iter().enumerate() {
            let path = match module.name.as_str() {
                "mq_deadline" => SCHEDULER.to_owned(),
                name => format!("{MODULES}/{index:03}-{name}.ko"),
            };
            archive.file(&path, &module.image)?;
        }
        for (name, program) in contents.programs {
            archive.file(&format!("{PROGRAMS}/{name}"), &fs::read(program)?)?;
        }
        for library in &libraries {
            archive.file(&library.to_string_lossy(), &fs::read(library)?)?;
        }
        for extra in ["/etc/ld.so.cache", "/etc/mke2fs.conf"] {
            if let Ok(bytes) = fs::read(extra) {
                archive.file(extra, &bytes)?;
            }
        }
        archive.finish()?.flush()
    })();
    written.map_err(|e| {
        Error::environment("build the guest's image").answer(e).advice("is the disk full?")
    })
}

/// Adds the libraries (and the loader) that `program` needs, under the names the loader will look for.
fn closure(program: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    let output = tools::LDD
        .command()
        .env("LC_ALL", "C")
        .arg(program)
        .output()
        .attempting(|| "run ldd".into())?;
    let text = String::from_utf8_lossy(&output.stdout);
    match parse_ldd(&text) {
        Ok(found) => libraries.extend(found),
        Err(missing) => {
            return Err(Error::environment(format!("find the libraries of {}", program.display()))
                .answer(format!("ldd reports {missing} as not found"))
                .advice("repair the program's installation: it cannot run on this host either"));
        }
    }
    Ok(())
}

/// The paths in ldd's answer; a statically linked program has none.
fn parse_ldd(text: &str) -> std::result::Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, target) = line.split_once("=>").unwrap_or(("", line));
        let path = target.split_whitespace().next().unwrap_or_default();
        if target.trim() == "not found" {
            return Err(name.trim().to_owned());
        }
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// A newc archive that creates the directories its files need.
struct Initramfs<W: Write> {
    out: Option<W>,
    known: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Initramfs<W> {
    fn new(out: W) -> Self {
        Self { out: Some(out), known: BTreeSet::new(), inode: 0 }
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        kind: ModeFileType,
        device: (u32, u32),
        bytes: &[u8],
    ) -> io::Result<()> {
        let relative = path.trim_start_matches('/');
        if !self.known.insert(relative.to_owned()) {
            return Ok(());
        }
        if let Some((parent, _)) = relative.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.inode += 1;
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let out = self.out.take().ok_or_else(|| io::Error::other("the archive failed before"))?;
        let mut writer = Builder::new(relative)
            .ino(self.inode)
            .mode(mode)
            .set_mode_file_type(kind)
            .rdev_major(device.0)
            .rdev_minor(device.1)
            .write(out, size);
        writer.write_all(bytes)?;
        self.out = Some(writer.finish()?);
        Ok(())
    }

    fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, 0o755, ModeFileType::Directory, (0, 0), &[])
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(path, 0o755, ModeFileType::Regular, (0, 0), bytes)
    }

    fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, 0o600, ModeFileType::Char, (major, minor), &[])
    }

    fn finish(mut self) -> io::Result<W> {
        let out = self.out.take().ok_or_else(|| io::Error::other("the archive failed before"))?;
        trailer(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_answers_are_read() {
        let text = "\tlinux-vdso.so.1 (0x7ff)\n\tlibaio.so.1 => /lib/x86_64-linux-gnu/libaio.so.1 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            parse_ldd(text),
            Ok(vec![
                "/lib/x86_64-linux-gnu/libaio.so.1".into(),
                "/lib64/ld-linux-x86-64.so.2".into()
            ])
        );
        assert_eq!(parse_ldd("\tstatically linked\n"), Ok(vec![]));
        assert_eq!(parse_ldd("\tlibx.so => not found\n"), Err("libx.so".into()));
    }

    #[test]
    fn an_image_lists_parents_before_children_and_nothing_twice() {
        let mut archive = Initramfs::new(Vec::new());
        archive.file("/usr/lib/a.so", b"a").expect("written");
        archive.file("/usr/lib/b.so", b"bb").expect("written");
        archive.file("/usr/lib/b.so", b"again").expect("ignored");
        archive.character_device("/dev/console", 5, 1).expect("written");
        let bytes = archive.finish().expect("finished");
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let reader = cpio::newc::Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().file_size()));
            rest = reader.finish().expect("skipped");
        }
        let expected = [
            ("usr", 0),
            ("usr/lib", 0),
            ("usr/lib/a.so", 1),
            ("usr/lib/b.so", 2),
            ("dev", 0),
            ("dev/console", 0),
        ];
        assert_eq!(names, expected.map(|(n, s)| (n.to_owned(), s)));
    }
}
