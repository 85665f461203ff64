//! Reading what was recorded.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use blkproof_engine::record::{FORMAT, Header, Mark, Record, Role, Thread};
use blkproof_engine::uapi::KernelSeries;

/// How a process's recording ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Close {
    /// In good order.
    Ended,
    /// In the middle: the process was killed.
    Cut,
    /// Something is missing, and why.
    Gap(String),
}

/// What one process recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its file, for messages.
    pub name: String,
    /// Its header.
    pub header: Header,
    /// Each thread's records in its own order, each with its line.
    pub threads: BTreeMap<Thread, Vec<(usize, Record)>>,
    /// How it ends.
    pub close: Close,
}

/// What the processes of one device recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recording {
    /// The supervisor, then its workers in the order in which they were started.
    pub processes: Vec<Process>,
}

/// Why something is no recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadError(String);

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReadError {}

impl Recording {
    /// Reads files, or a directory's `*.jsonl`.
    ///
    /// # Errors
    /// With the file, and what is wrong with it.
    pub fn open(paths: &[PathBuf]) -> Result<Self, ReadError> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                files.extend(listed(path)?);
            } else {
                files.push(path.clone());
            }
        }
        let texts: Vec<(String, String)> = files
            .iter()
            .map(|file| {
                let text = fs::read_to_string(file).map_err(|error| wrong(file, error))?;
                Ok((file.display().to_string(), text))
            })
            .collect::<Result<_, ReadError>>()?;
        Self::parse(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }

    /// Reads texts, each with its name.
    ///
    /// # Errors
    /// With the name, and what is wrong.
    pub fn parse<'a>(
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ReadError> {
        let mut processes: Vec<Process> = texts
            .into_iter()
            .map(|(name, text)| Process::parse(name, text))
            .collect::<Result<_, _>>()?;
        processes.sort_by_key(|process| process.header.process);
        match processes.iter().filter(|one| one.header.process == Role::Supervisor).count() {
            1 => Ok(Self { processes }),
            0 => Err(ReadError("there is no trace of a supervisor".into())),
            _ => Err(ReadError("there are traces of several devices".into())),
        }
    }

    /// The header that says what kernel it is.
    pub fn header(&self) -> &Header {
        &self.processes[0].header
    }

    /// The series of the kernel that was recorded, if the model knows it.
    pub fn kernel(&self) -> Option<KernelSeries> {
        let release = &self.header().release;
        let numbers = release.split(|c: char| !c.is_ascii_digit());
        let series = numbers.take(2).collect::<Vec<_>>().join(".");
        KernelSeries::ALL.into_iter().find(|kernel| kernel.to_string() == series)
    }

    /// All records.
    pub fn records(&self) -> usize {
        self.processes.iter().flat_map(|process| process.threads.values()).map(Vec::len).sum()
    }
}

/// The traces in a directory, by name.
fn listed(dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let entries = fs::read_dir(dir).map_err(|error| wrong(dir, error))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    if files.is_empty() { Err(wrong(dir, "it holds no *.jsonl")) } else { Ok(files) }
}

fn wrong(path: &Path, what: impl fmt::Display) -> ReadError {
    ReadError(format!("{}: {what}", path.display()))
}

impl Process {
    fn parse(name: &str, text: &str) -> Result<Self, ReadError> {
        let at = |number: usize, what: &dyn fmt::Display| {
            ReadError(format!("{name}: line {number}: {what}"))
        };
        let mut header = None;
        let mut threads = BTreeMap::<Thread, Vec<(usize, Record)>>::new();
        let mut close = Close::Cut;
        let whole = text.ends_with('\n');
        let lines = text.lines().count();
        for (number, line) in (1..).zip(text.lines()) {
            if line.is_empty() {
                continue;
            }
            let mark = line.starts_with('{');
            let cut = number == lines && !whole;
            if mark {
                match serde_json::from_str(line) {
                    Ok(Mark::Header(one)) if header.is_none() => header = Some(one),
                    Ok(Mark::Header(_)) => return Err(at(number, &"a second header")),
                    Ok(Mark::End(_)) => close = Close::Ended,
                    Ok(Mark::Gap(why)) => close = Close::Gap(why),
                    Err(_) if cut => {}
                    Err(error) => return Err(at(number, &error)),
                }
            } else {
                match serde_json::from_str::<Record>(line) {
                    Ok(record) => threads.entry(record.1).or_default().push((number, record)),
                    // Whoever was killed while it wrote its last line.
                    Err(_) if cut => {}
                    // What a gap begins with.
                    Err(_) if gap_follows(text, number) => {}
                    Err(error) => return Err(at(number, &error)),
                }
            }
        }
        let header = header.ok_or_else(|| at(1, &"there is no header"))?;
        if header.format != FORMAT {
            let text = format!("format {}, and this program reads {FORMAT}", header.format);
            return Err(at(1, &text));
        }
        for (thread, records) in &threads {
            for pair in records.windows(2) {
                let [(_, one), (number, next)] = pair else { continue };
                if next.0 < one.0 {
                    return Err(at(*number, &format!("time runs backwards on {thread:?}")));
                }
            }
        }
        Ok(Self { name: name.to_owned(), header, threads, close })
    }
}

/// Whether the line after this one says that something is missing.
fn gap_follows(text: &str, number: usize) -> bool {
    let next = text.lines().skip(number).find(|line| !line.is_empty());
    next.is_some_and(|line| matches!(serde_json::from_str(line), Ok(Mark::Gap(_))))
}
