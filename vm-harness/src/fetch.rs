//! Kernels from the Debian archive, without root and without touching the host's apt: a private state directory with its own sources.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Attempt, Error, ErrorKind, Result};
use crate::kernel::{self, Kernel, Series};
use crate::sources::{self, Source};
use crate::tools::{self, Tool};

/// Suites that carry the series we test.
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];
/// The smallest flavour that has every driver a guest needs.
const FLAVOUR: &str = "cloud-amd64";
/// Written last into a cached kernel's directory: its presence means that the rest is complete.
const MANIFEST: &str = "kernel.json";

/// The kernels kept below one target directory.
#[derive(Debug, Clone)]
pub struct Store {
    kernels: PathBuf,
    apt: PathBuf,
    mirror: Option<String>,
}

impl Store {
    /// A store in `dir`; `mirror` overrides the mirror found in the host's apt configuration.
    pub fn new(dir: &Path, mirror: Option<String>) -> Self {
        Self { kernels: dir.join("kernels"), apt: dir.join("apt"), mirror }
    }

    /// The newest cached kernel of a series.
    pub fn cached(&self, series: Series) -> Option<Kernel> {
        let mut found: Vec<(Release, Kernel)> = fs::read_dir(&self.kernels)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let kernel: Kernel =
                    serde_json::from_slice(&fs::read(entry.path().join(MANIFEST)).ok()?).ok()?;
                let release = Release::parse(&kernel.release)?;
                (release.series() == series && kernel.image.is_file()).then_some((release, kernel))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.pop().map(|(_, kernel)| kernel)
    }

