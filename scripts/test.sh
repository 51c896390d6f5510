#!/usr/bin/env bash
# Runs all tests (make test): scripts/test.sh [THREADS]. Integration tests make network namespaces and TAPs, so
# it wants root; otherwise it enters a user namespace, where most of them work too.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2}

scripts/install-deps.sh test
scripts/browser.sh || [ $? = 3 ] # it has said what is skipped
timeout 3600 cargo build --locked

inside=()
if [ "$(id -u)" != 0 ]; then
    echo 'not root: running the tests in a user namespace'
    # shellcheck disable=SC2016
    inside=(unshare --map-root-user --net --mount sh -c 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' sh)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
if cargo nextest --version >/dev/null 2>&1; then
    run=(cargo nextest run --locked --no-fail-fast --test-threads "$threads")
else
    run=(cargo test --locked --no-fail-fast -- --test-threads "$threads")
fi
"${inside[@]}" timeout -k 30 3000 "${run[@]}" 2>&1 | tee "$log" || status=$?

echo
echo '=== summary ==='
if [ "${run[1]}" = nextest ]; then
    grep -E '^ *(Summary|FLAKY|FAIL|TRY|TIMEOUT|SIG[A-Z]+) ' "$log" | sort -u || true
    # nextest runs no documentation tests
    timeout 900 cargo test --locked --doc -q || status=$?
else
    grep -E '^test result|^test .* FAILED$' "$log" || true
fi

# What threads do to each other, in every order that the memory model allows.
for proof in fdb link; do
    timeout -k 30 600 cargo run --locked -q -p etherws-proofs --bin "$proof" || status=$?
done

# What is unsafe, and what reads a peer's bytes, once more, each access looked at. valgrind has no AVX-512 (the tests leave
# out what the processor lacks) and makes system calls of its own, which the filter of sys::seccomp refuses.
if command -v valgrind >/dev/null; then
    runner='target."cfg(unix)".runner=["valgrind", "--quiet", "--error-exitcode=99"]'
    looked_at=(ws::mask ws::codec ws::header ws::handshake frame:: sys:: --skip sys::seccomp)
    "${inside[@]}" env PROPTEST_CASES=8 timeout -k 30 600 \
        cargo test --locked --lib -q --config "$runner" -- "${looked_at[@]}" || status=$?
else
    echo '##### SKIPPED: the memory checker: there is no valgrind #####' >&2
fi
# The same by an interpreter that knows the language's own rules.
if cargo +nightly miri --version >/dev/null 2>&1; then
    PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation timeout -k 30 900 \
        cargo +nightly miri test --locked --lib -q -- ws::codec ws::header ws::mask frame::checksum || status=$?
else
    echo '##### SKIPPED: Miri: there is none (rustup +nightly component add miri) #####' >&2
fi
if [ "$(uname -m)" = x86_64 ] && ! grep -q avx512bw /proc/cpuinfo; then
    echo '##### SKIPPED: the mask by AVX-512: this processor has it not #####' >&2
fi
if [ $status -eq 0 ]; then echo 'all tests passed'; else echo "FAILED (exit $status)"; fi
exit $status
