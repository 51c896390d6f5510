#!/usr/bin/env bash
# Builds the release (make release): etherws and etherctl without symbols, and the symbols of etherws in
# etherws.debug beside it, where gdb, perf and etherws itself find them by its name in .gnu_debuglink.
set -euo pipefail
cd "$(dirname "$0")/.."

# Not in Cargo.toml: who builds with cargo alone gets programs that are stripped and nothing to install beside them.
# "limited" and not "line-tables-only", which has no paths for the names of inlined functions.
CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=limited "${CARGO:-cargo}" build --release --locked

cd "${CARGO_TARGET_DIR:-target}/release"
fresh=$(mktemp -d ./release.XXXXXX)
trap 'rm -rf "$fresh"' EXIT
# Not compressed: etherws maps it while it looks names up, and would have to unpack it into memory.
objcopy --only-keep-debug etherws "$fresh/etherws.debug"
# The link is a name without a directory, and the file must be there for its checksum.
objcopy --strip-all --add-gnu-debuglink="$fresh/etherws.debug" etherws "$fresh/etherws"
objcopy --strip-all etherctl "$fresh/etherctl"
# New files: cargo's own, which these are hard links to, stay as they are for the next time.
chmod 644 "$fresh/etherws.debug"
mv -f "$fresh/etherws.debug" "$fresh/etherws" "$fresh/etherctl" .
ls -l --block-size=KiB etherws etherctl etherws.debug
