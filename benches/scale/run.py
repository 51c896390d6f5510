#!/usr/bin/env -S python3 -B
"""What a switch with many links costs (make bench-scale): benches/scale/run.py [--quick] | --table FILE

Root. Two hosts as in the lab; on B a switch for ws and one for wss, on A idle links to them, from 10 to 10,000 each. At each
step, when all has come to rest, the idle ones are measured, and beside them broadcasts, what control answers, handshakes and a
link that works. Prints tables, and writes benches/results/scale.json. --table prints those of a file.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "soak"), os.path.join(HERE, "..", "lab")]

import costs  # noqa: E402
import report  # noqa: E402
import tables  # noqa: E402
from doors import write  # noqa: E402
from hosts import Disturbance, Lab, LabError, say  # noqa: E402
from place import Row  # noqa: E402
from tunnels import certificate  # noqa: E402

LINKS, FEW = (10, 30, 100, 300, 1_000, 3_000, 10_000), (10, 100, 1_000)
STATIONS, FEW_STATIONS = (1_000, 10_000, 100_000, 1_000_000), (1_000, 100_000)
PORTS = {"ws": 8080, "wss": 8443}
KIB = 400  # of a link, with its other end, both kernels' sockets and what waits there
ROOM = ("[limits]\nconnections = 40000\nconnections_per_address = 40000\n"
        "unauthenticated = 20000\nunauthenticated_per_address = 20000\n")


class Settings:
    def __init__(self, quick):
        self.links = FEW if quick else LINKS
        self.stations = FEW_STATIONS if quick else STATIONS
        self.handshakes = 200 if quick else 1_000
        self.users = 100 if quick else 500
        self.seconds = 1 if quick else 2  # of a stream
        # A new port is probed every second for 30 s; and in 15 s each link has had its PING.
        self.settle, self.idle = (0, 2) if quick else (33, 15)


def room_for(links):
    """Why so many links to each of the two switches cannot be had here, if so."""
    most = links + 1_000  # of a process
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, max(hard, most)))
    except (OSError, ValueError):
        return f"{most:,} descriptors are not allowed (ulimit -Hn, fs.nr_open)"
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    if free < 2 * links * KIB:
        return f"{free >> 10:,} MiB of memory are free, {2 * links * KIB >> 10:,} may be needed"
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        first, last = map(int, file.read().split())
    if last - first < links + 1_000:
        return f"{last - first:,} local ports (net.ipv4.ip_local_port_range)"
    return None


def start(lab, row):
    """The two switches, their crowds, and a link that works to the one with TLS."""
    key, cert = certificate(lab)
    config = write(lab.path("scale.toml"), ROOM)
    flags = {"ws": (), "wss": ("--sslkey", key, "--sslcert", cert)}
    crowds = {}
    for scheme, device in (("ws", "t2"), ("wss", "t1")):
        server = row.switch("b", "--host", costs.HOST, "--port", PORTS[scheme], "--config", config, *flags[scheme], name=scheme)
        row.tap(scheme, device, "--storm", "off", "--no-offload")
        crowds[scheme] = costs.Crowd(row, server, PORTS[scheme], cert if scheme == "wss" else None)
    row.switch("a", "--no-listen")
    row.tap("a", "t0")
    row.tap("wss", "t0")
    for side in "ab":
        lab.address(side)
    row.ctl("a", "addport", "client", f"wss://{costs.HOST}:{PORTS['wss']}/", "--cacerts", cert)
    row.meet()
    return crowds


def step(lab, row, crowds, settings, links):
    """All figures of so many links, once they have come to rest."""
    meanwhile, found = Disturbance(lab), {"links": links, "ws": {}, "wss": {}}
    for scheme, crowd in crowds.items():
        say(f"{links:,} links, {scheme}")
        found[scheme]["came"] = crowd.grow(links)
    time.sleep(settings.settle)
    for scheme, at_rest in costs.idle({name: crowd.server for name, crowd in crowds.items()}, settings.idle).items():
        found[scheme]["idle"] = at_rest
    for scheme, crowd in crowds.items():
        figures = {
            # The link that works is one more, and on the same path.
            "flood": lambda: costs.flood(lab, row, crowd, {"ws": "t2", "wss": "t1"}[scheme], links + (scheme == "wss"), scheme),
            "control": lambda: costs.control(row, scheme),
            "handshakes": lambda: costs.handshakes(row, crowd.server, crowd.port, crowd.cert, settings.handshakes,
                                                   rest=found[scheme]["idle"]["cpu"])}
        if scheme == "wss":
            figures["unicast"] = lambda: costs.unicast(lab, row, crowd.server, settings.seconds)
        for name, figure in figures.items():
            found[scheme][name] = figure()
    return found | {"others": round(meanwhile.share(), 3)}


def measure(lab, settings, data):
    with Row(lab) as row:
        crowds = start(lab, row)
        for links in settings.links:
            why = room_for(links)
            if why:
                data["missing"].append((f"{links:,} links", why))
                break
            data["steps"].append(step(lab, row, crowds, settings, links))
    with Row(lab) as row:
        data["logins"] = costs.logins(lab, row, settings.users)
        for count in settings.stations:
            data["stations"].append(costs.stations(lab, row, count))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="to 1,000 links, a minute; no file is written")
    parser.add_argument("--table", metavar="FILE", help="print the tables of a run before")
    options = parser.parse_args()
    if options.table:
        with open(options.table, encoding="utf-8") as file:
            return print(tables.text(json.load(file)))
    if os.geteuid() != 0:
        sys.exit("scale: network namespaces and TAPs want root: sudo make bench-scale")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    data = {"machine": report.machine(), "quick": options.quick, "load": os.getloadavg()[0], "missing": [], "steps": [],
            "logins": [], "stations": []}
    # What the children are given at their start.
    room_for(max(LINKS))
    try:
        with Lab() as lab:
            measure(lab, Settings(options.quick), data)
    except (LabError, subprocess.TimeoutExpired) as error:
        data["missing"].append(("the rest", str(error)))
    data["seconds"] = round(time.monotonic() - began)
    print(tables.text(data))
    if not options.quick:
        path = os.path.join(report.ROOT, "benches", "results", "scale.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.write("\n")
        say(f"{os.path.relpath(path, report.ROOT)}, after {data['seconds']} s")
    sys.exit(1 if data["missing"] and data["missing"][-1][0] == "the rest" else 0)


if __name__ == "__main__":
    main()
