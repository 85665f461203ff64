//! Command lines of `blkproof`.

use std::ffi::OsString;
use std::fmt::Display;

use blkproof::cli::{
    Add, AddOptions, Command, DelCommand, DelOptions, ListOptions, Refusal, understand,
};
use blkproof::task::TargetSpec;
use blkproof_engine::supervisor::{Deadlines, Supervisor};
use blkproof_engine::target::Target as _;
use clap::ValueEnum;

use crate::texts::words;

/// Hardware queues, and tags of each.
const COUNT_MAX: u16 = 4_096;
/// Device numbers stay below this one.
const ID_END: u32 = 1 << 20;
/// Bytes of a device's block.
const BLOCK: u64 = 512;
/// Bytes of a tag's buffer: the least, of which it is a multiple, and the most.
const BUFFER: [u32; 2] = [4 << 10, 32 << 20];

/// Whatever the arguments are (a line each), `blkproof` says why they make no sense, or takes them for a command within the documented
/// ranges, of which the engine can make a plan, and which is the same command when it is written in full.
pub fn blkproof_cli(data: &[u8]) {
    match read(words(data)) {
        Ok(command) => understood(&command),
        Err(refusal) => refused(refusal.exit_code(), &refusal.to_string()),
    }
}

/// Reads what follows the program's name.
pub fn read(words: impl Iterator<Item = OsString>) -> Result<Command, Refusal> {
    understand(std::iter::once(OsString::from("blkproof")).chain(words))
}

/// Panics unless the command is one that may be carried out.
pub fn understood(command: &Command) {
    match command {
        Command::Add(add) => {
            in_range(add);
            plan(add);
        }
        Command::Resize { size, .. } => size.iter().for_each(|size| device_size(*size)),
        Command::Del(DelCommand { which: DelOptions { id, all }, .. }) => {
            assert!(*all != id.is_some(), "one device, or all of them");
        }
        Command::List(_)
        | Command::Recover { .. }
        | Command::Handover { .. }
        | Command::Features { .. }
        | Command::Dump { .. }
        | Command::Supervise { .. }
        | Command::Work { .. } => {}
    }
    match read(in_full(command).into_iter()) {
        Ok(again) => assert_eq!(&again, command, "written in full it is the same command"),
        Err(refusal) => panic!("written in full it is none: {command:?}: {refusal}"),
    }
}

/// Panics unless a refusal says something, and is one: help alone is no error.
pub fn refused(exit_code: u8, text: &str) {
    assert!(!text.trim().is_empty(), "a refusal says something");
    let helps = text.contains("Usage: blkproof") || text.starts_with("blkproof ");
    assert!(exit_code == 2 || (exit_code == 0 && helps), "exit code {exit_code}: {text}");
}

fn device_size(bytes: u64) {
    assert!(bytes > 0 && bytes.is_multiple_of(BLOCK), "a size of {bytes} bytes");
    assert!(i64::try_from(bytes).is_ok(), "a size of {bytes} bytes");
}

fn in_range(add: &Add) {
    let AddOptions { id, queues, depth, buffer, .. } = *add.options();
    match add {
        Add::Null { size, .. } | Add::Mem { size, .. } => device_size(*size),
        Add::Loop { file, .. } => assert!(!file.as_os_str().is_empty(), "a file has a name"),
    }
    assert!(id.is_none_or(|id| id < ID_END), "number {id:?}");
    assert!((1..=COUNT_MAX).contains(&queues), "{queues} queues");
    assert!((1..=COUNT_MAX).contains(&depth), "depth {depth}");
    let [least, most] = BUFFER;
    assert!((least..=most).contains(&buffer) && buffer.is_multiple_of(least), "buffer {buffer}");
}

/// The engine begins with what was asked for; of a file's device only the file knows the size.
fn plan(add: &Add) {
    let bytes = match add {
        Add::Null { size, .. } | Add::Mem { size, .. } => *size,
        Add::Loop { .. } => BLOCK,
    };
    let target = match add {
        Add::Null { .. } => TargetSpec::Null { bytes },
        Add::Mem { .. } => TargetSpec::Mem { bytes },
        Add::Loop { file, .. } => TargetSpec::Loop {
            file: file.clone(),
            bytes,
            logical_bs_shift: 9,
            discard: true,
            zeroes: true,
        },
    };
    let options = add.options();
    let task = options.task(target, 7, None, None);
    assert!(task.target.target().serves_in(task.data), "{task:?}");
    let _supervisor = Supervisor::new(task.plan(None), Deadlines::DEFAULT);
}

/// A command line that means this command, with nothing left to defaults.
fn in_full(command: &Command) -> Vec<OsString> {
    let mut line = Line::default();
    match command {
        Command::Add(add) => add_in_full(&mut line, add),
        Command::List(ListOptions { id, json }) => {
            line.word("list").maybe("--id", *id).flag("--json", *json);
        }
        Command::Del(DelCommand { which: DelOptions { id, all }, if_unused }) => {
            line.word("del").flag("--all", *all).flag("--if-unused", *if_unused);
            line.operands(id);
        }
        Command::Recover { id } => line.word("recover").operands([id]),
        Command::Handover { id } => line.word("handover").operands([id]),
        Command::Resize { id, size } => line.word("resize").maybe("--size", *size).operands([id]),
        Command::Features { json } => {
            line.word("features").flag("--json", *json);
        }
        Command::Dump { id, json } => line.word("dump").flag("--json", *json).operands([id]),
        Command::Supervise { task } => line.word("__supervise").operands([task]),
        Command::Work { order } => line.word("__work").operands([order]),
    }
    line.0
}

