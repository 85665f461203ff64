#!/usr/bin/env bash
# Fuzzes every target for so many seconds each: fuzz/fuzz.sh SECONDS [TARGET…]
#
# With libFuzzer where it can be linked: that takes a C++ compiler only (libfuzzer-sys brings libFuzzer's sources, and rustc's own LLVM puts in
# the coverage, by options that stable has). Elsewhere with a plain mutational loop, which it then says. A target with a planted panic
# comes first; if that is not found, whatever else is not found means nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
((${#targets[@]})) || targets=(uapi tag engine simulation tape cli blkproof-cli)
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "Usage: fuzz/fuzz.sh SECONDS [TARGET…]" >&2; exit 2; }

host=$(rustc -vV | sed -n 's/^host: //p')
log=$(mktemp)
trap 'rm -f "$log"' EXIT

build() {
    # Without a target triple the flags would go into build scripts, too. Assertions stay on. Only targets link libFuzzer.
    local target bins=()
    for target in planted "${targets[@]}"; do bins+=(--bin "$target"); done
    RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions ${RUSTFLAGS:-}" \
        cargo build --locked --release -p fuzz --features libfuzzer --target "$host" --target-dir target/fuzz "${bins[@]}"
}

# The crash file that a fuzzer left, replayed on the plain build, says what it was.
fuzz() {
    local target=$1 seconds=$2
    mkdir -p "target/fuzz-corpus/$target" target/fuzz-findings
    "target/fuzz/$host/release/$target" -max_total_time="$seconds" -rss_limit_mb=2048 -max_len=4096 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="target/fuzz-findings/$target-" "target/fuzz-corpus/$target" "fuzz/corpus/$target" >"$log" 2>&1
}

if [[ ${FUZZ_WITHOUT_COVERAGE:-} != 1 ]] && command -v c++ >/dev/null && build; then
    if fuzz planted 60; then
        echo "fuzz: the planted panic was NOT found: the fuzzer is blind" >&2
        tail -n 5 "$log" >&2
        exit 1
    fi
    grep -q 'panicked at' "$log" || { cat "$log" >&2; exit 1; }
    echo "fuzz: libFuzzer, $(rustc --version | cut -d' ' -f1-2); the planted panic is found"
    failed=0
    for target in "${targets[@]}"; do
        if fuzz "$target" "$seconds"; then
            runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
            covered=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 || true)
            echo "$target: clean, $runs inputs, ${covered:-no coverage}"
        else
            failed=1
            echo "$target: FAILED"
            tail -n 30 "$log"
            echo "Replay with: cargo run -p fuzz --bin $target -- FILE"
        fi
    done
    exit "$failed"
fi

why="libFuzzer cannot be built here (it takes a C++ compiler)"
[[ ${FUZZ_WITHOUT_COVERAGE:-} != 1 ]] || why="without libFuzzer, as asked"
echo "fuzz: $why. A mutational loop without coverage runs instead, which is weaker."
# As the tests are built: optimised a little, with assertions.
cargo build --locked --profile test -p fuzz --bin mutate
if target/debug/mutate 60 planted >"$log"; then
    echo "fuzz: the planted panic was NOT found: the loop is blind" >&2
    exit 1
fi
echo "fuzz: the planted panic is found"
target/debug/mutate "$seconds" "${targets[@]}"
