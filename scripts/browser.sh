#!/usr/bin/env bash
# Installs what tests/dashboard.rs drives the dashboard with: Debian's Chromium, and into target/browser what
# tests/dashboard/package-lock.json pins. Says nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-deps.sh browser
have=target/browser
if ! cmp -s tests/dashboard/package-lock.json $have/package-lock.json || [ ! -e $have/complete ]; then
    rm -rf $have
    mkdir -p $have
    cp tests/dashboard/package.json tests/dashboard/package-lock.json $have/
    echo "installing: playwright-core and axe-core into $have"
    # No script of a package runs; none downloads a browser.
    (cd $have && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2
    touch $have/complete
fi