    /// Asks the archive for the newest point release of each series and unpacks those that are not cached yet.
    /// The index is read once for all of them. One answer per series, in the order asked.
    pub fn fetch(&self, wanted: &[Series], say: &dyn Fn(&str)) -> Vec<Result<Kernel>> {
        let opened = tools::require(&tools::FOR_A_FETCH).and_then(|()| Archive::open(self, say));
        match opened {
            Ok(archive) => wanted.iter().map(|&series| archive.obtain(self, series, say)).collect(),
            Err(error) => wanted.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// The archive's index, in a private apt state.
struct Archive {
    apt: PathBuf,
    names: Vec<String>,
}

impl Archive {
    fn open(store: &Store, say: &dyn Fn(&str)) -> Result<Self> {
        let configured = sources::configured(Path::new("/etc/apt"));
        let source = match &store.mirror {
            Some(uri) => Source {
                uri: uri.clone(),
                suites: Vec::new(),
                components: Vec::new(),
                signed_by: sources::debian_mirror(&configured).and_then(|s| s.signed_by.clone()),
            },
            None => sources::debian_mirror(&configured).cloned().ok_or_else(|| {
                unavailable("find a Debian mirror in /etc/apt")
                    .answer("no enabled source offers a Debian suite's main component")
                    .advice("name one with --mirror URI, or bring your own kernel: --kernel PATH (see docs/vm-harness.md)")
            })?,
        };
        for dir in ["lists/partial", "cache/archives/partial", "empty.d", "debs"] {
            let dir = store.apt.join(dir);
            fs::create_dir_all(&dir).attempting(|| format!("create {}", dir.display()))?;
        }
        let apt = fs::canonicalize(&store.apt)
            .attempting(|| "resolve the private apt directory".into())?;
        let list = source_list(&source);
        fs::write(apt.join("sources.list"), list)
            .attempting(|| "write the private sources.list".into())?;
        fs::write(apt.join("status"), "").attempting(|| "write the private dpkg status".into())?;

        let mut archive = Self { apt, names: Vec::new() };
        say(&format!("reading the package index of {}", SUITES.join(" and ")));
        archive.call(tools::APT_GET, &["update", "--error-on=any"]).map_err(|answer| {
            unavailable("read the archive's package index")
                .answer(answer)
                .advice("check the network and the mirror in /etc/apt; a kernel that is already cached needs neither")
        })?;
        let names = archive
            .call(tools::APT_CACHE, &["pkgnames", "linux-"])
            .map_err(|answer| Error::environment("list the archive's kernels").answer(answer))?;
        archive.names = names.lines().map(str::to_owned).collect();
        Ok(archive)
    }

    fn obtain(&self, store: &Store, series: Series, say: &dyn Fn(&str)) -> Result<Kernel> {
        let Some(packages) = choose(&self.names, series) else {
            return Err(
                unavailable(format!("fetch a kernel of series {series}"))
                    .answer(format!("the suites {} hold no linux-image of it any more", SUITES.join(", ")))
                    .advice("use a cached one on another machine, or your own: --kernel PATH (see docs/vm-harness.md)"),
            );
        };
        let version = self.version(&packages.names[0])?;
        let dir = store.kernels.join(format!("{series}-{version}"));
        if let Ok(text) = fs::read(dir.join(MANIFEST))
            && let Ok(kernel) = serde_json::from_slice::<Kernel>(&text)
            && kernel.image.is_file()
        {
            say(&format!("{series}: {} is cached", kernel.release));
            return Ok(kernel);
        }
        say(&format!("{series}: fetching {}", packages.names.join(", ")));
        self.download(&packages.names)?;
        unpack(&self.apt.join("debs"), &packages.names, &dir, &version)
    }

    fn version(&self, package: &str) -> Result<String> {
        let shown = self
            .call(tools::APT_CACHE, &["show", "--no-all-versions", package])
            .map_err(|answer| unavailable(format!("look up {package}")).answer(answer))?;
        shown.lines().find_map(|line| line.strip_prefix("Version: ")).map(str::to_owned).ok_or_else(
            || unavailable(format!("look up {package}")).answer("the index gives no version"),
        )
    }

    fn download(&self, packages: &[String]) -> Result<()> {
        let mut arguments = vec!["download"];
        arguments.extend(packages.iter().map(String::as_str));
        self.call(tools::APT_GET, &arguments).map(drop).map_err(|answer| {
            unavailable(format!("download {}", packages.join(", ")))
                .answer(answer)
                .advice("check the network; if the archive dropped this point release just now, run the command again")
        })
    }

    /// Runs an apt program on the private state. The error is what it printed.
    fn call(&self, tool: Tool, arguments: &[&str]) -> std::result::Result<String, String> {
        let apt = self.apt.display();
        let program = tool.program;
        let output = tool
            .command()
            .current_dir(self.apt.join("debs"))
            .env("LC_ALL", "C")
            .args(["-q", "-q"])
            .args([
                format!("-oDir::State={apt}"),
                format!("-oDir::State::lists={apt}/lists"),
                format!("-oDir::State::status={apt}/status"),
                format!("-oDir::Cache={apt}/cache"),
                format!("-oDir::Etc::sourcelist={apt}/sources.list"),
                format!("-oDir::Etc::sourceparts={apt}/empty.d"),
                format!("-oDir::Etc::preferences={apt}/none"),
                format!("-oDir::Etc::preferencesparts={apt}/empty.d"),
            ])
            .args([
                "-oAPT::Architecture=amd64",
                "-oAPT::Architectures=amd64",
                "-oAPT::Sandbox::User=",
                "-oAcquire::Languages=none",
                "-oAcquire::Retries=3",
            ])
            .args(arguments)
            .output()
            .map_err(|e| format!("{program}: {e}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}\n{}", output.status, text.trim()))
        }
    }
}

fn unavailable(attempted: impl Into<String>) -> Error {
    Error::new(ErrorKind::KernelUnavailable, attempted)
}

fn source_list(source: &Source) -> String {
    use std::fmt::Write;
    let signed_by =
        source.signed_by.as_ref().map(|key| format!(" signed-by={key}")).unwrap_or_default();
    let mut text = String::new();
    for suite in SUITES {
        // Only the package index: no translations, no application metadata.
        let _ = writeln!(text, "deb [target=Packages{signed_by}] {} {suite} main", source.uri);
    }
    text
}

fn unpack(debs: &Path, packages: &[String], dir: &Path, version: &str) -> Result<Kernel> {
    let parent = dir.parent().unwrap_or(dir);
    fs::create_dir_all(parent).attempting(|| format!("create {}", parent.display()))?;
    let parent = fs::canonicalize(parent).attempting(|| format!("resolve {}", parent.display()))?;
    let dir = parent.join(dir.file_name().unwrap_or_default());
    let fresh = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(&parent)
        .attempting(|| format!("create a directory in {}", parent.display()))?;
    for package in packages {
        let deb = newest_deb(debs, package)?;
        run(tools::DPKG_DEB.command().arg("-x").arg(&deb).arg(fresh.path()))?;
        let _ = fs::remove_file(deb);
    }
    let found = kernel::search(fresh.path())?;
    let release = found.modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    index_modules(&found.modules, &release)?;

    let moved = |path: &Path| dir.join(path.strip_prefix(fresh.path()).unwrap_or(path));
    let kernel = Kernel {
        release,
        origin: format!("Debian {version}"),
        image: moved(&found.image),
        modules: moved(&found.modules),
    };
    let manifest =
        serde_json::to_vec_pretty(&kernel).attempting(|| "describe the kernel".into())?;
    fs::write(fresh.path().join(MANIFEST), manifest)
        .attempting(|| "write the kernel's manifest".into())?;
    let _ = fs::remove_dir_all(&dir);
    let fresh = fresh.keep();
    fs::rename(&fresh, &dir)
        .attempting(|| format!("move the unpacked kernel to {}", dir.display()))?;
    Ok(kernel)
}

/// Writes `modules.dep` beside modules that were unpacked and never installed.
pub fn index_modules(modules: &Path, release: &str) -> Result<()> {
    if modules.join("modules.dep").is_file() {
        return Ok(());
    }
    tools::require(&[tools::DEPMOD])?;
    // Where depmod looks below its base, lib/modules or usr/lib/modules, was decided when it was built.
    let mut refused = None;
    for base in modules.ancestors().skip(3).take(2) {
        match run(tools::DEPMOD.command().arg("-b").arg(base).arg(release)) {
            Ok(()) if modules.join("modules.dep").is_file() => return Ok(()),
            Ok(()) => {}
            Err(error) => refused = Some(error),
        }
    }
    Err(refused
        .unwrap_or_else(|| {
            Error::environment("index the kernel's modules").answer("depmod wrote no modules.dep")
        })
        .advice(format!(
            "run depmod for {} yourself, or name its directory with --modules",
            modules.display()
        )))
}

fn newest_deb(debs: &Path, package: &str) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    fs::read_dir(debs)
        .attempting(|| format!("read {}", debs.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
        .max_by_key(|p| fs::metadata(p).and_then(|m| m.modified()).ok())
        .ok_or_else(|| {
            Error::environment(format!("find the downloaded package {package}"))
                .answer("apt-get left no such file")
        })
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("run {}", command.get_program().to_string_lossy());
    let output = command.output().attempting(|| shown.clone())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(Error::environment(shown).answer(format!(
            "{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}

/// A kernel's version number, ordered as point releases are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Release {
    numbers: [u32; 3],
    rest: String,
}

impl Release {
    /// Reads `6.12.107+deb13-cloud-amd64` and the like.
    fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse);
        let mut next = || numbers.next().transpose().ok();
        Some(Self {
            numbers: [next()??, next()??, next()?.unwrap_or(0)],
            rest: text[end..].to_owned(),
        })
    }

    fn series(&self) -> Series {
        Series { major: self.numbers[0], minor: self.numbers[1] }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| self.rest.cmp(&other.rest))
    }
}

/// The packages that together make one kernel.
#[derive(Debug, PartialEq, Eq)]
struct Packages {
    names: Vec<String>,
}

/// Picks the newest point release of `series` among package names: one package up to 6.18, three from 7.x on.
fn choose(names: &[String], series: Series) -> Option<Packages> {
    let newest = |prefix: &str| -> Option<(Release, String)> {
        names
            .iter()
            .filter_map(|name| {
                let version = name.strip_prefix(prefix)?;
                let base = version.strip_suffix(FLAVOUR)?.strip_suffix('-')?;
                let release = Release::parse(base)?;
                // `6.12.9+deb13-cloud-amd64` has one flavour; `…-rt-cloud-amd64` would be another.
                (release.series() == series && !base.contains('-'))
                    .then(|| (release, version.to_owned()))
            })
            .max_by(|a, b| a.0.cmp(&b.0))
    };
    if let Some((image, version)) = newest("linux-binary-")
        && newest("linux-modules-").is_some_and(|(modules, _)| modules == image)
    {
        return Some(Packages {
            names: ["binary", "modules", "base"]
                .map(|part| format!("linux-{part}-{version}"))
                .to_vec(),
        });
    }
    newest("linux-image-")
        .map(|(_, version)| Packages { names: vec![format!("linux-image-{version}")] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    fn series(text: &str) -> Series {
        text.parse().expect("a series")
    }

    #[test]
    fn the_newest_point_release_is_chosen_by_number_not_by_text() {
        let index = names(&[
            "linux-image-6.12.94+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64-dbg",
            "linux-image-6.12.107+deb13-cloud-amd64-unsigned",
            "linux-image-6.12.200+deb13-amd64",
            "linux-image-6.18.15+deb13-cloud-amd64",
        ]);
        let chosen = choose(&index, series("6.12")).expect("there is one");
        assert_eq!(chosen.names, ["linux-image-6.12.107+deb13-cloud-amd64"]);
        assert_eq!(choose(&index, series("6.1")), None, "6.1 is not a prefix match of 6.12");
        assert_eq!(choose(&index, series("7.3")), None);
    }

    #[test]
    fn a_split_kernel_needs_its_three_packages() {
        let index = names(&[
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
            "linux-base-7.3.4+deb13-cloud-amd64",
        ]);
        assert_eq!(
            choose(&index, series("7.3")).expect("there is one").names,
            [
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64",
                "linux-base-7.3.4+deb13-cloud-amd64"
            ]
        );
    }

    #[test]
    fn private_sources_name_both_suites_and_the_hosts_keyring() {
        let text = source_list(&Source {
            uri: "http://mirror.example/debian".into(),
            suites: vec![],
            components: vec![],
            signed_by: Some("/k.gpg".into()),
        });
        assert_eq!(
            text,
            "deb [target=Packages signed-by=/k.gpg] http://mirror.example/debian trixie main\n\
             deb [target=Packages signed-by=/k.gpg] http://mirror.example/debian trixie-backports main\n"
        );
    }

    #[test]
    fn the_cache_answers_without_the_archive() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(dir.path(), None);
        assert!(store.cached(series("7.3")).is_none());
        for release in ["7.3.4+deb13-cloud-amd64", "7.3.11+deb13-cloud-amd64"] {
            let home = dir.path().join("kernels").join(release);
            fs::create_dir_all(&home).expect("mkdir");
            let image = home.join("vmlinuz");
            fs::write(&image, "").expect("write");
            let kernel = Kernel {
                release: release.into(),
                origin: "test".into(),
                image,
                modules: home.clone(),
            };
            fs::write(home.join(MANIFEST), serde_json::to_vec(&kernel).expect("json"))
                .expect("write");
        }
        let newest = store.cached(series("7.3")).expect("cached");
        assert_eq!(newest.release, "7.3.11+deb13-cloud-amd64");
    }
}
