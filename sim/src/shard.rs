//! A part of a hunt, for one machine of many.

use std::fmt;
use std::str::FromStr;

/// The shard `index` of `count`: it takes every `count`-th seed, from the `index`-th on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Shard {
    /// Counted from 1.
    index: u64,
    count: u64,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 1, count: 1 };

    /// The shard `index` of `count`, if that is one: `index` counts from 1.
    pub const fn new(index: u64, count: u64) -> Option<Self> {
        if index >= 1 && index <= count { Some(Self { index, count }) } else { None }
    }

    /// Which one, counted from 1.
    pub const fn index(self) -> u64 {
        self.index
    }

    /// Of how many.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// The offset of this shard's `nth` seed, both counted from 0; `None` beyond the largest number.
    pub fn offset(self, nth: u64) -> Option<u64> {
        nth.checked_mul(self.count)?.checked_add(self.index - 1)
    }

    /// How many of the first `seeds` seeds are this shard's.
    pub const fn seeds(self, seeds: u64) -> u64 {
        let whole = seeds / self.count;
        whole + (self.index <= seeds % self.count) as u64
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some((index.parse::<u64>().ok()?, count.parse::<u64>().ok()?))
        });
        numbers.and_then(|(index, count)| Self::new(index, count)).ok_or_else(|| {
            "expected i/n with i between 1 and n, e.g. 2/8 for the second of eight".to_owned()
        })
    }
}

/// A shard, and who said so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assigned {
    /// The shard.
    pub shard: Shard,
    /// Who said so, for people.
    pub from: String,
}

