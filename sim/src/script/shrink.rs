//! A script that differs, made shorter: what is left still differs.

use std::collections::BTreeMap;

use super::parse::well_formed;
use super::{Op, Script, Step};

/// The search for a shorter script: first without large parts, then without smaller ones, down to single steps. The caller
/// carries out the [candidates](Self::candidates) and says which one [still differs](Self::learn).
#[derive(Clone, Debug)]
pub struct Shrinking {
    shortest: Script,
    /// Steps that are left out at a time; 0 when none can be.
    part: usize,
}

impl Shrinking {
    /// Of a script that differs after this step, counted from 1: what comes later has nothing to do with it.
    pub fn new(script: &Script, step: u16) -> Self {
        let shortest = until(script, step);
        let part = shortest.steps.len() / 2;
        Self { shortest, part }
    }

    /// The shortest script so far that differs.
    pub const fn shortest(&self) -> &Script {
        &self.shortest
    }

    /// What to try next: the shortest so far without some of its steps, and without those that then make no sense. None when
    /// not one step can be left out.
    pub fn candidates(&self) -> Vec<Script> {
        let steps = self.shortest.steps.len();
        if self.part == 0 {
            return Vec::new();
        }
        let mut found: Vec<Script> = Vec::new();
        for first in (0..steps).step_by(self.part) {
            // The step after which it differs stays.
            let end = (first + self.part).min(steps - 1);
            let shorter = without(&self.shortest, first..end);
            if shorter.steps.len() < steps && !found.contains(&shorter) {
                found.push(shorter);
            }
        }
        found
    }

    /// One of the candidates differs, after this step; or none does.
    pub fn learn(&mut self, differs: Option<(&Script, u16)>) {
        match differs {
            Some((script, step)) => {
                self.shortest = until(script, step);
                self.part = self.part.min(self.shortest.steps.len() / 2).max(1);
            }
            None => self.part /= 2,
        }
    }
}

/// The beginning, to this step.
fn until(script: &Script, step: u16) -> Script {
    let mut script = script.clone();
    script.steps.truncate(usize::from(step));
    script
}

/// Leaves out a part. A step that speaks of an earlier one finds it under its new number.
fn without(script: &Script, part: std::ops::Range<usize>) -> Script {
    let mut numbers = BTreeMap::new();
    let mut shorter = Script { steps: Vec::new(), ..script.clone() };
    for (index, step) in script.steps.iter().enumerate() {
        if part.contains(&index) {
            continue;
        }
        let step = match step {
            Step::Do { actor, op: Op::Cancel { step } } => match numbers.get(step) {
                Some(&step) => Step::Do { actor: actor.clone(), op: Op::Cancel { step } },
                None => continue,
            },
            step => step.clone(),
        };
        shorter.steps.push(step);
        if well_formed(&shorter) {
            numbers.insert(index as u16 + 1, shorter.steps.len() as u16);
        } else {
            shorter.steps.pop();
        }
    }
    shorter
}

#[cfg(test)]
mod tests {
    use blkproof_engine::uapi::KernelSeries;

    use super::*;
    use crate::run::Sabotage;
    use crate::script::generate::generate;
    use crate::script::model::{check, played};

    /// Shrinks a script that differs on what stands for a kernel. Returns how many scripts it carried out, too.
    fn shrink(
        script: &Script,
        differs: impl Fn(&Script) -> Option<u16>,
    ) -> Option<(Script, usize)> {
        let mut shrinking = Shrinking::new(script, differs(script)?);
        let mut carried_out = 0;
        loop {
            let candidates = shrinking.candidates();
            if candidates.is_empty() {
                return Some((shrinking.shortest().clone(), carried_out));
            }
            carried_out += candidates.len();
            let found = candidates.iter().find_map(|one| differs(one).map(|step| (one, step)));
            shrinking.learn(found);
        }
    }

    /// A model with this error stands for the kernel.
    fn differs(script: &Script, planted: Sabotage) -> Option<u16> {
        let kernel = KernelSeries::V6_18;
        let trace = played(script, kernel, planted);
        check(script, kernel, &trace).err().map(|difference| difference.step)
    }

    #[test]
    fn every_script_that_a_planted_error_makes_differ_becomes_short_and_still_differs() {
        for planted in [Sabotage::WrongErrno, Sabotage::AnyoneCommits, Sabotage::EagerAbort] {
            let scripts = (0..400).map(|seed| generate(KernelSeries::V6_18, seed));
            let shrunk: Vec<(Script, usize)> =
                scripts.filter_map(|one| shrink(&one, |it| differs(it, planted))).collect();
            assert!(!shrunk.is_empty(), "{planted:?} shows in no script");
            for (script, carried_out) in shrunk {
                assert!(differs(&script, planted).is_some(), "{planted:?}:\n{script}");
                assert!(script.steps.len() <= 16, "{planted:?}:\n{script}");
                assert!(carried_out < 400, "{planted:?}: {carried_out} scripts");
                assert_eq!(script.to_string().parse::<Script>().as_ref(), Ok(&script));
            }
        }
    }

    #[test]
    fn a_cancel_follows_its_command_or_goes_with_it() {
        let text = "# t\nkernels 7.3\nprocess a\nctl: add queues=1 depth=1\nctl: start a\nctl: cancel 3\nctl: info\n";
        let script: Script = text.parse().expect("a script");
        let cancels = |script: &Script| {
            script.steps.iter().find_map(|step| match step {
                Step::Do { op: Op::Cancel { step }, .. } => Some(*step),
                _ => None,
            })
        };
        assert_eq!(cancels(&without(&script, 1..2)), Some(2));
        assert_eq!(cancels(&without(&script, 2..3)), None);
        // Nobody is left to be started.
        assert_eq!(without(&script, 0..1).steps.len(), 2);
    }
}
