//! One QEMU process: its command line, its life, and which accelerator it can use.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Error, Result};
use crate::kmsg::{self, Complaint};
use crate::protocol::{Event, Job, PORT};
use crate::tools;

/// The kernel clamps queues to CPUs, and four queues are tested.
const CPUS: &str = "4";
const MEMORY: &str = "2G";
/// Sparse: only what is written takes room.
const SCRATCH_BYTES: u64 = 512 << 20;

/// How QEMU executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// By the host's processor.
    Kvm,
    /// By translation, one host thread per guest CPU.
    Tcg,
    /// By translation, one host thread for all guest CPUs.
    TcgSingle,
}

impl Accelerator {
    /// How to translate with this QEMU. Before 8.1 a page was not locked while it was translated: when a kernel patches its own code, another CPU
    /// can go on with the stale translation for good. Measured with 7.2: every second boot of 7.3 dies of `int3`. One thread avoids it.
    pub fn translation(version: &str) -> Self {
        match version_number(version) {
            Some(number) if number < (8, 1) => Self::TcgSingle,
            _ => Self::Tcg,
        }
    }

    fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
            Self::TcgSingle => "tcg,thread=single",
        }
    }

    fn cpu(self) -> &'static str {
        match self {
            Self::Kvm | Self::Tcg => "max",
            // On one thread, QEMU 7.2 returns from `cmpxchg16b` with wild flags now and then: kernels and programs do without.
            Self::TcgSingle => "max,-cx16",
        }
    }

    /// A name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (emulation)",
            Self::TcgSingle => "TCG (emulation) on one thread, because this QEMU is older than 8.1",
        }
    }
}

/// `QEMU emulator version 7.2.22 (Debian …)` → `(7, 2)`.
fn version_number(version: &str) -> Option<(u32, u32)> {
    let (_, number) = version.split_once("version ")?;
    let mut parts = number.split(['.', ' ']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// What a guest boots from and where its traces go.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// The kernel image.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// Created afresh as the guest's scratch disk.
    pub scratch: &'a Path,
    /// Receives everything the guest prints on its console.
    pub console: &'a Path,
    /// How to execute.
    pub accelerator: Accelerator,
    /// Give the user the console, and send events to this file instead of the pipe.
    pub interactive: Option<&'a Path>,
    /// Go on from this state of a machine that was the same ([`crate::frozen`]), instead of booting.
    pub state: Option<&'a Path>,
    /// Where to listen for orders to the emulator itself (QMP).
    pub orders: Option<&'a Path>,
}

/// Name of the hidden subcommand that becomes QEMU.
pub const EMULATE: &str = "emulate";

/// Becomes QEMU, bound to the life of the process that asked for it. Returns only if that fails.
pub fn emulate(arguments: &[OsString]) -> Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Error::environment("bind QEMU to the harness").answer(error);
    }
    let error = tools::QEMU.command().args(arguments).exec();
    Error::environment("start QEMU")
        .answer(error)
        .advice(format!("is {} installed?", tools::QEMU.program))
}

/// A running guest. Killed when dropped.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    events: Receiver<Line>,
}

/// What comes out of a guest's port.
#[derive(Debug)]
pub enum Line {
    /// An event.
    Event(Event),
    /// Something that is no event.
    Garbage(String),
    /// QEMU closed the port: it ended.
    End,
}

