#!/usr/bin/env bash
# Installs, uses, upgrades, removes and purges the Debian package in a fresh Debian (make test-deb): a chroot made by
# debootstrap, kept in target/chroot for the next time. Wants root. PROFILE=release tests what make deb makes; the debug
# build, which is there already, will do for the packaging. DEB_TEST_REQUIRED=1 makes what is skipped a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
suite=${DEB_TEST_SUITE:-bookworm}
mirror=${DEB_TEST_MIRROR:-http://deb.debian.org/debian}

skip() {
    echo "##### SKIPPED: the package in a chroot: $1 #####" >&2
    [ -z "${DEB_TEST_REQUIRED:-}" ] || exit 1
    exit 0
}
[ "$(id -u)" = 0 ] || skip 'only root can make one'
scripts/install-deps.sh package || skip 'what it needs is missing (see above)'
base=$target/chroot/$suite.tar
if [ ! -s "$base" ]; then
    echo "making a $suite (a minute or two, once)"
    mkdir -p "$target/chroot"
    made=$(mktemp -d "$target/chroot/made.XXXXXX")
    if ! timeout 900 debootstrap --variant=minbase "$suite" "$made/root" "$mirror" >"$target/chroot/debootstrap.log" 2>&1; then
        tail -n 5 "$target/chroot/debootstrap.log" >&2
        rm -rf "$made"
        skip "debootstrap failed (target/chroot/debootstrap.log)"
    fi
    rm -f "$made"/root/var/cache/apt/archives/*.deb
    tar -C "$made/root" --one-file-system -cf "$base.new" .
    mv "$base.new" "$base"
    rm -rf "$made"
fi

rm -f "$target"/debian/etherws_*.deb
PROFILE=${PROFILE:-debug} scripts/deb.sh
deb=$(ls "$target"/debian/etherws_*.deb)

work=$(mktemp -d)
root=$work/root
daemon=
peer=
cleanup() {
    [ -z "$peer" ] || kill "$peer" 2>/dev/null || true
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    wait 2>/dev/null || true
    umount "$root/proc" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
step='start'
say() { step=$*; echo "==> $*"; }
trap 'echo "FAILED: $step (line $LINENO)" >&2' ERR

mkdir "$root"
tar -C "$root" -xf "$base"
mkdir -p "$root/dev/net"
[ -c "$root/dev/null" ] || mknod -m 666 "$root/dev/null" c 1 3
[ -c "$root/dev/urandom" ] || mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/net/tun" c 10 200
mount -t proc proc "$root/proc"
in_root() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }
# What a package may leave: the databases of packages and users, logs and caches.
files() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./tmp -o -path ./var/lib/dpkg -o -path ./var/lib/apt \
        -o -path ./var/lib/systemd/deb-systemd-helper-enabled -o -path ./var/log -o -path ./var/cache \) -prune -o -printf '%p %y %m %u %g\n' | sort)
}
# install_deb FILE [OPTION OF APT...]
install_deb() {
    cp "$1" "$root/tmp/etherws.deb"
    in_root apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold "${@:2}" /tmp/etherws.deb \
        >"$work/apt.log" 2>&1 || { cat "$work/apt.log" >&2; false; }
}
# has FILE MODE USER GROUP
has() {
    local is
    is=$(in_root stat -c '%a %U %G' "$1")
    [ "$is" = "$2 $3 $4" ] || { echo "$1 is $is, not $2 $3 $4" >&2; false; }
}

say 'Install'
files >"$work/before"
install_deb "$deb"
in_root getent passwd etherws >/dev/null
in_root getent group etherws >/dev/null
has /usr/bin/etherws 755 root root
has /usr/bin/etherctl 755 root root
has /etc/etherws 770 root etherws
has /etc/etherws/etherws.toml 640 root etherws
has /etc/default/etherws 644 root root
has /var/lib/etherws 700 etherws etherws
has /usr/lib/systemd/system/etherws.service 644 root root
has /usr/lib/systemd/system/etherws.socket 644 root root
in_root dpkg --audit
in_root dpkg --verify etherws
# shellcheck disable=SC2016
in_root dpkg-query -W -f '${Conffiles}\n' etherws | sed 's/ [0-9a-f]*$//' | sort >"$work/conffiles"
printf ' /etc/default/etherws\n /etc/etherws/etherws.toml\n' | diff - <(grep . "$work/conffiles")

say 'Documents, man pages, completions'
for page in etherws etherws-sw etherws-check etherctl; do
    zcat "$root/usr/share/man/man1/$page.1.gz" >"$work/$page.1"
    if command -v man >/dev/null; then
        # The words of a warning are those of the man page's reader.
        MANWIDTH=80 man --warnings -l "$work/$page.1" 2>"$work/man.err" | grep -q NAME
        [ ! -s "$work/man.err" ] || { cat "$work/man.err" >&2; false; }
    fi
done
[ -s "$root/usr/share/doc/etherws/README.Debian" ]
grep -q Apache "$root/usr/share/doc/etherws/copyright"
for program in etherws etherctl; do
    bash -n "$root/usr/share/bash-completion/completions/$program"
    if command -v zsh >/dev/null; then zsh -n "$root/usr/share/zsh/vendor-completions/_$program"; fi
    if command -v fish >/dev/null; then fish -n "$root/usr/share/fish/vendor_completions.d/$program.fish"; fi
done

say 'The switch at work'
in_root etherws --version
in_root etherws check /etc/etherws/etherws.toml
unshare --net env -i PATH=/usr/sbin:/usr/bin chroot "$root" \
    etherws sw --config /etc/etherws/etherws.toml --port 0 --self-test >"$work/self-test"
if grep FAILED "$work/self-test"; then false; fi
# By a manager that keeps what a restart needs, as systemd does. Its socket has another name inside.
log=$root/tmp/switch.log
unshare --net env -i PATH=/usr/sbin:/usr/bin python3 tests/lab/service_manager.py "$root/tmp/notify" \
    env NOTIFY_SOCKET=/tmp/notify chroot "$root" etherws sw --config /etc/etherws/etherws.toml --port 8080 2>"$log" &
daemon=$!
for _ in $(seq 300); do
    if in_root etherctl version >"$work/version" 2>/dev/null; then break; fi
    kill -0 "$daemon" || { cat "$log" >&2; false; }
    sleep 0.1
done
grep -q '^etherws ' "$work/version"
grep -q 'sandbox: user etherws' "$log"
in_net() { nsenter --net="/proc/$daemon/ns/net" "$@"; }
in_net ip link set lo up
in_net ip link add br0 type bridge
in_root etherctl addport tap t0 --persist
in_root etherctl addport tap t1
in_net ip link set t1 master br0
# Somebody to be linked to, whom nobody restarts.
nsenter --net="/proc/$daemon/ns/net" env -i PATH=/usr/sbin:/usr/bin chroot "$root" \
    etherws sw --port 8081 --host 127.0.0.1 --ctlsock /tmp/peer.sock 2>"$work/peer.log" &
peer=$!
in_root etherctl addport client ws://127.0.0.1:8081/ --name far
# is_linked TIMES: it was, and is.
is_linked() {
    for _ in $(seq 300); do
        if [ "$(grep -c ' connected to ws://' "$log")" -ge "$1" ] && in_root etherctl listport | grep -Eq ' client +up .* far '; then
            return
        fi
        sleep 0.1
    done
    cat "$log" >&2
    false
}
is_linked 1
# INDEX MASTER of t1, and its number: made anew it would have others.
place() {
    in_net ip -o link show t1 | sed -n 's/^\([0-9]*\): t1: .* master \([^ ]*\) .*/\1 \2/p'
    in_root etherctl listport | awk '/ t1 / {print $1}'
}
in_root etherctl saveconf
in_root grep -q 't0' /etc/etherws/etherws.toml

