//! The engine survives every schedule tried, with and without adversity.

mod support;

use support::{engine, must_be_clean};

#[test]
fn without_faults() {
    must_be_clean("without_faults", &engine(), 2_000);
}
