#!/usr/bin/env bash
# Fuzzing (make fuzz): scripts/fuzz.sh [SECONDS [TARGET...]], the seconds in all, shared evenly among the targets; by
# default a minute for each. What one case may take is goal R13's: a second and 512 MiB.
#
# It needs a nightly toolchain and cargo-fuzz. Without them it skips, loudly; FUZZ_REQUIRED=1 makes that a failure. What
# needs neither, the seeds and a few thousand mutations of each, is a test (tests/fuzz_corpus). The seeds in fuzz/corpus/
# are read; what is found goes to fuzz/found/, a case that fails to fuzz/artifacts/: make a seed of it, and a test. How many
# runs there were is added to benches/results/gates.tsv.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "##### SKIPPED: fuzzing: $1; cargo test --test fuzz_corpus runs the seeds without #####" >&2
    [ -z "${FUZZ_REQUIRED:-}" ] || exit 1
    exit 0
}

seconds=${1:-}
[ $# -eq 0 ] || shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        name=${file##*/}
        targets+=("${name%.rs}")
    done
fi
each=$((${seconds:-$((60 * ${#targets[@]}))} / ${#targets[@]}))
[ "$each" -gt 0 ] || { echo "fuzz.sh: ${seconds} s are not enough for ${#targets[@]} targets" >&2; exit 2; }

cargo +nightly --version >/dev/null 2>&1 || skip 'there is no nightly toolchain (rustup toolchain install nightly)'
cargo +nightly fuzz --version >/dev/null 2>&1 || skip 'there is no cargo-fuzz (cargo install cargo-fuzz)'

# The crates that are shipped, not the newest ones.
cp Cargo.lock fuzz/Cargo.lock
# Freed memory that ASan keeps back is no case's.
export ASAN_OPTIONS=${ASAN_OPTIONS:-quarantine_size_mb=64}
for target in "${targets[@]}"; do
    cargo +nightly fuzz build "$target" || { echo "FAILED: the target $target could not be built"; exit 1; }
done
failed=()
totals=benches/results/gates.tsv
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
    echo "=== $target: $each s ==="
    mkdir -p "fuzz/found/$target" "fuzz/corpus/$target"
    # A frame of the largest size, and what is around it; the others read lines.
    case $target in
        codec | ingress | stream) longest=70000 ;;
        *) longest=8192 ;;
    esac
    cargo +nightly fuzz run "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$each" -max_len=$longest -timeout=1 -rss_limit_mb=512 -print_final_stats=1 2>&1 |
        tee "$log" || failed+=("$target")
    runs=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$log")
    printf '%s\tR13 %s\t%s\truns\n' "$(date -u +%F)" "$target" "${runs:-0}" >> "$totals"
    awk -F '\t' -v gate="R13 $target" '$2 == gate { sum += $3 } END { printf "%s: %.0f runs so far\n", gate, sum }' "$totals"
done
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]} (see fuzz/artifacts/)"; exit 1; }
echo 'nothing found'
