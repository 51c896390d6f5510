"""What is measured over a tunnel that is up: throughput, round trips, small frames, UDP in blocks, CPU time, system calls."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

from hosts import OVERLAY, LabError, cpu_seconds, command, environment, last_words, until
from tunnels import listens

SMALL = 18  # bytes of UDP payload: with UDP, IP and Ethernet headers 60, with the FCS a frame of 64
FORWARD, REVERSE = "client_to_server", "server_to_client"  # A dials, B serves
SYSCALLS = ("read", "readv", "recvfrom", "recvmsg", "recvmmsg", "write", "writev", "sendto", "sendmsg", "sendmmsg",
            "epoll_wait", "epoll_pwait", "epoll_ctl", "futex", "clock_nanosleep", "io_uring_enter")


class Iperf:
    """One iperf3 run from A to B (or back with -R), its server included."""

    def __init__(self, lab, seconds, direction, *options):
        self.lab = lab
        self.limit = seconds + 12
        self.server = lab.start("b", "iperf3", "iperf3", "-s", "-1", "-4")
        try:
            until(lambda: listens(self.server.pid, 5201), 5, "iperf3's server")
            argv = ["ip", "netns", "exec", lab.names["a"], "iperf3", "-J", "-4", "-c", OVERLAY["b"], "-t", str(seconds),
                    "--connect-timeout", "5000", *options, *(["-R"] if direction == REVERSE else [])]
            self.client = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                           stderr=subprocess.DEVNULL, text=True, env=environment(),
                                           start_new_session=True)
            self.client.log = lab.path("iperf3.log")
        except BaseException:
            lab.stop(self.server)
            raise
        lab.processes.append(self.client)

    def result(self):
        """iperf3's `end` object."""
        try:
            output, _ = self.client.communicate(timeout=self.limit)
            report = json.loads(output)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"iperf3 did not end in {self.limit} s") from error
        except ValueError as error:
            raise LabError(f"iperf3 said no JSON: {output[-200:]}") from error
        finally:
            self.lab.stop(self.client, self.server)
        if "error" in report:
            raise LabError(f"iperf3: {report['error']}")
        return report["end"]


def tcp(lab, daemons, direction, seconds):
    """{"mbps", "ns_per_byte"}: one stream; user + system time of both daemons for each byte received."""
    before = cpu_seconds(daemons)
    received = Iperf(lab, seconds, direction).result()["sum_received"]
    spent = cpu_seconds(daemons) - before
    if received["bytes"] == 0:
        raise LabError("iperf3 received nothing")
    return {"mbps": received["bits_per_second"] / 1e6,
            "ns_per_byte": spent * 1e9 / received["bytes"] if daemons else None}


def small(lab, daemons, direction, seconds):
    """{"kpps", "us_per_frame", "lost"}: UDP in frames of 64 bytes as fast as iperf3 sends; what was received."""
    before = cpu_seconds(daemons)
    total = Iperf(lab, seconds, direction, "-u", "-b", "0", "-l", str(SMALL)).result()["sum"]
    spent = cpu_seconds(daemons) - before
    received = total["packets"] - total["lost_packets"]
    if received <= 0:
        raise LabError("iperf3 received nothing")
    return {"kpps": received / total["seconds"] / 1e3, "lost": total["lost_packets"] / total["packets"],
            "us_per_frame": spent * 1e6 / received if daemons else None}


def udp(lab, daemons, direction, seconds):
    """{"mbps", "ns_per_byte", "lost", "altered", "largest_frame", "frames_seen", "segmented"}: see udp.py.

    Of the first frames that come in on the receiver's t0 the longest is `largest_frame`, its Ethernet header included.
    """
    here, there = "ab" if direction == FORWARD else "ba"
    program = (sys.executable, "-B", os.path.join(os.path.dirname(__file__), "udp.py"))
    receiver = lab.start(there, f"udp-{time.monotonic_ns()}", *program, "receive", "t0")
    try:
        until(lambda: "ready" in last_words(receiver), 10, "the UDP receiver")
        before = cpu_seconds(daemons)
        sent = json.loads(lab.on(here, *program, "send", OVERLAY[there], seconds, timeout=seconds + 20))
        receiver.wait(15)
        spent = cpu_seconds(daemons) - before
        received = json.loads(last_words(receiver).rsplit(" / ", 1)[-1])
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise LabError(f"UDP receiver: {last_words(receiver)}") from error
    finally:
        lab.stop(receiver)
    if received["bytes"] == 0:
        raise LabError(f"UDP: nothing arrived whole, {received['altered']} reads were altered")
    return {"mbps": received["bytes"] * 8 / received["seconds"] / 1e6, "lost": 1 - received["bytes"] / sent["bytes"],
            "ns_per_byte": spent * 1e9 / received["bytes"] if daemons else None, "segmented": sent["segmented"],
            **{key: received[key] for key in ("altered", "largest_read", "largest_frame", "frames_seen")}}


