//! Probabilistic concurrency testing over the sources of events.
//!
//! Burckhardt, Kothari, Musuvathi and Nagarakatte, *A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs*
//! (ASPLOS 2010): every source gets a random priority, the highest one moves, and at `depth - 1` random moments the one that
//! would move is put below all others. A bug that takes `depth` orderings is then found with a chance of at least
//! 1/(n·k^(depth-1)) for n sources and k decisions, however unlikely a fair coin makes it.
//!
//! Here a source is a thread, its task work, a command, a ring's end, an operation of the disk, a client, udev, or the operator. Sources come and
//! go, and time is a new one each time that it passes, as timers have nothing to do with each other. Two rules keep runs possible, and
//! go beyond the paper: who can move is overtaken by time a few times only (a thread is late, not absent), and nobody waits for
//! longer than a run usually is while others spin.

use std::collections::BTreeMap;

use crate::choices::{Choices, Site, TIME};
use crate::drivers::Random;

/// Initial priorities begin here; those that were lowered at a moment of change lie between 1 and the depth, and those of
/// who kept others waiting below 0.
const INITIAL: i64 = 1 << 32;
/// Timers that may fire while somebody could have moved, in all.
const OVERTAKEN_MAX: u64 = 4;
/// Decisions that everybody may have to wait for, however short runs are.
const WAIT_MIN: u64 = 64;

/// Priorities decide who moves; everything else is as from [`Random`].
#[derive(Clone, Debug)]
pub struct Pct {
    random: Random,
    /// Of every source met so far; the highest moves.
    priorities: BTreeMap<u64, i64>,
    /// Moments of change that are still to come, the last one first: the decision, counted from 0, and the new priority.
    changes: Vec<(u64, i64)>,
    decisions: u64,
    /// How often time passed.
    fired: u64,
    /// Decisions after which whoever keeps a source waiting is put below all others.
    wait_max: u64,
    /// The lowest priority given so far, at most 0.
    lowest: i64,
    /// Who can move, in the order of the choice.
    enabled: Vec<Waiting>,
    /// Who could at the decision before.
    before: Vec<Waiting>,
}

/// A source that can move, and since when it could and did not.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    source: u64,
    decision: u64,
    fired: u64,
}

impl Pct {
    /// Priorities from a seed, changed `depth - 1` times within the first `length` decisions. Both count as 1 if they are 0.
    pub fn new(seed: u64, depth: u8, length: u64) -> Self {
        let mut random = Random::new(seed);
        let mut changes: Vec<(u64, i64)> = (1..i64::from(depth.max(1)))
            .map(|priority| {
                let draw = u128::from(random.draw(Site::Schedule)) * u128::from(length.max(1));
                ((draw >> 32) as u64, priority)
            })
            .collect();
        changes.sort_unstable_by(|one, other| other.cmp(one));
        Self {
            random,
            priorities: BTreeMap::new(),
            changes,
            decisions: 0,
            fired: 0,
            wait_max: length.max(WAIT_MIN),
            lowest: 0,
            enabled: Vec::new(),
            before: Vec::new(),
        }
    }

    /// Who can move now, and since when.
    fn look(&mut self, n: u32, source: &dyn Fn(u32) -> u64) {
        std::mem::swap(&mut self.enabled, &mut self.before);
        self.enabled.clear();
        for index in 0..n {
            let source = source(index);
            let known = self.before.iter().find(|one| one.source == source);
            let new = Waiting { source, decision: self.decisions, fired: self.fired };
            self.enabled.push(known.copied().unwrap_or(new));
        }
    }

    /// The index of the one with the highest priority; of equals the first. Time is none of them where it has overtaken somebody too often.
    fn first(&mut self) -> usize {
        let Self { random, priorities, enabled, fired, .. } = self;
        let late =
            enabled.iter().any(|one| one.source & TIME == 0 && *fired - one.fired >= OVERTAKEN_MAX);
        let mut first = (0, i64::MIN);
        for (index, Waiting { source, .. }) in enabled.iter().enumerate() {
            let priority = *priorities
                .entry(*source)
                .or_insert_with(|| INITIAL + i64::from(random.draw(Site::Schedule)));
            let may = source & TIME == 0 || !late;
            if may && priority > first.1 {
                first = (index, priority);
            }
        }
        first.0
    }

