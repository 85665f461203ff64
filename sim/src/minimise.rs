//! A shorter story with the same end: choices are set to the harmless alternative while the verdict stays.

use crate::config::Config;
use crate::drivers::{Choice, Recorder, SITES, Streams, stream};
use crate::outcome::Outcome;
use crate::run::run;

/// Steps of all runs together after which the shortest story so far is taken: some seconds. Runs that end with a bound missed are long.
const STEPS_MAX: u64 = 2_000_000;

/// The shortest story found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Story {
    /// Its choices, all of them.
    pub choices: Vec<Choice>,
    /// What it came to, with its timeline.
    pub outcome: Outcome,
    /// Runs made to find it.
    pub attempts: u32,
}

/// Shortens a run that was not clean, with at most `attempts_max` runs, and fewer if they are long. Deterministic. The verdict and the oracle stay.
pub fn minimise(config: &Config, choices: &[Choice], attempts_max: u32) -> Story {
    let config = Config { timeline: true, ..config.clone() };
    let mut values: [Vec<u32>; SITES.len()] = Default::default();
    for choice in choices {
        values[stream(choice.site)].push(choice.value);
    }
    let mut attempts = 1;
    let mut best = replay(&config, &values);
    let end = (best.1.verdict, best.1.oracle.clone());
    let mut size = cost(&best.1);
    let mut steps = best.1.steps;
    loop {
        let before = size;
        for site in 0..SITES.len() {
            // Spans from the whole stream down to single choices.
            let mut span = values[site].len().next_power_of_two();
            while span > 0 {
                let mut from = 0;
                while from < values[site].len() {
                    if attempts >= attempts_max || steps >= STEPS_MAX {
                        return Story { choices: best.0, outcome: best.1, attempts };
                    }
                    let to = (from + span).min(values[site].len());
                    let mut advanced = false;
                    for deleting in [true, false] {
                        let mut candidate = values.clone();
                        if deleting {
                            candidate[site].drain(from..to);
                        } else if candidate[site][from..to].iter().all(|value| *value == 0) {
                            continue;
                        } else {
                            candidate[site][from..to].fill(0);
                        }
                        attempts += 1;
                        let (choices, outcome) = replay(&config, &candidate);
                        steps += outcome.steps;
                        let same = (outcome.verdict, &outcome.oracle) == (end.0, &end.1);
                        let smaller = cost(&outcome);
                        if same && smaller < size {
                            size = smaller;
                            values = candidate;
                            best = (choices, outcome);
                            advanced = true;
                            break;
                        }
                    }
                    if !advanced {
                        from += span;
                    }
                }
                span /= 2;
            }
        }
        if size == before {
            return Story { choices: best.0, outcome: best.1, attempts };
        }
    }
}

fn replay(config: &Config, values: &[Vec<u32>; SITES.len()]) -> (Vec<Choice>, Outcome) {
    let mut recorder = Recorder::new(Streams::new(values));
    let outcome = run(config, &mut recorder);
    (recorder.choices, outcome)
}

/// Visible steps first, then all steps.
fn cost(outcome: &Outcome) -> (usize, u64) {
    (outcome.timeline.len(), outcome.steps)
}
