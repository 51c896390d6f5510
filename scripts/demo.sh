#!/usr/bin/env bash
# The story in one go (make demo): two hosts with nothing but a web port between them become one Ethernet
# segment. Hosts are network namespaces. Cleans up whatever happens; KEEP=1 leaves everything up.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin

step='start'
say() { step=$*; printf '\n==> %s\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }

# --- Tools, build, privilege ---------------------------------------------------------------------
if [ -z "${ETHERWS_DEMO_INSIDE:-}" ]; then
    say 'Looking for what the demo needs'
    scripts/install-deps.sh demo || die 'install what is missing, then run make demo again'
    [ -c /dev/net/tun ] || { [ "$(id -u)" = 0 ] && mkdir -p /dev/net && mknod /dev/net/tun c 10 200; } ||
        die '/dev/net/tun is missing: modprobe tun'
    : <>/dev/net/tun || die '/dev/net/tun cannot be opened: run as root, or as root: chmod 666 /dev/net/tun'

    say 'Building etherws'
    timeout 3600 cargo build --profile demo --locked
fi
target=${CARGO_TARGET_DIR:-target}/demo
etherws=$(realpath "$target/etherws")
etherctl=$(realpath "$target/etherctl")

if [ "$(id -u)" != 0 ]; then
    say 'Not root: entering a user namespace of our own'
    unshare --map-root-user --net --mount true 2>/dev/null ||
        die 'unshare --map-root-user --net --mount is not permitted here (kernel.unprivileged_userns_clone, AppArmor, or a container): run as root'
    ETHERWS_DEMO_INSIDE=user exec unshare --map-root-user --net --mount "$0"
fi
if [ "${ETHERWS_DEMO_INSIDE:-}" = user ]; then
    mount -t tmpfs tmpfs /run # ip netns keeps its names in /run/netns, which belongs to the real root
fi

# --- The laboratory ------------------------------------------------------------------------------
A=etherws-demo-$$-a
B=etherws-demo-$$-b
work=$(mktemp -d "${TMPDIR:-/tmp}/etherws-demo.XXXXXX")
pids=()

on() { # on HOST SECONDS COMMAND...: runs a command in a host, for so many seconds at most
    local host=$1 limit=$2
    shift 2
    ip netns exec "$host" timeout -k 2 "$limit" "$@"
}
start() { # start HOST LOG COMMAND...: starts a process in a host
    local host=$1 log=$2
    shift 2
    setsid ip netns exec "$host" "$@" >"$work/$log.log" 2>&1 </dev/null &
    pids+=($!)
}
retry() { # retry SECONDS COMMAND...: until it succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { echo "waited in vain for: $*" >&2; return 1; }
        sleep 0.2
    done
}
ctl() { # ctl a|b ARGUMENTS...: etherctl for that host's switch
    local side=$1
    shift
    timeout -k 2 20 "$etherctl" --ctlurl "unix:$work/$side.sock" "$@"
}
clean() {
    local pid host
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    for _ in 1 2 3 4 5 6 7 8 9 10; do # etherws says goodbye to its peers
        [ -n "$(ip netns pids $A 2>/dev/null; ip netns pids $B 2>/dev/null)" ] || break
        sleep 0.2
    done
    for host in $A $B; do
        for pid in $(ip netns pids "$host" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
        ip netns del "$host" 2>/dev/null || true
    done
    rm -rf "$work"
}
finish() {
    local status=$?
    trap - EXIT ERR INT TERM HUP
    set +e
    if [ $status -ne 0 ]; then
        printf '\ndemo: FAILED (exit %s) at: %s\n' $status "$step" >&2
        for log in "$work"/*.log; do
            [ -s "$log" ] && printf -- '--- last lines of %s\n' "${log##*/}" >&2 && tail -n 25 "$log" >&2
        done
    fi
    if [ -n "${KEEP:-}" ] && [ ${#pids[@]} -gt 0 ]; then keep; else clean; fi
    [ $status -ne 0 ] || printf '\ndemo: done\n'
    exit $status
}
keep() {
    local pid_a=${pids[0]} pid_b=${pids[1]:-${pids[0]}}
    {
        echo '#!/bin/sh'
        echo "kill ${pids[*]} 2>/dev/null; sleep 1; kill -KILL ${pids[*]} 2>/dev/null"
        if [ "${ETHERWS_DEMO_INSIDE:-}" != user ]; then echo "ip netns del $A; ip netns del $B"; fi
        echo "rm -rf $work"
    } >"$work/remove"
    printf '\nKEEP=1: the hosts stay up. Their files and logs: %s\n' "$work"
    if [ "${ETHERWS_DEMO_INSIDE:-}" = user ]; then
        echo "  enter host A:  nsenter -t $pid_a --user --preserve-credentials --net --mount"
        echo "  enter host B:  nsenter -t $pid_b --user --preserve-credentials --net --mount"
    else
        echo "  enter host A:  ip netns exec $A bash"
        echo "  enter host B:  ip netns exec $B bash"
    fi
    echo "  ask A's switch: $etherctl --ctlurl unix:$work/a.sock listport   (B's: b.sock)"
    echo "  remove all:    sh $work/remove"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "Making two hosts, $A and $B, with a cable between them (MTU 1500)"
mkdir -p /run/netns
ip netns add $A
ip netns add $B
ip -n $A link add eth0 type veth peer name eth0 netns $B
ip -n $A addr add 192.0.2.1/24 dev eth0
ip -n $B addr add 192.0.2.2/24 dev eth0
for host in $A $B; do
    ip -n $host link set lo up
    ip -n $host link set eth0 up
    ip -n $host link add br0 type bridge
    ip -n $host link set br0 up
done

say 'Command 1, on host B: etherws sw   (it listens on port 80)'
unset http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
start $A etherws-a "$etherws" sw --no-listen --ctlsock "$work/a.sock"
start $B etherws-b "$etherws" sw --ctlsock "$work/b.sock"
retry 20 ctl a version
retry 20 ctl b version
ctl b version

say 'Command 2, on host A: etherctl addport client ws://192.0.2.2/'
ctl a addport client ws://192.0.2.2/ --name link-to-b

say 'A TAP on each side, each in its host'"'"'s bridge br0'
for side in a b; do
    host=$A
    [ $side = a ] || host=$B
    ctl $side addport tap ews0
    ip -n $host link set ews0 master br0
done
ip -n $B addr add 10.77.0.1/24 dev br0
link_is_up() { ctl a listport | grep -Eq '^ *[0-9]+ +client +up '; }
retry 20 link_is_up

say 'DHCP: a server on host B'"'"'s bridge, a client on host A'"'"'s, the switch in between'
start $B dnsmasq dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user= --group= --pid-file= \
    --interface=br0 --bind-interfaces --no-ping --dhcp-range=10.77.0.50,10.77.0.99,10m \
    --dhcp-leasefile="$work/leases"
cat >"$work/lease.sh" <<'SCRIPT'
#!/bin/sh
if [ "$1" = bound ]; then
    ip addr replace "$ip/24" dev "$interface" && echo "lease: $ip from $serverid for $lease s"
fi
SCRIPT
chmod +x "$work/lease.sh"
on $A 30 busybox udhcpc -f -q -n -t 20 -T 1 -i br0 -s "$work/lease.sh" 2>&1 | grep -v '^udhcpc: started' || true
ip -n $A -4 -br addr show dev br0 | grep -q '10\.77\.0\.' || die 'no DHCP lease came across the link'

say 'Ping, from A through the link to B'
on $A 20 ping -n -c 5 -i 0.2 10.77.0.1

for side in a b; do
    for command in listport listif listfdb; do
        say "Host ${side^^}: etherctl $command"
        ctl $side $command
    done
done

say 'TCP throughput (iperf3, one stream, 3 s each way)'
start $B iperf3 iperf3 -s
listens() { ip netns exec $B ss -Hltn 'sport = :5201' | grep -q 5201; }
retry 10 listens
measure() { # measure LABEL OPTIONS...
    local label=$1
    shift
    on $A 30 iperf3 -c 10.77.0.1 -t 3 -f m "$@" >"$work/iperf3-client.log" 2>&1
    awk -v label="$label" '/receiver/ { for (i = 2; i <= NF; i++) if ($i == "Mbits/sec") rate = $(i - 1) }
        END { if (rate == "") exit 1; printf "    %s  %s Mb/s\n", label, rate }' "$work/iperf3-client.log"
}
measure 'A -> B (client -> server)'
measure 'B -> A (server -> client)' -R

[ -n "${KEEP:-}" ] || say 'Cleaning up'
