//! Pairwise covers: few rows in which every two values of different factors meet at least once.

use std::cmp::Reverse;

/// All rows of the full product of factors with these numbers of values. Each row holds one value index per factor.
pub fn product(sizes: &[usize]) -> Vec<Vec<usize>> {
    sizes.iter().fold(vec![Vec::new()], |rows, &size| {
        rows.iter()
            .flat_map(|row| {
                (0..size).map(move |value| {
                    let mut row = row.clone();
                    row.push(value);
                    row
                })
            })
            .collect()
    })
}

/// A cover of all pairs, by greedy choice from the full product; among equals the row with the values used least so far.
/// Deterministic; within a few rows of the smallest cover for the sizes used here.
pub fn cover(sizes: &[usize]) -> Vec<Vec<usize>> {
    let candidates = product(sizes);
    let mut missing = pairs(sizes);
    let mut rows: Vec<Vec<usize>> = Vec::new();
    while !missing.is_empty() {
        let gain = |row: &[usize]| missing.iter().filter(|pair| pair.is_in(row)).count();
        let used = |row: &[usize]| -> usize {
            rows.iter().map(|chosen| chosen.iter().zip(row).filter(|(a, b)| a == b).count()).sum()
        };
        // `max_by_key` takes the last of equals: reversed, so that the first rows hold the first values.
        let Some(best) = candidates.iter().rev().max_by_key(|row| (gain(row), Reverse(used(row))))
        else {
            break;
        };
        missing.retain(|pair| !pair.is_in(best));
        rows.push(best.clone());
    }
    rows
}

/// Two values of two different factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    first: (usize, usize),
    second: (usize, usize),
}

impl Pair {
    fn is_in(&self, row: &[usize]) -> bool {
        row[self.first.0] == self.first.1 && row[self.second.0] == self.second.1
    }
}

fn pairs(sizes: &[usize]) -> Vec<Pair> {
    let mut all = Vec::new();
    for (i, &first_size) in sizes.iter().enumerate() {
        for (j, &second_size) in sizes.iter().enumerate().skip(i + 1) {
            for a in 0..first_size {
                for b in 0..second_size {
                    all.push(Pair { first: (i, a), second: (j, b) });
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_covers(sizes: &[usize], at_most: usize) {
        let rows = cover(sizes);
        for pair in pairs(sizes) {
            assert!(rows.iter().any(|row| pair.is_in(row)), "{sizes:?}: {pair:?} is not covered");
        }
        for row in &rows {
            assert!(
                row.iter().zip(sizes).all(|(value, size)| value < size),
                "{row:?} is out of range"
            );
        }
        assert!(rows.len() <= at_most, "{sizes:?}: {} rows", rows.len());
    }

    #[test]
    fn every_pair_is_covered_in_few_rows() {
        assert_covers(&[3, 2, 3, 2, 3], 12);
        assert_covers(&[3, 2, 3, 2, 4], 13);
        assert_covers(&[2, 2, 2], 6);
        assert_covers(&[5, 4], 20);
    }

    #[test]
    fn the_product_has_every_row_once() {
        let rows = product(&[3, 2, 3, 2]);
        assert_eq!(rows.len(), 36);
        let unique: std::collections::BTreeSet<_> = rows.iter().collect();
        assert_eq!(unique.len(), rows.len());
    }

    #[test]
    fn one_factor_or_none_needs_no_pairs() {
        assert!(cover(&[4]).is_empty());
        assert!(cover(&[]).is_empty());
    }
}