say 'Upgrade: what was changed stays, as does what the switch wrote'
echo '# mine' >>"$root/etc/default/etherws"
echo state >"$root/var/lib/etherws/state"
cp "$root/etc/etherws/etherws.toml" "$work/saved.toml"
# The same package a version later, with other conffiles: only then is there something to be decided.
dpkg-deb -R "$deb" "$work/next"
sed -i 's/^\(Version: .*\)$/\1+next/' "$work/next/DEBIAN/control"
for file in etc/default/etherws etc/etherws/etherws.toml; do
    echo '# theirs' >>"$work/next/$file"
done
dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/next" "$work/next.deb" >/dev/null
# systemd is thought to run; who would ask it writes down when (since the boot) and what, and has the manager do it.
mkdir -p "$root/run/systemd/system" "$root/tmp/fake"
echo "$daemon" >"$root/tmp/manager.pid"
cat >"$root/tmp/fake/deb-systemd-invoke" <<'FAKE'
#!/bin/sh
read -r now _ </proc/uptime
echo "$now $*" >>/tmp/invoked
[ "$1" != try-restart ] || kill -HUP "$(cat /tmp/manager.pid)"
for _ in $(seq 300); do
    [ "$(grep -c ' connected to ws://' /tmp/switch.log)" -lt 2 ] || break
    sleep 0.1
