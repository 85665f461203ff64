//! Tapes: the choices of a run as a text that can be kept, compared and replayed.
//!
//! A header of `key: value` lines (format, configuration, what was found), an empty line, then the choices, a few to a
//! line: `s2/5` is alternative 2 of 5 at the site with the letter `s`, `s0/3x12` the same twelve times.

use std::fmt::Write as _;

use crate::choices::Site;
use crate::config::Config;
use crate::describe::{config_lines, read_config_line, validate};
use crate::drivers::{Choice, SITES, stream};
use crate::outcome::Verdict;

/// The first line of every tape.
const FORMAT: &str = "blkproof-tape: 1";
/// The letters of the sites, in the order of their streams.
const LETTERS: [char; SITES.len()] = ['s', 'b', 'i', 'd', 'f', 'c', 't', 'a'];
/// Choices written on one line.
const PER_LINE: usize = 16;
/// A tape with more choices is not one of ours. It also bounds what a short text with repeats can make us allocate.
const CHOICES_MAX: usize = 10_000_000;
/// What a tape cannot do without.
const REQUIRED: [&str; 3] = ["subject", "verdict", "hash"];

/// A recorded run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tape {
    /// What ran.
    pub config: Config,
    /// The seed it was recorded from, if it was.
    pub seed: Option<u64>,
    /// What made the choices of that seed, for people; empty for choices at random in the configuration as it was given.
    pub driver: String,
    /// The version of blkproof that recorded it; empty if it does not say.
    pub version: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The rolling hash of the run.
    pub hash: u64,
    /// Every choice.
    pub choices: Vec<Choice>,
}

/// A text that is not a tape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TapeError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

impl std::fmt::Display for TapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for TapeError {}

impl Tape {
    /// Writes it.
    pub fn to_text(&self) -> String {
        let mut text = format!("{FORMAT}\n");
        if !self.version.is_empty() {
            let _ = writeln!(text, "recorded-by: {}", self.version);
        }
        for (key, value) in config_lines(&self.config) {
            let _ = writeln!(text, "{key}: {value}");
        }
        if let Some(seed) = self.seed {
            let _ = writeln!(text, "seed: {seed}");
        }
        if !self.driver.is_empty() {
            let _ = writeln!(text, "driver: {}", self.driver);
        }
        let _ = writeln!(text, "verdict: {}", self.verdict.name());
        let _ = writeln!(text, "hash: {:016x}", self.hash);
        let mut written = 0;
        let mut rest = &self.choices[..];
        while let Some(first) = rest.first() {
            let repeats = rest.iter().take_while(|choice| *choice == first).count();
            text.push(if written % PER_LINE == 0 { '\n' } else { ' ' });
            let _ = write!(text, "{}{}/{}", LETTERS[stream(first.site)], first.value, first.n);
            if repeats > 1 {
                let _ = write!(text, "x{repeats}");
            }
            written += 1;
            rest = &rest[repeats..];
        }
        text.push('\n');
        text
    }