impl Machine<'_> {
    fn arguments(&self) -> Vec<String> {
        let path = |p: &Path| p.display().to_string().replace(',', ",,");
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "pc",
            "-cpu",
            self.accelerator.cpu(),
            "-smp",
            CPUS,
            "-m",
            MEMORY,
            "-device",
            "virtio-rng-pci",
            "-device",
            "virtio-serial-pci",
            "-accel",
            self.accelerator.argument(),
        ]
        .map(str::to_owned)
        .into();
        let (serial, events) = match self.interactive {
            None => (
                format!("file,id=console,path={}", path(self.console)),
                "stdio,id=events,signal=off".to_owned(),
            ),
            Some(file) => (
                format!("stdio,id=console,signal=off,logfile={}", path(self.console)),
                format!("file,id=events,path={}", path(file)),
            ),
        };
        arguments.extend([
            "-chardev".into(),
            serial,
            "-serial".into(),
            "chardev:console".into(),
            "-chardev".into(),
            events,
            "-device".into(),
            format!("virtserialport,chardev=events,name={PORT}"),
            "-drive".into(),
            format!("file={},if=virtio,format=raw,cache=unsafe,discard=unmap", path(self.scratch)),
            "-kernel".into(),
            self.kernel.display().to_string(),
            "-initrd".into(),
            self.initramfs.display().to_string(),
            "-append".into(),
            "console=ttyS0,115200 loglevel=7 panic=-1 oops=continue random.trust_cpu=on nokaslr"
                .into(),
        ]);
        if let Some(state) = self.state {
            arguments.extend(["-incoming".into(), format!("exec:cat {}", quoted(state))]);
        }
        if let Some(socket) = self.orders {
            arguments.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", path(socket))]);
        }
        arguments
    }

    /// Boots, or goes on. Events arrive in the returned guest.
    pub fn boot(&self) -> Result<Guest> {
        File::create(self.scratch)
            .and_then(|f| f.set_len(SCRATCH_BYTES))
            .attempting(|| format!("create the scratch disk {}", self.scratch.display()))?;
        let interactive = self.interactive.is_some();
        // Started through this very program, which makes the kernel kill QEMU should the harness die without a chance to do so.
        let this = env::current_exe().attempting(|| "find this program's own file".into())?;
        let mut command = Command::new(this);
        command
            .arg(EMULATE)
            .args(self.arguments())
            .stdin(if interactive { Stdio::inherit() } else { Stdio::piped() })
            .stdout(if interactive { Stdio::inherit() } else { Stdio::piped() })
            .stderr(if interactive { Stdio::inherit() } else { Stdio::piped() });
        if !interactive {
            // Ctrl-C is the harness's to handle: it still has a summary to print.
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(|e| {
            Error::environment("start QEMU")
                .answer(e)
                .advice(format!("is {} installed?", tools::QEMU.program))
        })?;
        let (sender, events) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stdout);
                let mut line = Vec::new();
                loop {
                    line.clear();
                    match reader.read_until(b'\n', &mut line) {
                        Ok(0) | Err(_) => break,
                        Ok(_) => {}
                    }
                    let parsed = serde_json::from_slice(&line).map_or_else(
                        |_| Line::Garbage(String::from_utf8_lossy(&line).trim().to_owned()),
                        Line::Event,
                    );
                    if sender.send(parsed).is_err() {
                        break;
                    }
                }
                let _ = sender.send(Line::End);
            });
        }
        Ok(Guest { child, events })
    }
}

/// A path for the shell that QEMU gives a command to.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

impl Guest {
    /// Gives it its job, after its hello.
    pub fn give(&self, job: &Job) -> Result<()> {
        let giving = || "give the guest its job".into();
        let mut line = serde_json::to_vec(job).attempting(giving)?;
        line.push(b'\n');
        // The pipe stays open as long as the guest shall live.
        let pipe = self.child.stdin.as_ref().map(|pipe| pipe.as_fd().try_clone_to_owned());
        if let Some(pipe) = pipe {
            let mut pipe = File::from(pipe.attempting(giving)?);
            // A guest that does not take it is noticed by its silence.
            thread::spawn(move || pipe.write_all(&line));
        }
        Ok(())
    }

    /// The guest's events, in order.
    pub fn events(&self) -> &Receiver<Line> {
        &self.events
    }

    /// Waits until QEMU ends by itself: for interactive guests.
    pub fn wait(mut self) {
        let _ = self.child.wait();
    }

    /// What QEMU said on its standard error, once it has ended.
    pub fn complaints(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child
            .stderr
            .take()
            .and_then(|e| std::io::read_to_string(e).ok())
            .unwrap_or_default()
            .trim()
            .to_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the last probe of KVM found; valid for one QEMU on one host kernel.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Probed {
    host: String,
    qemu: String,
    kvm_works: bool,
}

/// Finds out whether KVM really boots kernels here: the device node may exist and still be of no use.
/// `boots` must try to boot to the runner's hello. The answer is kept in `cache`.
pub fn probe(cache: &Path, boots: impl FnOnce() -> bool) -> Accelerator {
    let qemu = version();
    let translation = Accelerator::translation(&qemu);
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return translation;
    }
    let host = rustix::system::uname();
    let host = format!("{} {}", host.release().to_string_lossy(), host.version().to_string_lossy());
    let known = fs::read(cache)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Probed>(&bytes).ok())
        .filter(|p| p.host == host && p.qemu == qemu);
    let kvm_works = known.map_or_else(boots, |known| known.kvm_works);
    let probed = Probed { host, qemu, kvm_works };
    if let Ok(bytes) = serde_json::to_vec(&probed) {
        let _ = fs::write(cache, bytes);
    }
    if kvm_works { Accelerator::Kvm } else { translation }
}

