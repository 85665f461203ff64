//! A run that is watched from outside, step by step.

use super::Run;

impl Run<'_> {
    /// The first rule that was broken, if one was.
    pub(crate) fn broken(&self) -> Option<(&'static str, String)> {
        let violation = self.violation.borrow();
        violation.as_ref().map(|violation| (violation.oracle, violation.text.clone()))
    }

    /// Keeps the last `count` visible steps of the timeline, once there are many more.
    pub(crate) fn forget_all_but(&mut self, count: usize) {
        if self.timeline.len() > 16 * count {
            self.timeline.drain(..self.timeline.len() - count);
        }
    }

    /// The last `count` visible steps.
    pub(crate) fn last_steps(&self, count: usize) -> Vec<String> {
        let from = self.timeline.len().saturating_sub(count);
        let steps = self.timeline[from..].iter();
        steps.map(|step| format!("{}: {}", self.actors[step.actor].name, step.text)).collect()
    }
}
