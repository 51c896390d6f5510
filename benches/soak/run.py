#!/usr/bin/env python3
"""Reliability, measured (make soak): the R rows that one machine can show in minutes, then churn for the rest of the time.

Two hosts as in the lab (benches/lab/hosts.py). Each row starts its own switches, prints what it found beside its goal, and
ends what it started. What R13 (fuzzing) and the long R14 come to stands in docs/soak.md.
"""

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))

from doors import r6_reconnect_storm, r11_reload, r12_abuse, said  # noqa: E402
from hosts import OVERLAY, UNDERLAY, Lab, LabError, until  # noqa: E402
from place import Flows, Row, account, cpu, cpu_exact, descriptors, ping_ms, rss_kib  # noqa: E402
from tunnels import certificate  # noqa: E402

TOTALS = os.path.join(HERE, "..", "results", "gates.tsv")  # of R13 and R14, a line for each run
BARE = 9000  # where connections come to that are nobody's links
FRAME = 1_000  # bytes of one to a slow peer, and to many


# --- The rows: each returns [(row, met, what was found)] -----------------------------------------------------------

def r1_conservation(lab, frames):
    with Row(lab) as row:
        row.pair()
        for side in "ab":
            row.tap(side, "t1", "--no-offload")
        # A TAP's own ring drops what comes too fast; that never came in.
        for turn in range(10):
            places = (("a", "t0"), ("a", "t1"), ("b", "t0"), ("b", "t1"))
            peers = [row.peer(side, "frames", device, frames // 4, seed) for seed, (side, device) in enumerate(places, 1)]
            for peer in peers:
                peer.wait(600)
            if sum(account(row, side)[0] for side in "ab") >= frames:
                break
        found = {}
        for side in "ab":
            until(lambda side=side: found.update({side: account(row, side)}) or found[side][0] == found[side][1], 30,
                  f"host {side}'s switch at rest")
        came, out = (sum(found[side][index] for side in "ab") for index in (0, 1))
        return [("R1 conservation", came == out and came >= frames, f"{came:,} came in and were copied, difference {came - out}")]


def r2_nothing_lost(lab, count):
    """At half the rate that passes without a loss for a second; both ways at once."""
    with Row(lab) as row:
        key, cert = certificate(lab)
        row.pair("--cacerts", cert, server=("--sslkey", key, "--sslcert", cert), scheme="wss")
        for side in "ab":  # a processor that is lent to others for a moment is not to be what is measured
            lab.ip(side, "link", "set", "t0", "txqueuelen", "10000")
        passes, rate, run = 0, 4_000, 0
        while rate < 1_000_000:
            run += 1
            found = Flows(row, rate, rate, run).ended(60)
            if found["lost"] or found["seconds"] > 1.15:
                break
            passes, rate = rate, int(rate * 1.25)
        half = passes // 2
        if not half:
            return [("R2 nothing lost", False, f"no rate passes whole: {found}")]
        each = min(count // 2, half * 100) if count <= 2_000_000 else count // 2
        found = Flows(row, each, half, run + 1).ended(60 + 3 * each / half)
        switches = {side: {name: number for entry in row.entries(side, "counters") for name, number in entry["drops"].items()
                           if number} for side in "ab"}
        faults = [found[name] for name in ("lost", "doubled", "altered", "late")]
        return [("R2 nothing lost", found["sent"] == 2 * each and not any(faults),
                 f"{found['sent']:,} datagrams of 32 flows over wss in {found['seconds']:.0f} s, {2 * half:,} of the {2 * passes:,} a "
                 "second that pass: {} lost, {} doubled, {} altered, {} out of order".format(*faults)
                 + (f"; dropped by kernels: {found['kernel']}, by switches since the start: {switches}" if found["lost"] else ""))]


def r3_bottleneck(lab):
    """Beside four streams, across 100 Mb/s, through the tunnel and beside it."""
    with Row(lab) as row:
        for side in "ab":
            lab.on(side, "tc", "qdisc", "add", "dev", "u0", "root", "tbf", "rate", "100mbit", "burst", "32kb", "latency", "50ms")
        try:
            row.pair()
            times = []
            for to in (UNDERLAY["b"], OVERLAY["b"]):
                server = lab.start("b", "iperf3", "iperf3", "-s", "-1", "-4")
                row.started.append(server)
                time.sleep(0.5)
                load = lab.start("a", "iperf3-load", "iperf3", "-4", "-c", to, "-t", 8, "-P", 4)
                row.started.append(load)
                time.sleep(2)
                times.append(ping_ms(lab, to))
                load.wait(30)
                lab.stop(load, server)
        finally:
            for side in "ab":
                lab.on(side, "tc", "qdisc", "del", "dev", "u0", "root", check=False)
        return [("R3 loaded ping, 100 Mb/s", times[1] - times[0] <= 15,
                 f"{times[1]:.1f} ms, the path's own {times[0]:.1f} ms (goal: 15 ms more at most)")]


def r4_slow_peer(lab):
    with Row(lab) as row:
        _, server = row.pair()
        row.tap("b", "t1", "--storm", "off")
        alone = row.iperf(5)
        before = {entry["port"] for entry in row.entries("b", "listport")}
        slow = row.peer("a", "slow", UNDERLAY["b"], "8080")
        slow.stdout.readline()
        until(lambda: len(row.entries("b", "listport")) > len(before), 10, "the slow peer's port")
        port = next(entry["port"] for entry in row.entries("b", "listport") if entry["port"] not in before)
        mac = "02:00:00:00:bb:01"
        row.ctl("b", "addfdb", mac, str(port))
        rss = rss_kib(server)
        row.peer("b", "stream", "t1", mac, 20_000, 30)

        def counted():
            of = {entry["name"]: entry for entry in row.entries("b", "counters")}
            slow = next(entry for entry in of.values() if entry["port"] == port)
            return of["t1"]["rx"], slow["tx"], sum(slow["drops"].values())

        # It is blocked when nothing has gone out to it for a second although some came: since the last that went.
        sent, since = -1, time.monotonic()
        until(lambda: counted()[1] > 0, 10, "the first frame for the slow peer")
        while time.monotonic() - since < 1:
            now = counted()[1]
            if now != sent:
                sent, since = now, time.monotonic()
        waiting = sorted(came - out - drops for came, out, drops in (counted() for _ in range(5)))[2]
        beside, most = row.iperf(5), rss_kib(server)
        closed = lambda: port not in {entry["port"] for entry in row.entries("b", "listport")}
        until(closed, 30, "the end of the slow peer")
        after = time.monotonic() - since
        met = beside >= 0.95 * alone and waiting <= 1024 and waiting * FRAME <= 4 << 20 and after < 12.5
        return [("R4 slow peer", met, f"others {beside / alone:.2f} of their rate, {waiting:,} frames of {FRAME:,} bytes wait, "
                 f"{(most - rss) / 1024:.1f} MiB more, closed {after:.1f} s after the last that it took (10 s without progress)")]


def r5_many_peers(lab, count):
    with Row(lab) as row:
        key, cert = certificate(lab)
        server = row.server("--sslkey", key, "--sslcert", cert)
        row.tap("b", "t0", "--storm", "off", "--no-offload")
        lab.ip("b", "link", "set", "t0", "up")
        peers = row.peer("a", "idle", count, UNDERLAY["b"], "8080", cert)
        if peers.stdout.readline().strip() != "ready":
            raise LabError("the idle peers did not come up")
        time.sleep(5)
        rss, before = rss_kib(server), cpu(server)
        time.sleep(20)
        share = (cpu(server) - before) / 20
        links = sum(entry["type"] == "server" for entry in row.entries("b", "listport"))
        copied = lambda: sum(entry["tx"] for entry in row.entries("b", "counters"))
        earlier, before = copied(), cpu_exact(server)
        row.peer("b", "stream", "t0", "ff:ff:ff:ff:ff:ff", 100, 3).wait(20)
        time.sleep(2)
        each = (cpu_exact(server) - before) / max(copied() - earlier, 1) * 1e6
        bare = bare_send(row, count)
        result = [("R5 many peers", links == count and rss <= 48 << 10 and share < 0.05,
                   f"{links} wss links: {rss / 1024:.1f} MiB, {share:.1%} of a core"),
                  ("R5 broadcast", each - bare <= 1.5,
                   f"{each:.2f} us of CPU a copy, {bare:.2f} of a bare send: {each - bare:.2f} beyond it (goal: 1.5 at most)")]
        # R10, with the same peers: what was accepted while they did not run is to be there for them, 100 broadcasts behind the
        # 300 of before.
        peers.send_signal(signal.SIGSTOP)
        row.peer("b", "stream", "t0", "ff:ff:ff:ff:ff:ff", 100, 1).wait(20)
        peers.stdin.close()
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        peers.send_signal(signal.SIGCONT)
        code = server.wait(30)
        took = time.monotonic() - began
        ends = json.loads(peers.stdout.readline() or "{}")
        fewest, most = json.loads(peers.stdout.readline() or "[0, -1]")
        met = code == 0 and took <= 10 and ends.get("1001") == count and fewest == most > 350
        result.append(("R10 drain", met, f"exit {code} after {took:.1f} s; Close codes {ends}; "
                       + (f"{most} broadcasts came to each" if fewest == most else f"{fewest} to {most} broadcasts came")))
        return result


def bare_send(row, count):
    """What a copy over wss costs the kernel alone: the same bytes to as many connections that nobody reads, in us."""
    sender = row.peer("b", "send", count, UNDERLAY["b"], BARE, 20, FRAME + 4 + 22, program="../scale/copies.py")
    sender.stdout.readline()
    taker = row.peer("a", "take", count, UNDERLAY["b"], BARE, program="../scale/copies.py")
    found = said(sender, 120)["us"]
    taker.stdin.close()
    taker.wait(20)
    return found


def r7_mac_flood(lab, count):
    with Row(lab) as row:
        _, server = row.pair()
        before = rss_kib(server)
        # The others talk meanwhile, and nothing of that is the flood's to see.
        theirs = [lab.on(side, "cat", "/sys/class/net/t0/address").strip() for side in "ab"]
        talk = lab.start("a", "ping", "ping", "-nqi", "0.05", OVERLAY["b"])
        row.started.append(talk)
        flood = row.peer("a", "sources", count, UNDERLAY["b"], "8080", *theirs)
        most, more, stays = 0, 0, True
        while flood.poll() is None:
            stations = row.entries("b", "listfdb")
            most, more = max(most, len(stations)), max(more, rss_kib(server) - before)
            stays = stays and any(entry["name"] == "t0" for entry in stations)
        strays = said(flood, 60)["strays"]
        return [("R7 MAC flood", most <= 8192 and more <= 2 << 10 and stays and not strays,
                 f"{count:,} sources: {most:,} stations at most, {more / 1024:.1f} MiB more, the TAP's station "
                 + ("stays" if stays else "does NOT stay") + f", {strays} frames of others leaked")]


def r8_loop(lab):
    with Row(lab) as row:
        client, server = row.pair()
        row.link("--name", "also")
        blocked = lambda: [entry for side in "ab" for entry in row.entries(side, "listport") if entry["state"] == "blocked"]
        until(lambda: any(entry["name"] == "also" and entry["state"] in ("up", "blocked") for entry in row.entries("a", "listport")),
              10, "the second link")
        began = time.monotonic()
        lab.on("a", "ping", "-c1", "-W1", "-b", "10.99.1.255", check=False)
        until(blocked, 30, "a blocked port")
        took, before, slowest = time.monotonic() - began, cpu(client) + cpu(server), 0.0
        for _ in range(20):
            asked = time.monotonic()
            row.ctl("b", "version")
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.1)
        share = (cpu(client) + cpu(server) - before) / (time.monotonic() - began - took)
        row.ctl("a", "delport", "also")
        cut = time.monotonic()
        until(lambda: not blocked(), 60, "no port blocked")
        row.meet()
        healed = time.monotonic() - cut
        met = took <= 2 and share < 0.2 and slowest < 0.2 and healed <= 30
        return [("R8 loop", met, f"blocked after {took:.1f} s, {share:.1%} of a core, control in {slowest * 1e3:.0f} ms, healed "
                 f"{healed:.0f} s after the second link went")]


def r9_dead_peer(lab):
    """The path swallows everything, both ways."""
    with Row(lab) as row:
        row.pair()
        state = lambda: next(entry for entry in row.entries("a", "listport") if entry["name"] == "link")
        number = state()["port"]
        time.sleep(20)
        for side, other in ("ab", "ba"):  # sent to nobody, and no error anywhere
            lab.ip(side, "neigh", "replace", UNDERLAY[other], "lladdr", "02:00:00:00:00:99", "dev", "u0", "nud", "permanent")
        began = time.monotonic()
        until(lambda: state()["state"] != "up", 90, "the link noticed dead")
        noticed = time.monotonic() - began
        flushed = not any(entry["name"] == "link" for entry in row.entries("a", "listfdb"))
        for side, other in ("ab", "ba"):
            lab.ip(side, "neigh", "del", UNDERLAY[other], "dev", "u0")
        healed = time.monotonic()
        until(lambda: state()["state"] == "up", 60, "the link up again")
        back = time.monotonic() - healed
        met = noticed <= 45 and flushed and back <= 30 and state()["port"] == number
        return [("R9 dead peer", met, f"noticed after {noticed:.0f} s, its stations forgotten: {flushed}, up {back:.0f} s after "
                 "the path, same number")]


def r14_churn(lab, seconds, seed):
    """Links and ports come and go, a fault every few seconds; of both switches the least-squares slope of RSS with its 95 %
    interval, descriptors, threads, panics, and whether each frame is accounted for."""
    rng = random.Random(seed)
    with Row(lab) as row:
        client, server = row.pair()
        switches = {"a": client, "b": server}
        start = {side: descriptors(process) for side, process in switches.items()}
        points, began, turns = {"a": [], "b": []}, time.monotonic(), 0
        while time.monotonic() - began < seconds:
            turns += 1
            what = rng.randrange(6)
            if what == 0:
                row.ctl("a", "delport", "link")
                row.link("--name", "link")
            elif what == 1:
                row.tap("b", "t2")
                row.ctl("b", "delport", "t2")
            elif what == 2:
                server.send_signal(signal.SIGHUP)
            elif what == 3:
                row.peer("a", "slow", UNDERLAY["b"], "8080").stdout.readline()
                row.started.pop().kill()
            elif what == 4:
                lab.ip("a", "link", "set", "u0", "down")
                time.sleep(0.5)
                lab.ip("a", "link", "set", "u0", "up")
            else:
                row.peer("b", "frames", "t0", 5_000, 2).wait(60)
            time.sleep(1)
            for side, process in switches.items():
                points[side].append((time.monotonic() - began, rss_kib(process)))
        row.meet(60)
        time.sleep(3)
        result = []
        for side, process in switches.items():
            now, panics = descriptors(process), read_text(process.log).count("panicked")
            slope, error = (value * 3600 / 1024 for value in line(points[side][len(points[side]) // 4:]))
            came, out = at_rest(row, side)
            text = (f"{seconds:.0f} s, {turns} disturbances (seed {seed}), host {side}: {slope:+.2f} +- {error:.2f} MiB/h, "
                    f"descriptors and threads {start[side]} -> {now}, {panics} panics, {came:,} frames, difference {came - out}")
            sound = now[1] == start[side][1] and abs(now[0] - start[side][0]) <= 2 and not panics and came == out
            # Minutes say nothing of an hour's slope.
            result.append(("R14 churn", sound and (slope < 1 if seconds >= 3600 else None), text))
        if all(met is not False for _, met, _ in result):
            add_to_total("R14 churn", seconds, "s")
        return result


def at_rest(row, side):
    """`account`, once it says the same twice and nothing is missing, or after half a minute."""
    before, now, began = None, account(row, side), time.monotonic()
    while (now != before or now[0] != now[1]) and time.monotonic() - began < 30:
        time.sleep(0.5)
        before, now = now, account(row, side)
    return now


def read_text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def add_to_total(gate, count, unit):
    """Writes down what one run came to, and tells what all have."""
    with open(TOTALS, "a+", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d', time.gmtime())}\t{gate}\t{count:.0f}\t{unit}\n")
        file.seek(0)
        lines = (text.split("\t") for text in file)
        total = sum(int(fields[2]) for fields in lines if fields[1:2] == [gate])
    print(f"{gate}: {total:,} {unit} so far", flush=True)


def line(points):
    """Slope of least squares, and half its 95 % interval."""
    count = len(points)
    if count < 3:
        return 0.0, math.inf
    middle = sum(x for x, _ in points) / count
    level = sum(y for _, y in points) / count
    spread = sum((x - middle) ** 2 for x, _ in points)
    slope = sum((x - middle) * (y - level) for x, y in points) / spread
    rest = sum((y - level - slope * (x - middle)) ** 2 for x, y in points)
    return slope, 1.96 * math.sqrt(rest / (count - 2) / spread)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=600, help="in all (600)")
    parser.add_argument("--only", help="rows, by comma: R1 to R9, R11, R12, R14 (R5 with R10)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("soak: network namespaces and TAPs want root: sudo make soak")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    rows = {"R1": lambda lab: r1_conservation(lab, 1_000_000),
            "R2": lambda lab: r2_nothing_lost(lab, 10_000_000 if options.seconds >= 3600 else 2_000_000),
            "R3": r3_bottleneck, "R4": r4_slow_peer, "R5": lambda lab: r5_many_peers(lab, 1_000),
            "R6": lambda lab: r6_reconnect_storm(lab, 60), "R7": lambda lab: r7_mac_flood(lab, 1_000_000),
            "R8": r8_loop, "R9": r9_dead_peer, "R11": r11_reload, "R12": r12_abuse}
    wanted = options.only.split(",") if options.only else [*rows, "R14"]
    began, missed = time.monotonic(), 0

    def judge(name, work):
        nonlocal missed
        try:
            with Lab() as lab:
                found = work(lab)
        except (LabError, subprocess.TimeoutExpired) as error:
            found = [(name, False, f"not measured: {error}")]
        for row, met, text in found:
            word = {True: "met", False: "MISSED", None: "open"}[met]
            missed += met is False
            print(f"{row:26} {word:7} {text}", flush=True)

    for name, work in rows.items():
        if name in wanted:
            judge(name, work)
    if "R14" in wanted:
        rest = max(30.0, options.seconds - (time.monotonic() - began))
        judge("R14 churn", lambda lab: r14_churn(lab, rest, options.seed))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
