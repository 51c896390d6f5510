#!/usr/bin/env bash
# cargo deny: bans, licences and sources always; advisories where their database can be fetched.
# cargo-deny itself is installed (and kept in ~/.cargo/bin) when it is not there, which takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin

if ! command -v cargo-deny >/dev/null; then
    echo 'installing cargo-deny (some minutes, once)'
    if ! timeout 1800 cargo install cargo-deny --locked --quiet; then
        echo '##### SKIPPED: cargo deny: it could not be built here #####' >&2
        exit 0
    fi
fi
cargo deny --locked --log-level warn check bans licenses sources
if timeout 120 cargo deny fetch db >/dev/null 2>&1; then
    cargo deny --locked --log-level warn check --disable-fetch advisories
else
    echo 'skipped: cargo deny check advisories: the database cannot be fetched from here' >&2
fi