    /// Reads one.
    ///
    /// # Errors
    /// Names the first line that is not as it should be.
    pub fn from_text(text: &str) -> Result<Self, TapeError> {
        let error = |line: usize, problem: String| TapeError { line: line + 1, problem };
        let mut tape = Self {
            config: Config::engine(),
            seed: None,
            driver: String::new(),
            version: String::new(),
            verdict: Verdict::Clean,
            hash: 0,
            choices: Vec::new(),
        };
        let mut seen: Vec<&str> = Vec::new();
        let mut header_end = 0;
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, line)) if line == FORMAT => {}
            Some((number, line)) => {
                let start: String = line.chars().take(40).collect();
                return Err(error(number, format!("expected {FORMAT:?}, got {start:?}")));
            }
            None => return Err(error(0, "the file is empty".to_owned())),
        }
        for (number, line) in lines.by_ref() {
            header_end = number;
            if line.is_empty() {
                break;
            }
            let (key, value) = line
                .split_once(": ")
                .ok_or_else(|| error(number, "expected \"key: value\"".to_owned()))?;
            let bad = |what: &str| error(number, format!("{value:?} is no {what}"));
            if seen.contains(&key) {
                return Err(error(number, format!("{key:?} stands there twice")));
            }
            seen.push(key);
            match key {
                "recorded-by" => value.clone_into(&mut tape.version),
                "driver" => value.clone_into(&mut tape.driver),
                "seed" => tape.seed = Some(value.parse().map_err(|_| bad("seed"))?),
                "verdict" => {
                    tape.verdict = Verdict::from_name(value).ok_or_else(|| bad("verdict"))?;
                }
                "hash" => tape.hash = u64::from_str_radix(value, 16).map_err(|_| bad("hash"))?,
                _ => match read_config_line(&mut tape.config, key, value) {
                    Ok(true) => {}
                    Ok(false) => return Err(error(number, format!("unknown key {key:?}"))),
                    Err(unknown) => return Err(error(number, unknown.to_string())),
                },
            }
        }
        if let Some(missing) = REQUIRED.into_iter().find(|key| !seen.contains(key)) {
            return Err(error(header_end, format!("the header has no \"{missing}: …\"")));
        }
        validate(&tape.config).map_err(|unknown| error(0, unknown.to_string()))?;
        for (number, line) in lines {
            for word in line.split_whitespace() {
                let (choice, repeats) = read_choice(word)
                    .ok_or_else(|| error(number, format!("{word:?} is no choice")))?;
                if repeats > CHOICES_MAX - tape.choices.len() {
                    return Err(error(number, format!("more than {CHOICES_MAX} choices")));
                }
                tape.choices.extend(std::iter::repeat_n(choice, repeats));
            }
        }
        Ok(tape)
    }
}

/// Reads `s2/5` or `s2/5x12`.
fn read_choice(word: &str) -> Option<(Choice, usize)> {
    let mut chars = word.chars();
    let letter = chars.next()?;
    let site: Site = SITES[LETTERS.iter().position(|known| *known == letter)?];
    let (value, rest) = chars.as_str().split_once('/')?;
    let (n, repeats) = rest.split_once('x').unwrap_or((rest, "1"));
    let choice = Choice { site, n: n.parse().ok()?, value: value.parse().ok()? };
    let repeats = repeats.parse().ok()?;
    (choice.n >= 2 && choice.value < choice.n && repeats > 0).then_some((choice, repeats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tape(choices: Vec<Choice>) -> Tape {
        Tape {
            config: Config::engine(),
            seed: Some(7),
            driver: String::new(),
            version: "0.1.0".to_owned(),
            verdict: Verdict::Deadlock,
            hash: 0xab,
            choices,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn reads_back(raw in proptest::collection::vec((0usize..7, 2u32..300, any::<u32>(), 1usize..4), 0..60)) {
            let choices = raw.iter().flat_map(|(site, n, value, repeats)| {
                std::iter::repeat_n(Choice { site: SITES[*site], n: *n, value: value % n }, *repeats)
            }).collect();
            let tape = tape(choices);
            prop_assert_eq!(Tape::from_text(&tape.to_text()), Ok(tape));
        }

        #[test]
        fn garbage_is_refused_not_panicked_at(text in any::<String>(), body in "[sbidfct0-9/x \n]{0,80}") {
            prop_assert!(Tape::from_text(&text).is_err());
            let _ = Tape::from_text(&format!("{FORMAT}\nsubject: engine\nverdict: clean\nhash: 0\n\n{body}"));
        }
    }

    #[test]
    fn says_which_line_is_wrong() {
        let good = tape(vec![Choice { site: Site::Fault, n: 256, value: 1 }; 3]).to_text();
        assert!(good.ends_with("\n\nf1/256x3\n"), "{good}");
        for (wrong, line) in [
            (good.replace("queues: 2", "queues: 9"), "line 1: unknown number of queues"),
            (good.replace("queues: 2", "queues: two"), "line 4: unknown number"),
            (good.replace("seed: 7", "sed: 7"), "line 18: unknown key \"sed\""),
            (good.replace("seed: 7", "hash: 7"), "line 20: \"hash\" stands there twice"),
            (good.replace("deadlock", "maybe"), "line 19: \"maybe\" is no verdict"),
            (good.replace("subject: engine\n", ""), "line 20: the header has no \"subject: "),
            (good.replace("f1/256", "f256/256"), "line 22: \"f256/256x3\" is no choice"),
            (good.replace("x3", "x99999999999"), "line 22: more than"),
        ] {
            let error = Tape::from_text(&wrong).unwrap_err().to_string();
            assert!(error.starts_with(line), "{error}");
        }
    }
}