/// The first line of `qemu --version`.
pub fn version() -> String {
    tools::QEMU
        .command()
        .arg("--version")
        .output()
        .ok()
        .and_then(|o| String::from_utf8_lossy(&o.stdout).lines().next().map(str::to_owned))
        .unwrap_or_default()
}

/// The last lines of a console log, without control characters.
pub fn console_tail(console: &Path, lines: usize) -> Vec<String> {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<String> = text
        .lines()
        .map(|l| l.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|l| !l.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

/// What the console of a guest that went silent says about it: from the kernel's last complaint on, or else the very end.
pub fn last_words(console: &Path) -> Vec<String> {
    let tail = console_tail(console, 400);
    let complains = |line: &String| {
        matches!(kmsg::classify(line), Some(Complaint::Fault | Complaint::BlockedTask))
    };
    match tail.iter().position(complains) {
        Some(first) => tail.into_iter().skip(first).take(60).collect(),
        None => tail[tail.len().saturating_sub(10)..].to_vec(),
    }
}

/// Files of one guest, in a directory of its own.
#[derive(Debug, Clone)]
pub struct Traces {
    /// Removed and built again for every guest.
    pub initramfs: PathBuf,
    /// The scratch disk.
    pub scratch: PathBuf,
    /// The console log, kept.
    pub console: PathBuf,
    /// Events of an interactive guest.
    pub events: PathBuf,
}

impl Traces {
    /// Names for the files of guest number `number` in `dir`.
    pub fn new(dir: &Path, number: usize) -> Self {
        Self {
            initramfs: dir.join(format!("guest-{number}.cpio")),
            scratch: dir.join(format!("guest-{number}.raw")),
            console: dir.join(format!("guest-{number}.console.log")),
            events: dir.join(format!("guest-{number}.events.jsonl")),
        }
    }

    /// Removes what is large and of no use afterwards.
    pub fn clean(&self) {
        let _ = fs::remove_file(&self.initramfs);
        let _ = fs::remove_file(&self.scratch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line() {
        let machine = Machine {
            kernel: Path::new("/k/vmlinuz"),
            initramfs: Path::new("/r/a.cpio"),
            scratch: Path::new("/r/a,b.raw"),
            console: Path::new("/r/a.log"),
            accelerator: Accelerator::Tcg,
            interactive: None,
            state: Some(Path::new("/r/it's.state")),
            orders: None,
        };
        insta::assert_snapshot!(machine.arguments().join(" ").replace(" -", "\n-"));
    }

    #[test]
    fn an_old_qemu_translates_on_one_thread() {
        let table = [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", Accelerator::TcgSingle),
            ("QEMU emulator version 8.0.0", Accelerator::TcgSingle),
            ("QEMU emulator version 8.1.0", Accelerator::Tcg),
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", Accelerator::Tcg),
            ("something else", Accelerator::Tcg),
        ];
        for (version, expected) in table {
            assert_eq!(Accelerator::translation(version), expected, "{version}");
        }
    }

    #[test]
    fn the_console_tail_is_short_and_clean() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("console");
        fs::write(&file, "one\r\n\r\ntwo\u{1b}[0m\r\nthree\r\n").expect("written");
        assert_eq!(console_tail(&file, 2), ["two[0m", "three"]);
        assert!(console_tail(&dir.path().join("none"), 2).is_empty());
    }

    #[test]
    fn last_words_begin_with_the_complaint() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("console");
        fs::write(&file, "fine\nOops: 0000 [#1]\nRIP: x\n").expect("written");
        assert_eq!(last_words(&file), ["Oops: 0000 [#1]", "RIP: x"]);
        fs::write(&file, "fine\nstill fine\n").expect("written");
        assert_eq!(last_words(&file), ["fine", "still fine"]);
    }

    #[test]
    fn a_probe_is_remembered_for_this_host_only() {
        let text =
            serde_json::to_string(&Probed { host: "h".into(), qemu: "q".into(), kvm_works: false })
                .expect("json");
        assert_eq!(text, r#"{"host":"h","qemu":"q","kvm_works":false}"#);
    }
}