def idle_ping(lab, count):
    """{"min_ms", "avg_ms", "max_ms"}: round trip of `count` pings, 20 ms apart, with nothing else under way."""
    least, average, most, _ = _ping(lab, count, count * 0.02 + 10)
    return {"min_ms": least, "avg_ms": average, "max_ms": most}


def loaded_ping(lab, daemons, seconds):
    """{"avg_ms", "lost", "mbps"}: 50 pings a second beside four TCP streams from A to B."""
    load = Iperf(lab, seconds + 1, FORWARD, "-P", "4")
    try:
        time.sleep(0.5)
        _, average, _, lost = _ping(lab, int(seconds * 50), seconds + 10)
    finally:
        end = load.result()
    return {"avg_ms": average, "lost": lost, "mbps": end["sum_received"]["bits_per_second"] / 1e6}


def _ping(lab, count, timeout):
    output = lab.on("a", "ping", "-nqc", count, "-i", "0.02", "-W", "2", OVERLAY["b"], timeout=timeout, check=False)
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)/", output)
    lost = re.search(r"([\d.]+)% packet loss", output)
    if not times or not lost:
        raise LabError(f"no ping came back: {output[-200:]}")
    return *(float(time) for time in times.groups()), float(lost[1]) / 100


# --- System calls --------------------------------------------------------------------------------------------

def syscalls(lab, sides, direction, seconds=2, small_frames=False):
    """{side: {"per_frame", "by_name", "frames", "with"}}: system calls of each side's daemon for each frame on its TAP.

    A run of its own, for it costs throughput. `perf stat` counts in the kernel and hardly slows the daemon down;
    `strace -c` stops it at each call, so that batches grow: its figures are better than the truth.
    `sides` is {"a": process, "b": process}.
    """
    load = Iperf(lab, seconds + 2, direction, *(("-u", "-b", "0", "-l", str(SMALL)) if small_frames else ()))
    result = {}
    try:
        time.sleep(0.7)
        running = {side: _counter(lab, side, process.pid, seconds) for side, process in sides.items()}
        for side, (tool, process, path) in running.items():
            try:
                process.wait(seconds + 10)
            except subprocess.TimeoutExpired as error:
                raise LabError(f"{tool} did not end") from error
            finally:
                lab.stop(process)
            with open(process.log, encoding="ascii", errors="replace") as file:
                rx0, tx0, rx1, tx1 = (int(word) for word in file.read().split() if word.isdigit())
            frames = max(rx1 + tx1 - rx0 - tx0, 1)
            names = _count(tool, path)
            total = names.pop("total")
            result[side] = {"per_frame": total / frames, "frames": frames, "with": tool,
                            "by_name": {name: count / frames for name, count in
                                        sorted(names.items(), key=lambda item: -item[1])[:6]}}
    finally:
        load.result()
    return result


def _counter(lab, side, pid, seconds):
    """The running tool, which prints the TAP's counters at both ends of its window, and the file of its figures."""
    path = lab.path(f"syscalls-{side}-{time.monotonic_ns()}")
    log = os.path.basename(path) + "-frames"
    frames = "cat /sys/class/net/t0/statistics/rx_packets /sys/class/net/t0/statistics/tx_packets"
    if _perf():
        events = ["raw_syscalls:sys_enter"] + [f"syscalls:sys_enter_{name}" for name in SYSCALLS
                                               if os.path.isdir(f"/sys/kernel/tracing/events/syscalls/sys_enter_{name}")]
        return "perf stat", lab.start(side, log, "perf", "stat", "-x", ",", "-o", path, "-e", ",".join(events), "-p", pid,
                                      "--", "sh", "-c", f"{frames}; sleep {seconds}; {frames}"), path
    if shutil.which("strace"):
        return "strace -c", lab.start(side, log, "sh", "-c", f"{frames}; timeout -s INT {seconds} strace -qq -f -c -o {path} "
                                      f"-p {pid}; {frames}"), path
    raise LabError("neither perf nor strace is installed")


def _perf():
    if not shutil.which("perf"):
        return False
    try:
        command("perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "true")
        return os.path.isdir("/sys/kernel/tracing/events/syscalls")
    except LabError:
        return False


def _count(tool, path):
    """{"total": calls, name: calls, ...} as perf stat or strace -c wrote them."""
    counts = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if tool == "perf stat":
                words = line.split(",")
                if len(words) > 2 and words[0].isdigit():
                    name = words[2].rsplit("sys_enter", 1)[-1].lstrip("_") or "total"
                    counts[name] = int(words[0])
            else:
                words = line.split()
                if len(words) >= 5 and words[3].isdigit():
                    counts[words[-1]] = int(words[3])
    if "total" not in counts:
        raise LabError(f"{tool} counted nothing")
    return {name: count for name, count in counts.items() if count}