    fn lower(&mut self, index: usize, priority: i64) {
        self.priorities.insert(self.enabled[index].source, priority);
    }
}

impl Choices for Pct {
    fn choose(&mut self, site: Site, n: u32) -> u32 {
        self.random.choose(site, n)
    }

    fn schedule(&mut self, n: u32, source: &dyn Fn(u32) -> u64) -> u32 {
        self.look(n, source);
        let mut first = self.first();
        let decisions = self.decisions;
        while let Some((_, priority)) = self.changes.pop_if(|(at, _)| *at <= decisions) {
            self.lower(first, priority);
            first = self.first();
        }
        let oldest = self.enabled.iter().map(|one| one.decision).min().unwrap_or(decisions);
        if decisions - oldest >= self.wait_max && self.enabled[first].decision != oldest {
            self.lowest -= 1;
            self.lower(first, self.lowest);
            first = self.first();
        }
        self.decisions += 1;
        self.fired += u64::from(self.enabled[first].source & TIME != 0);
        let moved = &mut self.enabled[first];
        (moved.decision, moved.fired) = (self.decisions, self.fired);
        first as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(pct: &mut Pct, steps: u32) -> Vec<u32> {
        (0..steps).map(|_| pct.schedule(3, &|index| u64::from(index) + 10)).collect()
    }

    #[test]
    fn the_highest_moves_until_a_change() {
        for seed in 0..200 {
            let order = order(&mut Pct::new(seed, 1, 20), 20);
            assert!(order.iter().all(|who| *who == order[0]), "depth 1 changes nothing: {order:?}");
            let order = self::order(&mut Pct::new(seed, 3, 20), 30);
            let switches = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(switches <= 2, "depth 3 changes twice at most: {order:?}");
        }
    }

    #[test]
    fn every_source_is_first_now_and_then_and_changes_fall_everywhere() {
        let (mut firsts, mut moments) = ([0; 3], [0; 4]);
        for seed in 0..1_000 {
            let order = order(&mut Pct::new(seed, 2, 40), 40);
            firsts[order[0] as usize] += 1;
            if let Some(at) = order.windows(2).position(|pair| pair[0] != pair[1]) {
                moments[at / 10] += 1;
            }
        }
        assert!(firsts.iter().all(|count| *count > 250), "{firsts:?}");
        assert!(moments.iter().all(|count| *count > 150), "{moments:?}");
    }

    #[test]
    fn nobody_waits_longer_than_a_run_and_a_few_moves() {
        let order = order(&mut Pct::new(1, 1, 100), 1_000);
        for who in 0..3 {
            let mut last = 0;
            for at in (0..1_000).filter(|at| order[*at] == who) {
                assert!(at - last <= 104, "{who} moves at {last} and then at {at}");
                last = at;
            }
            assert!(last > 800, "{who} moved last at {last}");
        }
    }

    #[test]
    fn time_overtakes_a_few_times_only() {
        for seed in 0..100 {
            let mut pct = Pct::new(seed, 3, 50);
            let (mut fired, mut in_a_row) = (0, 0);
            for _ in 0..200 {
                let source = |index| if index == 0 { 1 } else { TIME | fired };
                let time = pct.schedule(2, &source) == 1;
                in_a_row = if time { in_a_row + 1 } else { 0 };
                fired += u64::from(time);
                assert!(in_a_row <= OVERTAKEN_MAX, "seed {seed}");
            }
        }
    }

    #[test]
    fn other_sites_are_as_of_the_seed() {
        let (mut pct, mut random) = (Pct::new(9, 3, 100), Random::new(9));
        for site in crate::drivers::SITES.into_iter().filter(|site| *site != Site::Schedule) {
            assert_eq!(pct.choose(site, 1000), random.choose(site, 1000));
        }
    }
}
