#!/usr/bin/env bash
# Every interleaving of the handshakes between a worker's threads, and the weakened twins that must fail. Fails if no model ran.
set -euo pipefail
cd "$(dirname "$0")/.."

# A target directory of its own: `--cfg loom` changes every dependency.
export RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"

out=$(mktemp)
trap 'rm -f "$out"' EXIT
cargo test --locked -p real --test loom_links --release 2>&1 | tee "$out"

models=$(grep -cE '^test [a-z_]+ \.\.\. ok$' "$out" || true)
twins=$(grep -cE '^test weakened::[a-z_]+ \.\.\. ok$' "$out" || true)
echo "loom: $models models hold, $twins weakened twins were found"
if [ "$models" -lt 4 ] || [ "$twins" -lt 7 ]; then
    echo "loom: expected at least 4 models and 7 twins" >&2
    exit 1
fi
