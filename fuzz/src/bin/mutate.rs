//! Fuzzes on any toolchain, without instrumentation: see [`blkproof_fuzz::mutate`].

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use blkproof_fuzz::{PLANTED, TARGETS, corpus, mutate};

/// The seed of every hunt: the same time on the same machine tries about the same.
const SEED: u64 = 0;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(seconds) = arguments.next().and_then(|word| word.parse().ok()) else {
        eprintln!("Usage: mutate SECONDS [TARGET…]");
        return ExitCode::from(2);
    };
    let names: Vec<String> = arguments.collect();
    let known = |name: &String| TARGETS.iter().chain([&PLANTED]).any(|(known, _)| name == known);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        eprintln!("There is no target {unknown:?}. Targets: {:?}", TARGETS.map(|(name, _)| name));
        return ExitCode::from(2);
    }
    // The panic is reported once, with its input.
    std::panic::set_hook(Box::new(|_| {}));
    let wanted =
        |name: &str| names.iter().any(|one| one == name) || (names.is_empty() && name != PLANTED.0);
    let mut code = ExitCode::SUCCESS;
    for (name, target) in TARGETS.into_iter().chain([PLANTED]).filter(|(name, _)| wanted(name)) {
        let inputs: Vec<Vec<u8>> = corpus::of(name).into_iter().map(|(_, input)| input).collect();
        let hunted = mutate::hunt(target, &inputs, SEED, Duration::from_secs(seconds));
        match hunted.found {
            None => println!("{name}: clean, {} inputs", hunted.inputs),
            Some((input, message)) => {
                code = ExitCode::FAILURE;
                let path = Path::new("target/fuzz-findings").join(format!("{name}-panic"));
                let kept = path.parent().map_or(Ok(()), fs::create_dir_all);
                println!("{name}: PANIC after {} inputs: {message}", hunted.inputs);
                match kept.and_then(|()| fs::write(&path, &input)) {
                    Ok(()) => println!(
                        "Replay with: cargo run -p fuzz --bin {name} -- {}",
                        path.display()
                    ),
                    Err(error) => {
                        eprintln!("Keeping the input at {} failed: {error}", path.display());
                    }
                }
            }
        }
    }
    code
}
