#!/usr/bin/env bash
# Makes the Debian package (make deb): target/debian/etherws_VERSION_ARCH.deb. PROFILE=debug packages the debug build,
# for a test of the packaging; DEB_VERSION is another version than that of Cargo.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
cargo_deb=3.8.0

case ${PROFILE:=release} in
release)
    scripts/release.sh
    profile=release
    ;;
debug)
    "$cargo" build --locked
    profile=dev
    ;;
*)
    echo "PROFILE is release or debug, not $PROFILE" >&2
    exit 2
    ;;
esac

tool=$target/tools/bin/cargo-deb
if [ "$("$tool" --version 2>/dev/null)" != "cargo-deb $cargo_deb" ]; then
    echo "installing cargo-deb $cargo_deb into $target/tools (some minutes, once)"
    "$cargo" install --locked --quiet --root "$target/tools" --version "$cargo_deb" cargo-deb
fi

# What the programs say about themselves. cargo-deb compresses it.
stage=$target/deb
rm -rf "$stage"
mkdir -p "$stage/man" "$stage/bash" "$stage/zsh" "$stage/fish"
for program in etherws etherctl; do
    built=$target/$PROFILE/$program
    "$built" man "$stage/man"
    "$built" completions bash >"$stage/bash/$program"
    "$built" completions zsh >"$stage/zsh/_$program"
    "$built" completions fish >"$stage/fish/$program.fish"
done
version=${DEB_VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-1}
gzip -9nc CHANGELOG.md >"$stage/changelog.gz"
date=$(git log -1 --format=%cD 2>/dev/null || date -R)
printf 'etherws (%s) unstable; urgency=medium\n\n  * See /usr/share/doc/etherws/changelog.gz.\n\n -- %s  %s\n' \
    "$version" "$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)" "$date" >"$stage/changelog"

fast=()
[ "$PROFILE" = release ] || fast=(--fast)
# Cargo's own view of the target folder is asked for, not ours of it.
CARGO_TARGET_DIR=$target "$tool" --no-build --profile "$profile" --deb-version "$version" --no-dbgsym "${fast[@]}"