/// The shard that a cluster's scheduler gave this process, if one did: a Slurm job array by `SLURM_ARRAY_TASK_ID`, `_MIN`, `_COUNT` and
/// `_STEP`, an Indexed Job of Kubernetes by `JOB_COMPLETION_INDEX`, which counts from 0. Kubernetes does not say how many there are: that is
/// `completions`, or else `JOB_COMPLETION_COUNT`, which the job's author sets to its `completions`. `variable` looks up an
/// environment variable.
///
/// # Errors
/// Says which variable is missing or means nothing, and what to do.
pub fn assigned(
    variable: impl Fn(&str) -> Option<String>,
    completions: Option<u64>,
) -> Result<Option<Assigned>, String> {
    const WAY_OUT: &str = "Say which shard with --shard i/n, or --shard 1/1 for the whole hunt.";
    let number = |name: &str| -> Result<Option<u64>, String> {
        let Some(text) = variable(name) else { return Ok(None) };
        let wrong = || format!("reading {name}={text:?} failed: it is no number. {WAY_OUT}");
        text.parse().map(Some).map_err(|_| wrong())
    };
    let slurm = number("SLURM_ARRAY_TASK_ID")?;
    let kubernetes = number("JOB_COMPLETION_INDEX")?;
    match (slurm, kubernetes) {
        (None, None) => match completions {
            Some(_) => Err(format!(
                "--shards says how many shards there are, and JOB_COMPLETION_INDEX, which says which one this is, is not set. {WAY_OUT}"
            )),
            None => Ok(None),
        },
        (Some(_), Some(_)) => Err(format!(
            "both SLURM_ARRAY_TASK_ID and JOB_COMPLETION_INDEX say which shard this is. {WAY_OUT}"
        )),
        (Some(id), None) => {
            if completions.is_some() {
                return Err(format!(
                    "--shards is for JOB_COMPLETION_INDEX; Slurm says itself how many tasks an array has. {WAY_OUT}"
                ));
            }
            let needed = |name: &str| {
                number(name)?.ok_or_else(|| {
                    format!("SLURM_ARRAY_TASK_ID={id} is set, and {name} is not. {WAY_OUT}")
                })
            };
            let (min, count) = (needed("SLURM_ARRAY_TASK_MIN")?, needed("SLURM_ARRAY_TASK_COUNT")?);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let steps = id.checked_sub(min).filter(|beyond| beyond % step == 0);
            let index = steps.and_then(|beyond| (beyond / step).checked_add(1));
            let shard = index.and_then(|index| Shard::new(index, count)).ok_or_else(|| {
                format!(
                    "SLURM_ARRAY_TASK_ID={id} is not one of {count} tasks from {min} in steps of {step}: an array with gaps has no shards. {WAY_OUT}"
                )
            })?;
            let from = format!("SLURM_ARRAY_TASK_ID={id}, of {count} tasks from {min}");
            Ok(Some(Assigned { shard, from }))
        }
        (None, Some(index)) => {
            let (count, said) = match completions {
                Some(count) => (Some(count), "--shards"),
                None => (number("JOB_COMPLETION_COUNT")?, "JOB_COMPLETION_COUNT"),
            };
            let count = count.ok_or_else(|| {
                format!(
                    "JOB_COMPLETION_INDEX={index} says which shard this is, and nothing says of how many. Give the job's `completions` with --shards N or in JOB_COMPLETION_COUNT. {WAY_OUT}"
                )
            })?;
            let shard = index.checked_add(1).and_then(|index| Shard::new(index, count));
            let shard = shard.ok_or_else(|| {
                format!(
                    "JOB_COMPLETION_INDEX={index} counts from 0 and is not below {count} ({said}). {WAY_OUT}"
                )
            })?;
            let from = format!("JOB_COMPLETION_INDEX={index}, of {count} by {said}");
            Ok(Some(Assigned { shard, from }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_the_seeds() {
        for (seeds, count) in [(0, 3), (1, 3), (10, 3), (12, 4), (5, 8)] {
            let shards = (1..=count).map(|index| Shard::new(index, count).expect("a shard"));
            let mut all: Vec<u64> = shards
                .flat_map(|shard| (0..shard.seeds(seeds)).map(move |nth| shard.offset(nth)))
                .map(|offset| offset.expect("small"))
                .collect();
            all.sort_unstable();
            assert_eq!(all, (0..seeds).collect::<Vec<_>>(), "{seeds} seeds, {count} shards");
        }
        assert_eq!(Shard::new(2, 2).and_then(|shard| shard.offset(u64::MAX)), None);
    }

    #[test]
    fn words_read_back() {
        assert_eq!("2/8".parse(), Ok(Shard { index: 2, count: 8 }));
        assert_eq!("2/8".parse::<Shard>().map(|shard| shard.to_string()), Ok("2/8".to_owned()));
        for wrong in ["", "2", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1 / 3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    fn of(variables: &[(&str, &str)], completions: Option<u64>) -> Result<Option<String>, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let given = assigned(variable, completions)?;
        Ok(given.map(|given| format!("{}: {}", given.shard, given.from)))
    }

    #[test]
    fn a_slurm_array_says_which() {
        let array = |id, min, count, step| {
            of(
                &[
                    ("SLURM_ARRAY_TASK_ID", id),
                    ("SLURM_ARRAY_TASK_MIN", min),
                    ("SLURM_ARRAY_TASK_COUNT", count),
                    ("SLURM_ARRAY_TASK_STEP", step),
                ],
                None,
            )
        };
        let first = "1/8: SLURM_ARRAY_TASK_ID=0, of 8 tasks from 0";
        assert_eq!(array("0", "0", "8", "1"), Ok(Some(first.to_owned())));
        let fourth = "4/4: SLURM_ARRAY_TASK_ID=7, of 4 tasks from 1";
        assert_eq!(array("7", "1", "4", "2"), Ok(Some(fourth.to_owned())));
        for (id, min, count, step, why) in [
            ("9", "1", "4", "1", "an array with gaps"),
            ("2", "1", "4", "2", "an array with gaps"),
            ("0", "1", "4", "1", "an array with gaps"),
            ("x", "1", "4", "1", "SLURM_ARRAY_TASK_ID=\"x\""),
            ("1", "1", "", "1", "SLURM_ARRAY_TASK_COUNT=\"\""),
        ] {
            let error = array(id, min, count, step).unwrap_err();
            assert!(error.contains(why) && error.contains("--shard 1/1"), "{error}");
        }
        let error = of(&[("SLURM_ARRAY_TASK_ID", "1")], None).unwrap_err();
        assert!(error.contains("SLURM_ARRAY_TASK_MIN is not"), "{error}");
    }

    #[test]
    fn an_indexed_job_says_which_and_not_of_how_many() {
        let index = ("JOB_COMPLETION_INDEX", "2");
        let third = "3/5: JOB_COMPLETION_INDEX=2, of 5 by --shards";
        assert_eq!(of(&[index], Some(5)), Ok(Some(third.to_owned())));
        let third = "3/3: JOB_COMPLETION_INDEX=2, of 3 by JOB_COMPLETION_COUNT";
        assert_eq!(of(&[index, ("JOB_COMPLETION_COUNT", "3")], None), Ok(Some(third.to_owned())));
        for (variables, completions, why) in [
            (&[index][..], None, "nothing says of how many"),
            (&[index], Some(2), "not below 2"),
            (&[index, ("SLURM_ARRAY_TASK_ID", "2")], None, "both"),
            (&[("JOB_COMPLETION_INDEX", "-1")], Some(2), "no number"),
            (&[], Some(2), "is not set"),
        ] {
            let error = of(variables, completions).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(of(&[], None), Ok(None));
    }
}
