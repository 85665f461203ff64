//! Everything that a world can come to when nobody outside does anything more.

use std::collections::BTreeSet;

use super::{Run, Sabotage, steps};
use crate::choices::{Choices, Site};
use crate::config::Config;
use crate::world::World;

/// Answers every question in every way, one way after another.
struct Odometer {
    /// Answer, and how many there are, of each question in the order in which they are asked.
    wheels: Vec<(u32, u32)>,
    asked: usize,
}

impl Choices for Odometer {
    fn choose(&mut self, _site: Site, n: u32) -> u32 {
        if self.asked == self.wheels.len() {
            self.wheels.push((0, n));
        }
        let (answer, of) = self.wheels[self.asked];
        assert_eq!(of, n, "the same answers lead to the same questions");
        self.asked += 1;
        answer
    }
}

impl Odometer {
    /// Turns to the next way; false after the last.
    fn turn(&mut self) -> bool {
        self.asked = 0;
        while let Some((answer, n)) = self.wheels.pop() {
            if answer + 1 < n {
                self.wheels.push((answer + 1, n));
                return true;
            }
        }
        false
    }
}

/// Whose kernel, and what is wrong with the model of it.
pub(crate) type Rules<'a> = (&'a Config, Option<Sabotage>);

/// What `act` makes of a world, for every answer to every question it asks.
pub(crate) fn outcomes(
    world: &World,
    (config, sabotage): Rules<'_>,
    act: impl Fn(&mut World, &mut Run<'_>),
) -> Vec<World> {
    let mut odometer = Odometer { wheels: Vec::new(), asked: 0 };
    let mut worlds = Vec::new();
    loop {
        let mut next = world.clone();
        let mut run = Run::new(config, &mut odometer, sabotage);
        act(&mut next, &mut run);
        next.settle_device(&mut run);
        worlds.push(next);
        if !odometer.turn() {
            return worlds;
        }
    }
}

/// Every world at rest that these worlds can come to by steps of their own: nothing can move, and only time could pass.
///
/// # Panics
/// Beyond `worlds_max` worlds: the situation is too large to be explored.
pub(crate) fn at_rest(from: Vec<World>, rules: Rules<'_>, worlds_max: usize) -> Vec<World> {
    let mut seen = BTreeSet::new();
    let mut open = from;
    let mut rest = Vec::new();
    let mut enabled = Vec::new();
    while let Some(world) = open.pop() {
        if !seen.insert(world.fingerprint()) {
            continue;
        }
        assert!(seen.len() <= worlds_max, "more than {worlds_max} worlds in one step of a script");
        steps::collect(&world, &mut enabled);
        if enabled.is_empty() || world.doomed {
            rest.push(world);
            continue;
        }
        for &step in &enabled {
            open.extend(outcomes(&world, rules, |world, run| steps::take(world, run, step)));
        }
    }
    rest
}
