//! A script that differs on a real kernel, made shorter on that kernel.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blkproof_sim::script::model::is_dangerous;
use blkproof_sim::script::shrink::Shrinking;

use super::{Model, Named, share, step};
use crate::error::{Attempt, Result};
use crate::plan::Step;
use crate::protocol::StepRecord;
use crate::session::{INTERRUPTED, Progress, Session};

/// Nothing is told of the guests: there are many, and each does little.
struct Silent;

impl Progress for Silent {
    fn note(&self, _text: &str) {}
    fn started(&self, _name: &str) {}
    fn ended(&self, _record: &StepRecord) {}
}

/// Where and for how long.
pub(super) struct Shrink<'a, S> {
    pub(super) model: Model,
    /// Makes a session for a guest.
    pub(super) session: S,
    pub(super) jobs: u16,
    pub(super) time: Duration,
    /// Where the script goes, and how to carry it out again.
    pub(super) dir: PathBuf,
    pub(super) kernel: &'a str,
}

impl<'s, S: Fn(u16) -> Result<Session<'s>>> Shrink<'_, S> {
    /// Looks for the shortest script that still differs, and says so. The script is known to differ after a step, counted from 1.
    pub(super) fn run(&self, differs: &Named, at: u16) -> Result<()> {
        let begun = Instant::now();
        let mut shrinking = Shrinking::new(&differs.script, at);
        println!("       making {} shorter, for at most {} s", differs.name, self.time.as_secs());
        let mut whole = true;
        loop {
            let candidates = shrinking.candidates();
            if candidates.is_empty() {
                break;
            }
            if begun.elapsed() > self.time || INTERRUPTED.load(Ordering::Relaxed) {
                whole = false;
                break;
            }
            let candidates: Vec<Named> = (1..)
                .zip(candidates)
                .map(|(nth, script)| Named { name: format!("shorter-{nth}"), script })
                // One that crashes a kernel shows no difference any more.
                .filter(|one| !is_dangerous(&one.script, self.model.series))
                .collect();
            let found = self.first_that_differs(&candidates)?;
            shrinking.learn(found.map(|(named, at)| (&named.script, at)));
            let (steps, tried) = (shrinking.shortest().steps.len(), candidates.len());
            println!("       {steps} steps differ; {tried} scripts tried");
        }
        let text = format!(
            "# What is left of {}: the kernel and the model differ after the last step.\n{}",
            differs.name,
            shrinking.shortest()
        );
        let path = self.dir.join(format!("{}.script", differs.name));
        fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&path, &text))
            .attempting(|| format!("write {}", path.display()))?;
        let end = if whole { "without any one of them it does not" } else { "it was not done" };
        println!(
            "       {} of {} steps differ, {end}:",
            shrinking.shortest().steps.len(),
            differs.script.steps.len()
        );
        for line in text.lines() {
            println!("         {line}");
        }
        println!(
            "       again: vm-harness conformance --kernel {} --only {}",
            self.kernel,
            path.display()
        );
        Ok(())
    }

    /// The candidates are carried out in guests, side by side, no more of them than needed to find one that differs.
    fn first_that_differs<'c>(&self, candidates: &'c [Named]) -> Result<Option<(&'c Named, u16)>> {
        // What differs is seldom among the last: a guest is given few at a time.
        let few = usize::from(self.jobs) * 6;
        for candidates in candidates.chunks(few) {
            let steps: Vec<Step> = candidates.iter().map(step).collect();
            let sessions: Vec<Session<'s>> =
                (1..=self.jobs).map(&self.session).collect::<Result<_>>()?;
            let ran = share(&steps, sessions, |session, share| session.run(share, &Silent));
            if let Some(error) = ran.error {
                return Err(error);
            }
            let found = candidates
                .iter()
                .zip(&ran.records)
                .find_map(|(named, record)| Some((named, self.model.differs(named, record)?)));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