done
read -r now _ </proc/uptime
echo "$now linked" >>/tmp/invoked
FAKE
chmod 755 "$root/tmp/fake/deb-systemd-invoke"
place >"$work/place"
grep -q ' br0$' "$work/place"
install_deb "$work/next.deb" -o DPkg::Path=/tmp/fake:/usr/sbin:/usr/bin:/sbin:/bin
rm -r "$root/run/systemd"
is_linked 2
diff "$work/place" <(place)
awk 'NR == 1 && $2 " " $3 == "try-restart etherws.service" {began = $1} NR == 2 && $2 == "linked" {ended = $1}
    END {print "linked again", ended - began, "s after try-restart"; exit NR != 2 || !began || !ended || ended - began > 5}' \
    "$root/tmp/invoked" || { cat "$root/tmp/invoked" >&2; false; }
# shellcheck disable=SC2016
in_root dpkg-query -W -f '${Version}\n' etherws | grep '+next$'
grep -q '^# mine$' "$root/etc/default/etherws"
diff "$work/saved.toml" "$root/etc/etherws/etherws.toml"
grep -q state "$root/var/lib/etherws/state"
has /etc/etherws 770 root etherws
in_root etherctl listport | grep -q t0
kill "$peer"
wait "$peer"
peer=
kill "$daemon"
wait "$daemon"
daemon=

say 'Remove: configuration and state stay'
in_root apt-get remove -q -y etherws >"$work/apt.log" 2>&1
[ ! -e "$root/usr/bin/etherws" ]
[ -e "$root/etc/etherws/etherws.toml" ]
[ -e "$root/var/lib/etherws/state" ]

say 'Purge: nothing stays but the user, and what others put into /etc/etherws'
touch "$root/etc/etherws/key.pem"
in_root apt-get purge -q -y etherws >"$work/apt.log" 2>&1
[ -e "$root/etc/etherws/key.pem" ]
rm -r "$root/etc/etherws"
files >"$work/after"
# The name of the user is in these, and adduser locks; nothing else may differ.
users='^\./(etc/((passwd|group|g?shadow|sub[ug]id)-?)|run/(etherws.*|adduser)|etc|run|var/lib|etc/default|etc/\.pwd\.lock) '
diff <(grep -Ev "$users" "$work/before") <(grep -Ev "$users" "$work/after")
in_root getent passwd etherws >/dev/null

say 'Again, where it was'
install_deb "$deb"
has /etc/etherws/etherws.toml 640 root etherws

if command -v lintian >/dev/null; then
    say 'lintian'
    lintian --fail-on error,warning --allow-root "$deb"
fi
echo 'the package is as it should be'