fn add_in_full(line: &mut Line, add: &Add) {
    let AddOptions {
        id,
        queues,
        depth,
        buffer,
        data,
        batch,
        shared,
        recovery,
        restart,
        foreground,
        record,
    } = add.options();
    line.word("add");
    match add {
        Add::Null { size, .. } => line.word("null").option("--size", size.to_string()),
        Add::Mem { size, .. } => line.word("mem").option("--size", size.to_string()),
        Add::Loop { .. } => line.word("loop"),
    };
    line.maybe("--id", *id)
        .maybe("--queues", Some(queues))
        .maybe("--depth", Some(depth))
        .maybe("--buffer", Some(buffer))
        .option("--data", name(data))
        .flag("--batch", *batch)
        .flag("--restart", *restart)
        .flag("--foreground", *foreground);
    for (option, path) in [("--shared", shared), ("--record", record)] {
        if let Some(path) = path {
            line.option(option, path);
        }
    }
    if let Some(mode) = recovery {
        line.option("--recovery", name(mode));
    }
    if let Add::Loop { file, .. } = add {
        line.word("--").word(file);
    }
}

/// What a value is called on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A command line in the making.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn word(&mut self, word: impl Into<OsString>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn flag(&mut self, name: &str, given: bool) -> &mut Self {
        if given { self.word(name) } else { self }
    }

    /// As one word: the value may look like an option.
    fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value.into());
        self.word(word)
    }

    fn maybe(&mut self, name: &str, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.option(name, value.to_string()),
            None => self,
        }
    }

    fn operands(&mut self, operands: impl IntoIterator<Item = impl Display>) {
        self.word("--");
        self.0.extend(operands.into_iter().map(|operand| operand.to_string().into()));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::time::Duration;

    use super::*;
    use crate::{corpus, mutate};

    fn command(line: &str) -> Command {
        read(line.split(' ').map(OsString::from)).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// A command that no command line gives, made by hand: the target's checks see it.
    fn caught(line: &str, change: impl Fn(&mut Command)) {
        let mut command = command(line);
        understood(&command);
        change(&mut command);
        let panic = catch_unwind(|| understood(&command));
        assert!(panic.is_err(), "{command:?} was taken for a command");
    }

    fn options(command: &mut Command) -> &mut AddOptions {
        match command {
            Command::Add(
                Add::Null { options, .. } | Add::Mem { options, .. } | Add::Loop { options, .. },
            ) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_out_of_range_is_caught() {
        let line = "add mem --size 1M --data user-copy";
        caught(line, |command| options(command).queues = 0);
        caught(line, |command| options(command).depth = 4_097);
        caught(line, |command| options(command).buffer = 6 << 10);
        caught(line, |command| options(command).buffer = 64 << 20);
        caught(line, |command| options(command).id = Some(1 << 20));
        for wrong in [0, 1, 513, 1 << 63] {
            caught("resize 0 --size 1M", |command| {
                let Command::Resize { size, .. } = command else { panic!("{command:?}") };
                *size = Some(wrong);
            });
        }
        caught("del 0", |command| {
            let Command::Del(del) = command else { panic!("{command:?}") };
            del.which.all = true;
        });
    }

    /// Nothing but writing it again tells that these do not go together.
    #[test]
    fn what_does_not_go_together_is_caught() {
        caught("add null", |command| options(command).restart = true);
        caught("add null --data get-data", |command| options(command).batch = true);
        caught("add null --data get-data", |command| {
            options(command).shared = Some("lent".into());
        });
        caught("add mem --size 1M", |command| {
            options(command).data = blkproof::cli::Data::ZeroCopy;
        });
    }

    #[test]
    fn a_refusal_that_is_none_is_caught() {
        refused(2, "error: no");
        refused(0, "Usage: blkproof");
        for (exit_code, text) in [(2, " \n"), (0, "error: no"), (1, "error: no")] {
            assert!(catch_unwind(|| refused(exit_code, text)).is_err(), "{exit_code} {text:?}");
        }
    }

    /// The corpus leads through the parser to commands that no line of it is.
    #[test]
    fn a_panic_behind_the_parser_is_found() {
        fn planted(data: &[u8]) {
            if let Ok(Command::Add(add)) = read(words(data)) {
                assert!(add.options().depth != 6, "planted");
            }
        }
        let corpus: Vec<_> =
            corpus::of("blkproof-cli").into_iter().map(|(_, input)| input).collect();
        let hunted = mutate::hunt(planted, &corpus, 0, Duration::from_secs(60));
        let (input, message) = hunted.found.expect("the planted panic is found");
        assert!(message.contains("planted"), "{message}");
        assert!(!corpus.contains(&input));
        println!("after {} inputs", hunted.inputs);
    }
}
