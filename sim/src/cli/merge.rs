//! `sim merge`.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::json;

use super::hunt::hazards_text;
use super::print::print;
use super::{Failure, print_json};
use crate::outcome::Verdict;
use crate::results::{self, Merged};

/// Not every shard ended, and nothing was found so far.
const INCOMPLETE: u8 = 1;

/// Merges files of results, and prints what they come to.
pub(super) fn merge(files: &[PathBuf], json: bool) -> Result<u8, Failure> {
    let mut sections = Vec::new();
    for file in files {
        sections.extend(results::read(file).map_err(Failure)?);
    }
    let merged = results::merge(&sections).map_err(Failure)?;
    if json {
        print_json(&as_json(&merged))?;
    } else {
        print(&as_text(&merged))?;
    }
    let verdicts = merged.findings.iter().filter_map(|found| Verdict::from_name(&found.verdict));
    let code = verdicts.map(Verdict::exit_code).max().unwrap_or(0);
    Ok(if code == 0 && !merged.complete() { INCOMPLETE } else { code })
}

fn as_json(merged: &Merged) -> serde_json::Value {
    json!({
        "complete": merged.complete(),
        "schedules": merged.schedules,
        "found": merged.found,
        "hazards": merged.hazards,
        "findings": merged.findings,
        "shards": merged.header.as_ref().map(|header| header.shards),
        "missing": merged.missing,
        "unfinished": merged.unfinished,
        "interrupted": merged.interrupted,
        "doubled": merged.doubled,
        "header": merged.header,
    })
}

fn as_text(merged: &Merged) -> String {
    let mut text = String::new();
    if let Some(header) = &merged.header {
        let subject = header.config.get("subject").map_or("", String::as_str);
        let swarm =
            header.swarm.as_ref().map_or(String::new(), |swarm| format!(", swarm of {swarm}"));
        let _ = writeln!(
            text,
            "{subject}, {}{swarm}, {} from {} on, in {} shard(s), by blkproof {}",
            header.driver, header.extent, header.first_seed, header.shards, header.version
        );
    }
    let whole = if merged.complete() { "complete" } else { "NOT complete" };
    let _ = writeln!(
        text,
        "{whole}: {} schedules, {} not clean{}",
        merged.schedules,
        merged.found,
        hazards_text(&merged.hazards)
    );
    for (shards, what) in [
        (&merged.missing, "missing"),
        (&merged.unfinished, "began and did not end"),
        (&merged.interrupted, "interrupted"),
        (&merged.doubled, "ended more than once, and counted once"),
    ] {
        if !shards.is_empty() {
            let _ = writeln!(text, "{what}: shard {}", ranges(shards));
        }
    }
    for found in &merged.findings {
        let _ = writeln!(
            text,
            "\n{} ({}), seed {}: {}",
            found.verdict, found.oracle, found.seed, found.finding
        );
        if let Some(tape) = &found.tape {
            let _ = writeln!(text, "tape: {}", tape.display());
        }
    }
    text
}

/// Numbers in ascending order as `1, 3-5`.
fn ranges(numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            Some(_) | None => ranges.push((*number, *number)),
        }
    }
    let word = |(from, to): &(u64, u64)| {
        if from == to { from.to_string() } else { format!("{from}-{to}") }
    };
    ranges.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn neighbours_are_a_range() {
        assert_eq!(ranges(&[1, 3, 4, 5, 9]), "1, 3-5, 9");
    }
}
