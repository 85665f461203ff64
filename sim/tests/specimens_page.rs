//! docs/specimens.md says what the catalogue says.

use std::fmt::Write as _;
use std::fs;

use blkproof_sim::specimens::Specimen;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/specimens.md");

/// The table of servers, or that of mutants.
fn table(mutants: bool) -> String {
    let mut text = "| specimen | stands for | the mistake | seen in | found as | on |\n|---|---|---|---|---|---|\n".to_owned();
    for specimen in Specimen::all().filter(|specimen| specimen.is_mutant() == mutants) {
        let exhibit = specimen.exhibit();
        let kernels: Vec<String> = exhibit.kernels.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            exhibit.name,
            exhibit.classes.join(", "),
            exhibit.summary,
            exhibit.source,
            exhibit.oracles.join(", "),
            kernels.join(", "),
        );
    }
    text
}

#[test]
fn the_page_has_the_catalogue() {
    let page = fs::read_to_string(PAGE).expect("docs/specimens.md is there");
    for table in [table(false), table(true)] {
        assert!(page.contains(&table), "docs/specimens.md lacks this table:\n\n{table}");
    }
}

#[test]
fn names_are_unique_and_every_class_is_one() {
    let mut names: Vec<_> = Specimen::all().map(Specimen::name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(count >= 45, "the museum has {count} specimens");
    for specimen in Specimen::all() {
        assert!(!specimen.exhibit().classes.is_empty(), "{}", specimen.name());
        for class in specimen.exhibit().classes {
            let (kind, number) = class.split_at(1);
            let known = match kind {
                "H" => 1..=68,
                "S" => 1..=68,
                _ => panic!("{}: {class}", specimen.name()),
            };
            assert!(number.parse().is_ok_and(|number: u32| known.contains(&number)), "{class}");
        }
    }
}
