//! Fuzzing without instrumentation: inputs of a corpus, mutated at random from a seed.
//!
//! For toolchains that cannot link libFuzzer. Nothing tells it which inputs reach new code, so it is weaker: it finds what lies
//! near the corpus.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Bytes of an input.
const LENGTH_MAX: usize = 4_096;
/// Mutations of one input.
const MUTATIONS_MAX: usize = 8;
/// Numbers that programs treat in a special way.
const NUMBERS: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'\n'];

/// What a hunt came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hunted {
    /// Inputs that were tried.
    pub inputs: u64,
    /// The first input that made the target panic, and what the panic said.
    pub found: Option<(Vec<u8>, String)>,
}

/// Feeds a target with the corpus, and then with what becomes of it, for so long or until it panics. The order depends on the seed alone.
pub fn hunt(target: fn(&[u8]), corpus: &[Vec<u8>], seed: u64, time: Duration) -> Hunted {
    let started = Instant::now();
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let mut hunted = Hunted { inputs: 0, found: None };
    let mut seeds = corpus.iter();
    loop {
        let input = match seeds.next() {
            Some(input) => input.clone(),
            None if started.elapsed() >= time => return hunted,
            None => dice.input(corpus),
        };
        hunted.inputs += 1;
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            hunted.found = Some((input, message(payload.as_ref())));
            return hunted;
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    fn byte(&mut self) -> u8 {
        self.0.next_u32() as u8
    }

    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = if corpus.is_empty() || self.below(16) == 0 {
            let length = self.below(512);
            (0..length).map(|_| self.byte()).collect()
        } else {
            corpus[self.below(corpus.len())].clone()
        };
        for _ in 0..=self.below(MUTATIONS_MAX) {
            self.mutate(&mut input, corpus);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    /// A range of an input.
    fn range(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let from = self.below(input.len() + 1);
        from..from + self.below((input.len() - from).min(64) + 1)
    }

    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.byte(),
            2 if at < input.len() => input[at] = NUMBERS[self.below(NUMBERS.len())],
            3 => {
                let range = self.range(input);
                input.drain(range);
            }
            4 => {
                let range = self.range(input);
                let copy = input[range].to_vec();
                input.splice(at..at, copy);
            }
            5 if !corpus.is_empty() => {
                let other = &corpus[self.below(corpus.len())];
                let range = self.range(other);
                input.splice(at..at, other[range].iter().copied());
            }
            _ => input.insert(at, self.byte()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far from any input of the corpus, and near enough to be found.
    #[test]
    fn a_planted_panic_is_found_and_repeats() {
        let corpus = [b"a bug".to_vec(), b"none!".to_vec()];
        let hunted = hunt(crate::planted, &corpus, 7, Duration::from_secs(60));
        let (input, message) = hunted.found.clone().expect("a finding");
        assert!(message.contains("planted"), "{message}");
        assert!(catch_unwind(|| crate::planted(&input)).is_err());
        assert_eq!(hunt(crate::planted, &corpus, 7, Duration::from_secs(60)), hunted);
    }

    #[test]
    fn a_target_without_a_fault_is_clean() {
        let hunted = hunt(|_| {}, &[], 1, Duration::from_millis(10));
        assert!(hunted.found.is_none() && hunted.inputs > 0);
    }
}
