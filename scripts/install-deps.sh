#!/usr/bin/env bash
# Installs what building, the demo or the tests need: scripts/install-deps.sh [build|demo|test|browser|package|fabric]
# (each includes the one before it, but package, which is build and what make test-deb needs, and fabric, which is demo and
# what examples/fabric needs). As root it installs with apt-get; otherwise it names what is missing and fails. Says nothing
# when all is there. No service is started or left enabled by it.
set -euo pipefail

what=${1:-test}
case $what in build | demo | test | browser | package | fabric) ;; *)
    echo "usage: $0 [build|demo|test|browser|package|fabric]" >&2
    exit 2
    ;;
esac
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=()
packages=()
# need PACKAGE COMMAND...: the first command is looked for; further words are tried as a test.
need() {
    local package=$1 command=$2
    shift 2
    if ! command -v "$command" >/dev/null || { [ $# -gt 0 ] && ! "$command" "$@" >/dev/null 2>&1; }; then
        missing+=("$command")
        packages+=("$package")
    fi
}
look() {
    missing=()
    packages=()
    need gcc cc
    [ -e /usr/include/stdio.h ] || { missing+=("C headers"); packages+=(libc6-dev); }
    if [ "$what" != build ] && [ "$what" != package ]; then
        need iproute2 ip
        need iputils-ping ping
        need procps sysctl
        need dnsmasq-base dnsmasq
        need busybox busybox udhcpc --help
        need iperf3 iperf3
    fi
    if [ "$what" = fabric ]; then
        need frr vtysh
        need haproxy haproxy
        need python3 /usr/bin/python3
    fi
    if [ "$what" = test ] || [ "$what" = browser ]; then
        need netcat-openbsd nc
        need ethtool ethtool
        need tcpdump tcpdump
        need tshark tshark
        need curl curl
        need openssl openssl
        need apache2-utils htpasswd
        need tinyproxy-bin tinyproxy
        need nginx nginx
        need tmux tmux
        need valgrind valgrind
        need qemu-system-x86 qemu-system-x86_64
        need python3 /usr/bin/python3
        need python3-websockets /usr/bin/python3 -c 'import websockets'
        need python3-prometheus-client /usr/bin/python3 -c 'import prometheus_client'
        need python3-pip /usr/bin/python3 -m pip --version
        need nodejs node
        [ -e /usr/share/nodejs/ws ] || { missing+=("ws of Node.js"); packages+=(node-ws); }
        need shellcheck shellcheck
    fi
    if [ "$what" = package ]; then
        need debootstrap debootstrap
        need man-db man
        need zsh zsh
        need fish fish
        need lintian lintian
    fi
    if [ "$what" = browser ]; then
        need chromium chromium
        need npm npm
        need fontconfig fc-match
        [ -e /usr/share/fonts/truetype/dejavu ] || { missing+=("DejaVu fonts"); packages+=(fonts-dejavu-core); }
        [ -e /usr/share/seabios/bios.bin ] || { missing+=(SeaBIOS); packages+=(seabios); }
    fi
}

look
if [ ${#packages[@]} -gt 0 ]; then
    line="apt-get install -y --no-install-recommends ${packages[*]}"
    if [ "$(id -u)" != 0 ] || [ -n "${ETHERWS_NO_INSTALL:-}" ]; then
        echo "missing: ${missing[*]}" >&2
        echo "as root: $line" >&2
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]}; this is not Debian (no apt-get): install them by hand" >&2
        exit 1
    fi
    echo "installing: ${packages[*]}"
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then # packages must not start their services
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    apt=(timeout 900 apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || "${apt[@]}" -q update >"$log" 2>&1 || true
    install=("${apt[@]}" -q install -y --no-install-recommends "${packages[@]}")
    if ! "${install[@]}" >>"$log" 2>&1; then
        "${apt[@]}" -q update >>"$log" 2>&1 || true # the lists may be old
        "${install[@]}" >>"$log" 2>&1 || {
            tail -n 20 "$log" >&2
            echo "failed: $line" >&2
            exit 1
        }
    fi
    rm -f "$log"
    for service in nginx haproxy frr; do
        case " ${packages[*]} " in *" $service "*) ;; *) continue ;; esac # installed by us, so nobody relies on it
        if command -v systemctl >/dev/null; then systemctl -q disable $service.service >/dev/null 2>&1 || true; fi
        if command -v update-rc.d >/dev/null; then update-rc.d $service disable >/dev/null 2>&1 || true; fi
    done
    look
    if [ ${#missing[@]} -gt 0 ]; then
        echo "still missing after the installation: ${missing[*]}" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    echo "missing: cargo, the Rust toolchain (1.89 or newer; see https://rustup.rs)" >&2
    exit 1
fi
