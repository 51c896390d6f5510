#!/usr/bin/env bash
# Puts the page together, whole and ready to be served: examples/browser-vm/make.sh [FOLDER], by default
# target/browser-vm. The emulator comes from npm, kernel, busybox and BIOS from Debian.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
out=${1:-$root/target/browser-vm}

"$root/scripts/browser.sh"
"$root/scripts/vm.sh" i386
bios=/usr/share/seabios
[ -e $bios/bios.bin ] || { echo "##### SKIPPED: the page: no $bios/bios.bin (apt-get install seabios) #####" >&2; exit 3; }
mkdir -p "$out"
cp "$here/index.html" "$here/page.js" "$root"/target/browser/node_modules/v86/build/{libv86.mjs,v86.wasm} \
    $bios/bios.bin "$root"/target/vm/i386/{vmlinuz,initrd} "$out/"
cp $bios/vgabios-stdvga.bin "$out/vgabios.bin"
