//! What real kernels did, and whether the model still allows it. The traces were recorded with
//! `just conformance --scripts 0 --record vm-harness/traces`.

use std::fs;
use std::path::{Path, PathBuf};

use blkproof_engine::uapi::KernelSeries;
use blkproof_sim::run::Sabotage;
use blkproof_sim::script::model::{check, check_planted, is_dangerous};
use blkproof_sim::script::{Script, Trace};

struct Recorded {
    name: String,
    series: KernelSeries,
    script: Script,
    trace: Trace,
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every script for every kernel that it says something about.
fn recorded() -> Vec<Recorded> {
    let mut found = Vec::new();
    let mut files: Vec<PathBuf> = fs::read_dir(here("scripts"))
        .expect("scripts")
        .map(|f| f.expect("a file").path())
        .collect();
    files.sort();
    for file in files {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("readable");
        let script: Script = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        for &series in &script.kernels {
            if is_dangerous(&script, series) {
                continue;
            }
            let path = here(&format!("traces/{series}/{name}.trace"));
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}: record it", path.display()));
            let trace: Trace = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(trace.observations.len(), script.steps.len(), "{name} on {series} is whole");
            found.push(Recorded { name: name.clone(), series, script: script.clone(), trace });
        }
    }
    found
}

#[test]
fn the_model_allows_what_real_kernels_did() {
    let recorded = recorded();
    assert!(recorded.len() > 90, "only {} traces", recorded.len());
    for Recorded { name, series, script, trace } in recorded {
        if let Err(difference) = check(&script, series, &trace) {
            panic!("{name} on {series}: {difference}");
        }
    }
}

#[test]
fn an_error_planted_in_the_model_is_noticed() {
    let recorded = recorded();
    for planted in [
        Sabotage::WrongErrno,
        Sabotage::AnyoneCommits,
        Sabotage::EagerAbort,
        Sabotage::CopyInPlace,
        Sabotage::KeepApart,
        Sabotage::RequeueInOrder,
        Sabotage::RestGoesAlone,
        Sabotage::FirstComeFirst,
        Sabotage::NoPlugs,
        Sabotage::WriteAnywhere,
        Sabotage::TrustMetadata,
    ] {
        let noticed = recorded
            .iter()
            .filter(|one| {
                check_planted(&one.script, one.series, &one.trace, Some(planted)).is_err()
            })
            .count();
        assert!(noticed > 0, "{planted:?} is not noticed in any of {} traces", recorded.len());
    }
}

#[test]
fn a_trace_that_was_tampered_with_is_noticed() {
    for Recorded { name, series, script, mut trace } in recorded() {
        let Some(event) = trace.observations.iter_mut().find_map(|o| o.events.first_mut()) else {
            panic!("{name}: nothing ever happened on {series}");
        };
        event.result ^= 1;
        assert!(check(&script, series, &trace).is_err(), "{name} on {series}");
    }
}
