"""Where a row of the soak is measured: its switches and peers, and what is read of them."""

import json
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))

from hosts import OVERLAY, TICK, UNDERLAY, LabError, command, last_words, stat_fields, until  # noqa: E402
from packages import etherws  # noqa: E402


class Row:
    """A row's switches and peers, ended when it is left."""

    def __init__(self, lab):
        self.lab, self.started = lab, []
        self.sw, self.ctl_program = etherws()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.stop(*self.started)
        for side in "ab":
            for device in ("t0", "t1", "t2"):
                self.lab.on(side, "ip", "link", "del", device, check=False)

    def socket(self, name):
        return self.lab.path(f"soak-{name}.sock")

    def switch(self, side, *argv, name=None):
        """A switch on a host; where there are several, `name` is what it is called instead of the host."""
        name = name or side
        process = self.lab.start(side, f"soak-{name}", self.sw, "sw", "--ctlsock", self.socket(name), *argv)
        self.started.append(process)
        until(lambda: process.poll() is not None or self.answers(name), 15, f"the switch on host {side}")
        if process.poll() is not None:
            raise LabError(f"the switch on host {side} has ended: {last_words(process)}")
        return process

    def server(self, *argv):
        return self.switch("b", "--host", UNDERLAY["b"], "--port", "8080", *argv)

    def answers(self, side):
        try:
            self.ctl(side, "version")
            return True
        except LabError:
            return False

    def ctl(self, side, *argv):
        return command(self.ctl_program, "--ctlurl", "unix:" + self.socket(side), *argv)

    def entries(self, side, what):
        return json.loads(self.ctl(side, "--json", what))["entries"]

    def tap(self, side, name, *argv):
        self.ctl(side, "addport", "tap", name, *argv)

    def link(self, *argv, scheme="ws"):
        self.ctl("a", "addport", "client", f"{scheme}://{UNDERLAY['b']}:8080/", *argv)

    def pair(self, *argv, server=(), scheme="ws"):
        """A dials B, with more flags for either; t0 of both in one segment."""
        server, client = self.server(*server), self.switch("a", "--no-listen")
        for side in "ab":
            self.tap(side, "t0")
            self.lab.address(side)
        self.link("--name", "link", *argv, scheme=scheme)
        self.meet()
        return client, server

    def meet(self, timeout=40):
        ping = ("ping", "-nqc1", "-W1", OVERLAY["b"])
        until(lambda: "1 received" in self.lab.on("a", *ping, check=False), timeout, "a ping across")

    def peer(self, side, *argv, program="peers.py"):
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.lab.names[side], sys.executable, "-B", os.path.join(HERE, program), *map(str, argv)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        process.log = "/dev/null"
        self.started.append(process)
        self.lab.processes.append(process)
        return process

    def iperf(self, seconds, *argv):
        """Mb/s from A to B."""
        server = self.lab.start("b", "iperf3", "iperf3", "-s", "-1", "-4")
        self.started.append(server)
        time.sleep(0.5)
        output = self.lab.on("a", "iperf3", "-J", "-4", "-c", argv[0] if argv else OVERLAY["b"], "-t", seconds, *argv[1:],
                             timeout=seconds + 15)
        self.lab.stop(server)
        return json.loads(output)["end"]["sum_received"]["bits_per_second"] / 1e6


class Flows:
    """Numbered datagrams, `count` each way at `rate` a second, from now until `ended`."""

    def __init__(self, row, count, rate, run=1):
        self.row, self.before = row, kernel_drops(row.lab)
        self.receivers = [row.peer(side, "receive", count, run, program="flows.py") for side in "ab"]
        for receiver in self.receivers:
            receiver.stdout.readline()
        self.senders = [row.peer(side, "send", OVERLAY[other], count, rate, run, program="flows.py")
                        for side, other in ("ab", "ba")]

    def ended(self, timeout):
        """What came of both ways together: sent, seconds, lost, doubled, late, altered, and how many the kernels dropped."""
        said = [json.loads(process.communicate(timeout=timeout)[0] or "{}") for process in self.senders + self.receivers]
        found = {key: sum(one.get(key, 0) for one in said) for key in ("sent", "lost", "doubled", "late", "altered")}
        drops = kernel_drops(self.row.lab)
        kernel = {name: number - self.before[name] for name, number in drops.items() if number > self.before[name]}
        return found | {"seconds": max(one.get("seconds", 0) for one in said), "kernel": kernel}


def kernel_drops(lab):
    """What the two kernels dropped of datagrams, on the TAPs (tx: their queues towards the switch) and at sockets."""
    drops = {}
    for side in "ab":
        for name in ("tx_dropped", "rx_dropped"):
            drops[f"t0 of {side} {name}"] = int(lab.on(side, "cat", f"/sys/class/net/t0/statistics/{name}"))
        names, values = (line.split() for line in lab.on(side, "cat", "/proc/net/snmp").splitlines() if line.startswith("Udp: "))
        udp = dict(zip(names, values))
        drops |= {f"UDP of {side} {name}": int(udp[name]) for name in ("RcvbufErrors", "SndbufErrors", "InCsumErrors", "NoPorts")}
    return drops


def rss_kib(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


def cpu(process):
    return sum(int(stat_fields(process.pid)[index]) for index in (11, 12)) / TICK


def cpu_exact(process):
    """The same by its CPU clock (clock_getcpuclockid(3)), in nanoseconds and not in ticks."""
    return time.clock_gettime(~process.pid << 3 | 2)


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd")), len(os.listdir(f"/proc/{process.pid}/task"))


def account(row, side):
    """What came into all ports of a switch, those that are no more too, and what went out or was dropped by name."""
    entries = [entry for entry in row.entries(side, "counters") if entry["port"] or entry["name"] == "removed"]
    came = sum(entry["rx"] + entry["copies"] for entry in entries)
    return came, sum(entry["tx"] + sum(entry["drops"].values()) for entry in entries)


def ping_ms(lab, to, count=100):
    output = lab.on("a", "ping", "-nqc", count, "-i", "0.02", to, timeout=count * 0.02 + 20, check=False)
    found = re.search(r"= [\d.]+/([\d.]+)/", output)
    if not found:
        raise LabError(f"no ping came back: {output[-200:]}")
    return float(found[1])
