//! Where choices come from: a seed, a tape, another source that is being recorded.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::choices::{Choices, Site};

/// Every site, in the order of its stream.
pub const SITES: [Site; 8] = [
    Site::Schedule,
    Site::Submit,
    Site::Signal,
    Site::Delay,
    Site::Fault,
    Site::Client,
    Site::Tag,
    Site::Address,
];

/// The index of a site: its stream, and its letter on a tape.
pub const fn stream(site: Site) -> usize {
    match site {
        Site::Schedule => 0,
        Site::Submit => 1,
        Site::Signal => 2,
        Site::Delay => 3,
        Site::Fault => 4,
        Site::Client => 5,
        Site::Tag => 6,
        Site::Address => 7,
    }
}

/// One decision that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Choice {
    /// Where.
    pub site: Site,
    /// Out of how many; at least 2.
    pub n: u32,
    /// Which; below `n`.
    pub value: u32,
}

/// Choices from a seed: ChaCha8, each site its own stream, so that an additional choice at one site does not shift the
/// others. A draw of 32 bits is mapped to `0..n` by the high half of its product with `n`.
#[derive(Clone, Debug)]
pub struct Random([ChaCha8Rng; SITES.len()]);

impl Random {
    /// The choices of this seed.
    pub fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(SITES.map(|site| {
            let mut generator = ChaCha8Rng::from_seed(key);
            generator.set_stream(stream(site) as u64);
            generator
        }))
    }
}

impl Random {
    /// 32 bits of a site's stream.
    pub(crate) fn draw(&mut self, site: Site) -> u32 {
        self.0[stream(site)].next_u32()
    }
}

impl Choices for Random {
    fn choose(&mut self, site: Site, n: u32) -> u32 {
        ((u64::from(self.draw(site)) * u64::from(n)) >> 32) as u32
    }
}

/// Passes choices through and keeps them.
#[derive(Clone, Debug)]
pub struct Recorder<C> {
    source: C,
    /// What was chosen so far.
    pub choices: Vec<Choice>,
}

impl<C> Recorder<C> {
    /// Records what `source` chooses.
    pub const fn new(source: C) -> Self {
        Self { source, choices: Vec::new() }
    }

    /// The source.
    pub fn into_source(self) -> C {
        self.source
    }
}

impl<C: Choices> Choices for Recorder<C> {
    fn choose(&mut self, site: Site, n: u32) -> u32 {
        let value = self.source.choose(site, n);
        self.choices.push(Choice { site, n, value });
        value
    }

    fn schedule(&mut self, n: u32, source: &dyn Fn(u32) -> u64) -> u32 {
        let value = self.source.schedule(n, source);
        self.choices.push(Choice { site: Site::Schedule, n, value });
        value
    }

    fn fault(&mut self, rate: u8) -> u32 {
        let value = self.source.fault(rate);
        self.choices.push(Choice { site: Site::Fault, n: 256, value });
        value
    }
}

/// A replay that went astray: the run asked something else than the tape answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Misaligned {
    /// Which choice, counted from 0.
    pub at: usize,
    /// What the tape has there; `None` at its end.
    pub expected: Option<Choice>,
    /// What the run asked.
    pub asked: (Site, u32),
}

impl std::fmt::Display for Misaligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (site, n) = self.asked;
        write!(f, "misaligned at choice {}: the run chooses among {n} at {site:?}", self.at)?;
        match self.expected {
            Some(choice) => {
                write!(f, ", the tape has a choice among {} at {:?}", choice.n, choice.site)
            }
            None => f.write_str(", the tape has ended"),
        }
    }
}

/// Choices from a tape. After the first misalignment everything is answered with 0, and the misalignment is kept.
#[derive(Clone, Debug)]
pub struct Player<'a> {
    tape: &'a [Choice],
    next: usize,
    misaligned: Option<Misaligned>,
}

impl<'a> Player<'a> {
    /// Replays these choices.
    pub const fn new(tape: &'a [Choice]) -> Self {
        Self { tape, next: 0, misaligned: None }
    }

    /// The first misalignment; a tape with choices left over at the end of the run is one too.
    pub fn misaligned(&self) -> Option<Misaligned> {
        self.misaligned
    }

    /// Choices that the run did not ask for.
    pub fn left_over(&self) -> usize {
        self.tape.len() - self.next
    }
}

impl Choices for Player<'_> {
    fn choose(&mut self, site: Site, n: u32) -> u32 {
        if self.misaligned.is_some() {
            return 0;
        }
        match self.tape.get(self.next) {
            Some(choice) if choice.site == site && choice.n == n => {
                self.next += 1;
                choice.value
            }
            expected => {
                self.misaligned = Some(Misaligned {
                    at: self.next,
                    expected: expected.copied(),
                    asked: (site, n),
                });
                0
            }
        }
    }
}

/// Choices from values alone, a stream a site: what is left of a tape after some of its choices were changed. Values are
/// taken modulo `n`; after the end of a stream, 0.
#[derive(Clone, Debug)]
pub struct Streams<'a> {
    values: &'a [Vec<u32>; SITES.len()],
    next: [usize; SITES.len()],
}

impl<'a> Streams<'a> {
    /// Choices from these streams.
    pub const fn new(values: &'a [Vec<u32>; SITES.len()]) -> Self {
        Self { values, next: [0; SITES.len()] }
    }
}

impl Choices for Streams<'_> {
    fn choose(&mut self, site: Site, n: u32) -> u32 {
        let index = stream(site);
        let value = self.values[index].get(self.next[index]).map_or(0, |value| value % n);
        self.next[index] += 1;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds replay for ever: a change of these numbers makes every seed in every report mean something else.
    #[test]
    fn the_first_draws_of_a_seed_never_change() {
        let mut random = Random::new(42);
        let draws: Vec<u32> = SITES
            .iter()
            .flat_map(|site| [1000, 1000, 7].map(|n| random.choose(*site, n)))
            .collect();
        insta::assert_debug_snapshot!(draws);
    }

    #[test]
    fn every_value_comes_up_and_none_beyond() {
        let mut random = Random::new(1);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[random.choose(Site::Schedule, 5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn a_choice_more_at_one_site_does_not_shift_another() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        let _ = other.choose(Site::Fault, 256);
        for _ in 0..50 {
            assert_eq!(one.choose(Site::Schedule, 100), other.choose(Site::Schedule, 100));
        }
    }

    #[test]
    fn a_replay_that_goes_astray_says_where() {
        let tape = [
            Choice { site: Site::Schedule, n: 3, value: 2 },
            Choice { site: Site::Fault, n: 256, value: 9 },
        ];
        let mut player = Player::new(&tape);
        assert_eq!(player.choose(Site::Schedule, 3), 2);
        assert_eq!(player.choose(Site::Fault, 200), 0);
        assert_eq!(player.choose(Site::Fault, 256), 0, "and wanders no further");
        assert_eq!(
            player.misaligned().map(|astray| astray.to_string()).as_deref(),
            Some(
                "misaligned at choice 1: the run chooses among 200 at Fault, the tape has a choice among 256 at Fault"
            )
        );
        let mut player = Player::new(&tape[..1]);
        let _ = (player.choose(Site::Schedule, 3), player.choose(Site::Tag, 2));
        assert_eq!(player.misaligned().map(|astray| astray.at), Some(1));
    }
}
