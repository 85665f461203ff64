//! Every id that a comment, an assertion or a page refers to (`H26`, `O3`, `RWd`) is defined in docs/protocol.md or ARCHITECTURE.md, once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where ids are defined: in table rows that begin with one.
const PAGES: [&str; 2] = ["docs/protocol.md", "ARCHITECTURE.md"];

/// Letters before a number. A family that is new on a page is looked for as well; one of these that is gone from it is missed.
const FAMILIES: [&str; 10] = ["D", "H", "I", "K", "L", "O", "R", "ST", "V", "X"];

/// Letters before a letter: the steps of the release work.
const LETTERED: &str = "RW";

/// Ids without a number that mean nothing else.
const WORDS: [&str; 7] = ["AL", "AQ", "CL", "RE", "SD", "TW", "TWX"];

/// What is searched, below the root of the repository.
const SOURCES: [&str; 6] = ["docs", "engine", "fuzz", "real", "sim", "vm-harness"];

/// Kinds of files with comments of ours. Snapshots and recorded runs are not among them.
const KINDS: [&str; 5] = ["md", "rs", "script", "sh", "toml"];

/// Where ids stand: name of a file and number of the line, first is 1.
type Places = Vec<String>;

/// Whether `word` has the form of an id of one of `families`.
fn is_id(word: &str, families: &[String]) -> bool {
    if WORDS.contains(&word) {
        return true;
    }
    let letters = word.bytes().take_while(u8::is_ascii_uppercase).count();
    let (family, rest) = word.split_at(letters);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let suffix = &rest[digits..];
    let one_letter = suffix.len() == 1 && suffix.as_bytes()[0].is_ascii_lowercase();
    match digits {
        0 => family == LETTERED && one_letter,
        1..=3 => (suffix.is_empty() || one_letter) && families.iter().any(|known| known == family),
        _ => false,
    }
}

/// The words of a line, as an identifier of a programming language is a word.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// What the first cell of a table row holds.
fn first_cell(line: &str) -> Option<&str> {
    Some(line.strip_prefix("| ")?.split_once('|')?.0.trim())
}

/// The families that the pages number, and those that they must.
fn families(pages: &[(String, String)]) -> Vec<String> {
    let mut families: Vec<String> = FAMILIES.map(String::from).to_vec();
    for line in pages.iter().flat_map(|(_, text)| text.lines()) {
        let Some(cell) = first_cell(line) else { continue };
        let family = cell.trim_end_matches(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase());
        let number = cell[family.len()..].starts_with(|c: char| c.is_ascii_digit());
        if number && family.len() <= 2 && family.bytes().all(|byte| byte.is_ascii_uppercase()) {
            families.push(family.into());
        }
    }
    families.retain(|family| !family.is_empty());
    families.sort();
    families.dedup();
    families
}

/// Where each id is defined.
fn definitions(pages: &[(String, String)], families: &[String]) -> BTreeMap<String, Places> {
    let mut found = BTreeMap::<String, Places>::new();
    for (name, text) in pages {
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(id) = first_cell(line).filter(|cell| is_id(cell, families)) {
                found.entry(id.into()).or_default().push(format!("{name}:{number}"));
            }
        }
    }
    found
}

/// What is wrong with the ids in `sources`, given the `pages` that define them. A line for each.
fn faults(pages: &[(String, String)], sources: &[(String, String)]) -> Vec<String> {
    let families = families(pages);
    let defined = definitions(pages, &families);
    let mut faults = Vec::new();
    for (id, places) in &defined {
        if places.len() > 1 {
            faults.push(format!("{id} is defined more than once: {}", places.join(", ")));
        }
    }
    for (name, text) in sources {
        for (number, line) in (1..).zip(text.lines()) {
            for word in words(line) {
                if is_id(word, &families) && !defined.contains_key(word) {
                    faults.push(format!("{name}:{number}: {word} is not defined"));
                }
            }
        }
    }
    faults
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> (String, String) {
    let name = path.strip_prefix(root()).unwrap_or(path).display().to_string();
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {name}: {error}"));
    (name, text)
}

/// Every file in `directory`, and below it, that may hold ids.
fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("list {}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory can be read to its end").path();
        let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, found);
            }
        } else if KINDS.contains(&kind) {
            found.push(path);
        }
    }
}

#[test]
fn every_id_in_the_repository_is_defined_once() {
    let pages = PAGES.map(|page| read(&root().join(page)));
    let mut paths = Vec::new();
    for source in SOURCES {
        collect(&root().join(source), &mut paths);
    }
    for entry in fs::read_dir(root()).expect("the repository can be listed") {
        let path = entry.expect("a directory can be read to its end").path();
        if path.extension().is_some_and(|kind| kind == "md") {
            paths.push(path);
        }
    }
    paths.sort();
    assert!(paths.len() > 100, "only {} files were found to search", paths.len());
    let sources: Vec<_> = paths.iter().map(|path| read(path)).collect();
    let defined = definitions(&pages, &families(&pages));
    for family in FAMILIES {
        let some = defined.keys().any(|id| is_id(id, &[family.into()]) && !WORDS.contains(&&**id));
        assert!(some, "no id of the family {family} is defined in {}", PAGES.join(" or "));
    }
    let faults = faults(&pages, &sources);
    assert!(
        faults.is_empty(),
        "{}\n\nEach id needs one table row that begins with it: invariants of the engine (I) in ARCHITECTURE.md, every other one in \
         docs/protocol.md.\nA word that only looks like an id has to be written in another way: the families are {}.",
        faults.join("\n"),
        families(&pages).join(", "),
    );
}

/// The faults of a page and a source. `~` stands for nothing: with it the test above does not take what is made up here for an id.
fn faults_of(page: &str, source: &str) -> Vec<String> {
    let named = |name: &str, text: &str| (name.to_string(), text.replace('~', ""));
    faults(&[named("page.md", page)], &[named("source.rs", source)])
}

#[test]
fn an_id_without_a_definition_is_reported_with_its_place() {
    let page = "| H01 | a hazard |\n| RWa | a step |\n";
    for id in ["H~99", "H~1", "H~013", "H~99b", "O~99", "ST~9", "RW~z", "TWX"] {
        let source = format!("fn a() {{}}\n// Known (H01, RWa).\n// {id}: never heard of.\n");
        let id = id.replace('~', "");
        assert_eq!(faults_of(page, &source), [format!("source.rs:3: {id} is not defined")]);
    }
    assert_eq!(
        faults_of(page, "// From H01 to H~98.")[..],
        ["source.rs:1: H~98 is not defined".replace('~', "")]
    );
}

#[test]
fn an_id_that_is_defined_twice_is_reported_with_both_places() {
    let page = "| H01 | a hazard |\n\n| H01 | another |\n";
    assert_eq!(faults_of(page, ""), ["H01 is defined more than once: page.md:1, page.md:3"]);
}

#[test]
fn a_family_that_is_new_on_a_page_is_looked_for() {
    let page = "| Z~1 | a rule |\n";
    assert_eq!(faults_of(page, "// Z~2").len(), 1);
    assert!(faults_of("", "// Z~2").is_empty());
}

#[test]
fn what_only_looks_like_an_id_is_none() {
    let source = "V7_3 X86_64 sha256 0xD1 H2O O_DIRECT u16 D2xy Kind1 iD1 4K1 RWlock";
    assert_eq!(faults_of("", source), [""; 0]);
}
