#!/usr/bin/env bash
# Makes virtual machines' parts from Debian's packages: scripts/vm.sh amd64|i386, into target/vm/ARCH: `vmlinuz`, a
# kernel, and `initrd`, a busybox with the kernel's modules for a network card and VLANs. amd64 is for QEMU (the
# cloud kernel, virtio), i386 for emulators in a browser (ne2k-pci).
#
# Nothing is installed: apt has lists and an architecture of its own in target/vm/apt. Where the packages cannot be
# had it says SKIPPED and exits with 3.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    amd64)
        kernel=linux-image-cloud-amd64
        modules=(virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net)
        modules+=(llc stp mrp garp 8021q)
        ;;
    i386)
        kernel=linux-image-686
        modules=(8390 ne2k-pci)
        ;;
    *)
        echo "usage: $0 amd64|i386" >&2
        exit 2
        ;;
esac
arch=$1
dir=$PWD/target/vm
out=$dir/$arch

skip() {
    echo "##### SKIPPED: a virtual machine for $arch: $1 #####" >&2
    exit 3
}

# What is there is good as long as what made it is the same.
made_by=$(cat scripts/vm.sh scripts/vm-init.sh | sha256sum)
[ "$(cat "$out/made-by" 2>/dev/null)" = "$made_by" ] && exit 0
command -v apt-get >/dev/null || skip 'this is not Debian (no apt-get)'

rm -rf "$out"
mkdir -p "$out" "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/apt/packages"
cat >"$dir/apt/apt.conf" <<CONF
APT::Architecture "amd64";
APT::Architectures { "amd64"; "i386"; };
APT::Sandbox::User "root";
Dir::State "$dir/apt";
Dir::State::status "/dev/null";
Dir::Cache "$dir/apt/cache";
Acquire::Retries "3";
Acquire::Languages "none";
CONF
export APT_CONFIG=$dir/apt/apt.conf
log=$out/log
image() { apt-cache depends --important "$kernel:$arch" 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }'; }
fetch() {
    local name
    name=$(image)
    [ -n "$name" ] && (cd "$dir/apt/packages" && timeout 600 apt-get -q download "${name%:*}:$arch" "busybox-static:$arch" \
        && rm -rf "$out/root" && for deb in "${name%:*}"_*_"$arch".deb busybox-static_*_"$arch".deb; do
            dpkg-deb -x "$deb" "$out/root"
        done)
}
if ! fetch >"$log" 2>&1; then
    # One of several sources may fail.
    timeout 600 apt-get -q update >"$log" 2>&1 || true
    fetch >>"$log" 2>&1 || skip "the packages could not be fetched (${log#"$PWD/"})"
fi

busybox=$out/root/bin/busybox
"$busybox" true || skip "programs for $arch do not run here"
initrd=$out/tree
mkdir -p "$initrd"/{bin,dev,etc,modules,proc,run,sys,tmp}
cp "$busybox" "$initrd/bin/"
for module in "${modules[@]}"; do
    ! grep -q "/$module\.ko$" "$out"/root/lib/modules/*/modules.builtin || continue
    file=$(find "$out/root/lib/modules" -name "$module.ko*" | head -n 1)
    case $file in
        *.ko) cp "$file" "$initrd/modules/" ;;
        *.ko.xz) xz -dc "$file" >"$initrd/modules/$module.ko" ;;
        *) skip "$(image) has no module $module" ;;
    esac
    echo "$module.ko" >>"$initrd/modules/order"
done
cp scripts/vm-init.sh "$initrd/init"
cat >"$initrd/etc/udhcpc.sh" <<'DHCP'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr replace "$ip/${mask:-24}" dev "$interface"
echo "lease $ip from $serverid"
DHCP
chmod 755 "$initrd/init" "$initrd/etc/udhcpc.sh"
(cd "$initrd" && find . | "$busybox" cpio -o -H newc -R 0:0 2>>"$log" | gzip -9) >"$out/initrd"
cp "$out"/root/boot/vmlinuz-* "$out/vmlinuz"
rm -rf "$out/root" "$initrd" "$dir/apt/packages"/*_"$arch".deb
echo "$made_by" >"$out/made-by"
ls -l --block-size=KiB "$out/vmlinuz" "$out/initrd"
