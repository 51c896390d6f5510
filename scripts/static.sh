#!/usr/bin/env bash
# A static etherws and etherctl (make static), for machines with another C library or none: target/TRIPLE/release.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin
triple=${STATIC_TARGET:-$(uname -m)-unknown-linux-musl}

skip() {
    echo "##### SKIPPED: the static programs: $1 #####" >&2
    [ -z "${STATIC_REQUIRED:-}" ] || exit 1
    exit 0
}
installed=$(rustc --print target-libdir --target "$triple" 2>/dev/null) || skip "rustc knows no $triple"
[ -d "$installed" ] || skip "no standard library for $triple here (rustup target add $triple)"
# aws-lc, the ciphers, is C.
for cc in "${CC_MUSL:-}" "${triple%%-*}-linux-musl-gcc" musl-gcc; do
    if [ -n "$cc" ] && command -v "$cc" >/dev/null; then break; fi
    cc=
done
[ -n "$cc" ] || skip 'no C compiler for musl (apt-get install musl-tools)'
upper=$(echo "$triple" | tr a-z- A-Z_)
env "CC_${triple//-/_}=$cc" "CARGO_TARGET_${upper}_LINKER=$cc" "${CARGO:-cargo}" build --release --locked --target "$triple"
for program in etherws etherctl; do
    built=${CARGO_TARGET_DIR:-target}/$triple/release/$program
    if file "$built" | grep -q 'dynamically linked'; then
        echo "$built is not static" >&2
        exit 1
    fi
    ls -l --block-size=KiB "$built"
done
