#!/usr/bin/env bash
# Installs what browsers are tested with: Debian's Chromium, and into target/browser/node_modules what
# tests/browser/package-lock.json pins. Says nothing when all is there; where something cannot be had it says SKIPPED
# and exits with 3.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "##### SKIPPED: the browser: $1 #####" >&2
    exit 3
}

scripts/install-deps.sh browser >&2 || skip 'Chromium, Node.js or npm is missing (scripts/install-deps.sh browser)'
dir=target/browser
if ! cmp -s tests/browser/package-lock.json $dir/package-lock.json || [ ! -e $dir/complete ]; then
    rm -rf $dir
    mkdir -p $dir
    cp tests/browser/package.json tests/browser/package-lock.json $dir/
    echo "installing: the packages of tests/browser into $dir"
    # No script of a package runs; none downloads a browser.
    (cd $dir && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 \
        || skip 'npm could not fetch its packages'
    touch $dir/complete
fi
