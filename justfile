# What a person calls, CI calls. `just` alone lists the recipes.

set shell := ["bash", "-euo", "pipefail", "-c"]

[private]
default:
    @just --list

# Formatting, as CI checks it.
fmt-check:
    cargo fmt --all -- --check

# Lints: no warning is left standing.
clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Every unit, property and integration test. Needs nothing but cargo.
test:
    cargo test --workspace --locked

# The cross-thread handshakes of `real`, every interleaving. Fails if no model ran.
loom:
    ./real/loom.sh

# The start-up deadlock: found, explained, replayed; then the engine through the same adversity.
demo:
    cargo run --release --locked -p sim -- demo

# Every known-bad server is found, as it says.
museum *args:
    cargo run --release --locked -p sim -- museum {{args}}

# Many random schedules of the real engine under every fault class (a campaign, not CI). Example: just hunt 10m
hunt time="60s":
    cargo run --release --locked -p sim -- hunt --engine --faults all --time {{time}}

# The bar for the engine: a million schedules for each kernel and driver, every fault, every data mode. Interrupt it and go on. Example: just engine-campaign target/engine-campaign 1000000
engine-campaign dir="target/engine-campaign" schedules="1000000" *jobs:
    cargo build --release --locked -p sim
    sim/campaign.sh {{dir}} {{schedules}} {{jobs}}

# API documentation; a broken link is an error.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Build on stable what the fuzzers run.
fuzz-build:
    cargo build --locked -p fuzz

# Fuzz every target for so many seconds each. With libFuzzer, or without where it cannot be linked. Example: just fuzz 60
fuzz seconds="60" *targets:
    fuzz/fuzz.sh {{seconds}} {{targets}}

# Real block devices on real kernels in QEMU. Examples: just vm-e2e; just vm-e2e --kernel 7.3
vm-e2e *args:
    cargo build --release --locked -p real -p vm-harness
    cargo run --release --locked -p vm-harness -- run {{args}}

# The same with the full product of targets, queues, depths and patterns (long).
vm-e2e-full *args:
    just vm-e2e --full {{args}}

# Is the model the kernel? Scripts on real kernels against the model. Example: just conformance --kernel 7.3 --scripts 30
conformance *args:
    cargo build --release --locked -p vm-harness
    cargo run --release --locked -p vm-harness -- conformance {{args}}

# The slice of it that CI runs: every written script, and 30 made from seeds for each kernel.
conformance-slice:
    just conformance --scripts 30

# A campaign that can be interrupted and goes on: 2000 scripts made from seeds for each kernel, some hours.
conformance-campaign *args:
    just conformance --scripts 2000 --resume target/conformance-campaign.journal {{args}}

# Planted faults: each must get its own verdict.
vm-selftest *args:
    cargo build --release --locked -p real -p vm-harness
    cargo run --release --locked -p vm-harness -- selftest {{args}}

# The declared minimum Rust version still compiles everything.
msrv:
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) && rustup toolchain install "$version" --profile minimal && cargo "+$version" check --workspace --locked

# All that runs in seconds to minutes and needs nothing but cargo.
check: fmt-check clippy test loom demo doc
