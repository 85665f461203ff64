#!/usr/bin/env bash
# The engine through a million schedules for each kernel and driver: sim/campaign.sh DIR [SCHEDULES] [JOBS]
#
# Every kernel of the model, random choices and priorities, every fault, and a swarm over sizes, targets, data modes, batches, shared memory and
# recovery. What no server can avoid on a kernel (H07, H26, H67, H69, H70) is counted by name; whatever else is not clean is a finding, and an error at the end.
#
# It can be interrupted, or die, at any moment: run it again with the same DIR, and parts that ended are not run again. DIR keeps the program
# that it began with, so that all parts are of one.
set -euo pipefail

usage() {
    echo "Usage: sim/campaign.sh DIR [SCHEDULES] [JOBS] (schedules for each kernel and driver, at least 1; 1000000 if not given)" >&2
    exit 2
}
(($# >= 1 && $# <= 3)) || usage
dir=$1 schedules=${2:-1000000} jobs=${3:-$(nproc)}
[[ $schedules =~ ^[1-9][0-9]*$ && $jobs =~ ^[1-9][0-9]*$ ]] || usage
kernels=(6.12 6.18 7.3)
drivers=(random pct=3)
parts=10

built=$(dirname "$0")/../target/release/sim
mkdir -p "$dir"
if [[ ! -e $dir/sim ]]; then
    cp "$built" "$dir/sim.new"
    mv "$dir/sim.new" "$dir/sim"
    echo "$schedules" >"$dir/schedules"
elif [[ $(cat "$dir/schedules") != "$schedules" ]]; then
    echo "$dir holds a campaign of $(cat "$dir/schedules") schedules for each kernel and driver. Say as many, or take another directory." >&2
    exit 2
elif ! cmp -s "$built" "$dir/sim"; then
    echo "campaign: going on with the program that $dir began with, which is not the one of today. For that one, take another directory."
fi
sim=$(realpath "$dir")/sim
cd "$dir"

interrupted=0
trap 'interrupted=1' INT TERM

ended() {
    [[ -e $1 ]] && tail -n 1 "$1" | grep -q '"line":"summary".*"interrupted":false'
}

total=$((${#kernels[@]} * ${#drivers[@]} * parts))
nth=0
for kernel in "${kernels[@]}"; do
    for driver in "${drivers[@]}"; do
        mkdir -p "$kernel-$driver"
        for ((part = 1; part <= parts; part++)); do
            nth=$((nth + 1))
            results=$kernel-$driver/part$part.jsonl
            ended "$results" && continue
            echo "campaign: part $nth of $total: $kernel, $driver, $part/$parts ($(date +%H:%M:%S))"
            code=0
            "$sim" hunt --engine --kernel "$kernel" --driver "$driver" --faults all --swarm --known-hazards --keep-going \
                --seeds "$schedules" --shard "$part/$parts" --jobs "$jobs" --results "$results" --findings findings >"$results.log" || code=$?
            head -n 2 "$results.log" | tail -n 1
            if ((interrupted || code == 130)) || ! ended "$results"; then
                echo "campaign: interrupted; what ended is kept. Go on with the same command." >&2
                exit 130
            fi
        done
    done
done

failed=0
for kernel in "${kernels[@]}"; do
    for driver in "${drivers[@]}"; do
        echo "== $kernel, $driver"
        "$sim" merge "$kernel-$driver"/part*.jsonl || failed=1
    done
done
if ((failed)); then
    echo "campaign: NOT clean; the tapes are in $dir" >&2
    exit 1
fi
echo "campaign: clean"
