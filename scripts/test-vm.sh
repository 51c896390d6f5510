#!/usr/bin/env bash
# Virtual machines (make test-vm): two of QEMU's on two switches joined by wss, and one in a browser; then the package in a
# fresh Debian (test-deb.sh) and the static programs (static.sh). Ends with a table of what was seen. What cannot be had here is left out, loudly; VM_REQUIRED=1 makes that a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo 'make test-vm wants root: it makes network namespaces and TAPs' >&2; exit 1; }
scripts/install-deps.sh test
tests=()
left_out=()
# has TEST COMMAND...: the test is run when the command has what it needs.
has() {
    local test=$1 status=0
    shift
    "$@" || status=$?
    case $status in
        0) tests+=("$test") ;;
        3) left_out+=("$test") ;;
        *) exit $status ;;
    esac
}
has two_machines scripts/vm.sh amd64
has a_machine_in_a_browser examples/browser-vm/make.sh

status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for test in "${tests[@]}"; do
    timeout -k 30 1800 cargo test --locked --test vm "$test" -- --ignored --nocapture 2>&1 | tee -a "$log" || status=$?
done
# What make test has no time for: the package in a fresh Debian, and the static programs. They say what they skip.
for script in scripts/test-deb.sh scripts/static.sh; do
    timeout -k 30 1800 "$script" || status=$?
done

echo
echo '=== what was seen ==='
# The tests print rows by this mark, whatever stands between them.
sed -n 's/^| //p' "$log"
for test in "${left_out[@]}"; do echo "SKIPPED: $test"; done
[ ${#left_out[@]} -eq 0 ] || [ -z "${VM_REQUIRED:-}" ] || status=1
if [ $status -eq 0 ]; then echo 'test-vm: passed'; else echo "test-vm: FAILED (exit $status)"; fi
exit $status
