//! The waits of an outcome as one chain: a cycle, or the way to somebody who owes something and will not deliver.

use crate::outcome::{Outcome, Wait};

/// Who waits for whom, in short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Actors, as indices into [`Outcome::actors`]; each waits for the next. In a cycle the last is the first again.
    pub actors: Vec<usize>,
    /// How it ends.
    pub end: End,
}

/// How a chain of waits ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Where it began: nobody in it can leave it.
    Cycle,
    /// At somebody who waits for nothing and still does not deliver; why, if that is known.
    Debtor(String),
    /// At somebody who waits for what nobody owes; what that is.
    Nobody(String),
}

/// The first cycle there is, else the longest chain. `None` if the waits say it all: nobody waits for somebody who waits.
pub fn chain(outcome: &Outcome) -> Option<Chain> {
    let waits = &outcome.waits;
    let mut left = vec![false; outcome.actors.len()];
    for wait in waits {
        if let Some(actors) = cycle(waits, wait.actor, &mut Vec::new(), &mut left) {
            return Some(Chain { actors, end: End::Cycle });
        }
    }
    // No cycle: every way ends.
    let mut longest = vec![None; outcome.actors.len()];
    let mut best: &[usize] = &[];
    for wait in waits {
        follow(waits, wait.actor, &mut longest);
    }
    for wait in waits {
        let path = longest[wait.actor].as_deref().unwrap_or_default();
        if path.len() > best.len() {
            best = path;
        }
    }
    let mut actors: Vec<usize> = best.iter().map(|wait| waits[*wait].actor).collect();
    let last = &waits[*best.last()?];
    actors.extend(last.owner);
    let end = match last.owner {
        Some(_) => End::Debtor(last.because.clone()),
        None => End::Nobody(last.awaits.clone()),
    };
    (best.len() > 1).then_some(Chain { actors, end })
}

/// A cycle that `actor` leads into. `left` marks those who lead into none.
fn cycle(
    waits: &[Wait],
    actor: usize,
    path: &mut Vec<usize>,
    left: &mut [bool],
) -> Option<Vec<usize>> {
    if let Some(from) = path.iter().position(|known| *known == actor) {
        return Some(path[from..].iter().copied().chain([actor]).collect());
    }
    if left[actor] {
        return None;
    }
    path.push(actor);
    let owners = waits.iter().filter(|wait| wait.actor == actor).filter_map(|wait| wait.owner);
    let found = owners.into_iter().find_map(|owner| cycle(waits, owner, path, left));
    path.pop();
    left[actor] = true;
    found
}

/// Fills in the longest chain from `actor`, as indices of waits. There must be no cycle.
fn follow(waits: &[Wait], actor: usize, longest: &mut [Option<Vec<usize>>]) {
    if longest[actor].is_some() {
        return;
    }
    let mut best = Vec::new();
    for (index, wait) in waits.iter().enumerate().filter(|(_, wait)| wait.actor == actor) {
        let mut path = vec![index];
        if let Some(owner) = wait.owner {
            follow(waits, owner, longest);
            path.extend(longest[owner].iter().flatten());
        }
        if path.len() > best.len() {
            best = path;
        }
    }
    longest[actor] = Some(best);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Actor, Verdict};

    fn outcome(waits: &[(usize, Option<usize>)]) -> Outcome {
        let waits = waits.iter().map(|(actor, owner)| Wait {
            actor: *actor,
            awaits: format!("what {actor} wants"),
            owner: *owner,
            because: format!("because of {actor}"),
        });
        Outcome {
            verdict: Verdict::Deadlock,
            oracle: String::new(),
            finding: String::new(),
            steps: 0,
            time_us: 0,
            hash: 0,
            actors: (0..8).map(|actor| Actor { name: actor.to_string() }).collect(),
            timeline: Vec::new(),
            waits: waits.collect(),
        }
    }

    fn of(waits: &[(usize, Option<usize>)]) -> Option<(Vec<usize>, End)> {
        chain(&outcome(waits)).map(|chain| (chain.actors, chain.end))
    }

    #[test]
    fn ends_at_who_owes_and_does_not_wait() {
        let debtor = |actor: u8| End::Debtor(format!("because of {actor}"));
        assert_eq!(of(&[(0, Some(1)), (1, Some(2))]), Some((vec![0, 1, 2], debtor(1))));
        assert_eq!(
            of(&[(5, Some(1)), (1, Some(2)), (0, Some(5)), (1, None)]),
            Some((vec![0, 5, 1, 2], debtor(1))),
            "the longest, and of two waits of one actor the first"
        );
    }

    #[test]
    fn ends_at_what_nobody_owes() {
        let end = End::Nobody("what 3 wants".to_owned());
        assert_eq!(of(&[(2, Some(3)), (3, None)]), Some((vec![2, 3], end)));
    }

    #[test]
    fn a_cycle_comes_before_everything_else() {
        let waits = [(0, Some(1)), (1, Some(2)), (2, Some(3)), (4, Some(5)), (5, Some(4))];
        assert_eq!(of(&waits), Some((vec![4, 5, 4], End::Cycle)));
        assert_eq!(of(&[(0, Some(1)), (1, Some(1))]), Some((vec![1, 1], End::Cycle)));
        let second = [(0, Some(1)), (1, None), (1, Some(0))];
        assert_eq!(of(&second), Some((vec![0, 1, 0], End::Cycle)), "behind a second wait");
    }

    #[test]
    fn a_single_wait_is_no_chain() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(0, None), (1, Some(2))]), None);
    }
}
