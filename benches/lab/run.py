#!/usr/bin/env -S python3 -B
"""etherws beside other tunnels, on this machine, in one run: python3 benches/lab/run.py [--quick] [--runs N] [--only NAME,...]

Root. Two network namespaces, one veth, the same workload over each tunnel in turn, as many rounds as --runs says; then
the table of medians, the verdicts on the goals, and JSON in benches/results/. Each figure is taken when the machine is
idle, or after a bounded wait; what others used of the cores meanwhile is kept beside it, and a figure that they
disturbed is taken again. A missed goal is not a failure of this program: it ends with 0 when etherws was measured.
"""

import argparse
import os
import signal
import sys
import time

import checks
import measure
import report
from hosts import Disturbance, Lab, LabError, say, wait_idle
from measure import FORWARD, REVERSE
from tunnels import FULL, QUICK, TUNNELS

DISTURBED = 0.15  # cores used by others, above which a figure is taken again


class Settings:
    def __init__(self, options):
        quick = options.quick
        self.runs = options.runs or (1 if quick else 3)
        self.tcp = 1 if quick else 5  # seconds, as those below; iperf3 takes whole ones
        self.small = 1 if quick else 3
        self.loaded = 1 if quick else 5
        self.udp = 1 if quick else 3
        self.pings = 25 if quick else 150
        self.settle = 0 if quick else 32  # seconds until the switch is idle; 0: wake-ups are not counted
        self.idle = 2 if quick else 10  # seconds of the footprint's idle switch
        self.starts = 3 if quick else 7
        self.again = 0 if quick else options.again
        self.patience = options.wait if options.wait is not None else (4 if quick else 300)
        self.quick = quick
        self.steps = QUICK if quick else FULL
        self.one_way = ("small", "udp") if quick else ()
        self.look = 0.2 if quick else 0.7  # seconds for which the machine must be idle
        self.pause = 0 if quick else 0.4  # with the look at the processors, a second between two figures
        self.budget = options.budget or (74 if quick else 1410)
        self.deadline = time.monotonic() + self.budget

    def plan(self, tunnels):
        """From here on the rest of the time is for these tunnels' figures."""
        self.begin, self.done = time.monotonic(), 0
        self.figures = self.runs * sum(len(self.of(tunnel)) for tunnel in tunnels)

    def of(self, tunnel):
        """[(name, direction or None)] of the figures to take of a tunnel, in order."""
        names = self.steps.get(tunnel.name) or FULL[tunnel.name]
        return [(name, direction) for name in ("idle_ping", "tcp", "loaded_ping", "small", "udp") if name in names
                for direction in ((None,) if name.endswith("ping") else (FORWARD,) if name in self.one_way
                                  else (FORWARD, REVERSE))]

    def late(self):
        """Behind the plan: nothing is waited for or taken again now, or the last tunnels would go without."""
        share = 0.05 + self.done / self.figures
        return time.monotonic() > self.begin + (self.deadline - self.begin) * share

    def over(self):
        return time.monotonic() > self.deadline

    def wait(self):
        """Waits for an idle machine; what all these waits may take together is bounded too."""
        time.sleep(self.pause)
        begin = time.monotonic()
        idle = wait_idle(0 if self.late() else min(30, self.patience), self.look)
        self.patience = max(0, self.patience - (time.monotonic() - begin - self.look))
        return idle


def steady(lab, settings, function, *args):
    """The figure, taken again while others disturb it; of several the least disturbed."""
    best = None
    for _ in range(settings.again + 1):
        idle = settings.wait()
        meanwhile = Disturbance(lab)
        found = function(*args)
        found |= {"others": round(meanwhile.share(), 3), "idle_before": idle}
        if best is None or found["others"] < best["others"]:
            best = found
        if best["others"] <= DISTURBED or settings.late() or settings.over():
            break
    return best


def one_run(lab, settings, tunnel):
    """All figures of one tunnel, once. A figure that cannot be taken is named and left out."""
    result = {"tcp": {}, "small": {}, "udp": {}, "errors": [], "load": os.getloadavg()[0]}
    figures = settings.of(tunnel)
    done = settings.done + len(figures)
    try:
        daemons = tunnel.up(lab)
        calls = {
            "idle_ping": lambda _: measure.idle_ping(lab, settings.pings),
            "tcp": lambda direction: measure.tcp(lab, daemons, direction, settings.tcp),
            "loaded_ping": lambda _: measure.loaded_ping(lab, daemons, settings.loaded),
            "small": lambda direction: measure.small(lab, daemons, direction, settings.small),
            "udp": lambda direction: measure.udp(lab, daemons, direction, settings.udp),
        }
        for name, direction in figures:
            for attempt in (1, 2):  # deep queues (OpenVPN's) may refuse the run that follows at once
                if settings.over():
                    break
                try:
                    found = steady(lab, settings, calls[name], direction)
                    if direction:
                        result[name][direction] = found
                    else:
                        result[name] = found
                    break
                except LabError as error:
                    if attempt == 2:
                        result["errors"].append(f"{name} {direction or ''}: {error}")
                    else:
                        time.sleep(2)
            settings.done += 1
    except LabError as error:
        result["errors"].append(str(error))
    finally:
        tunnel.down(lab)
    settings.done = done
    for error in result["errors"]:
        say(f"{tunnel.label}: {error}")
    return result


def system_calls(lab, tunnel):
    result = {}
    try:
        b, a = tunnel.up(lab)
        workloads = (("TCP c->s", FORWARD, False), ("TCP s->c", REVERSE, False), ("64 B c->s", FORWARD, True),
                     ("64 B s->c", REVERSE, True))
        for title, direction, small in workloads:
            found = measure.syscalls(lab, {"a": a, "b": b}, direction, small_frames=small)
            result[f"{tunnel.label}, {title}"] = found
    except LabError as error:
        say(f"system calls: {error}")
    finally:
        tunnel.down(lab)
    return result


def attempt(what, function, *args):
    try:
        return function(*args)
    except (LabError, OSError, ValueError) as error:
        say(f"{what}: {error}")
        return None


def lab_run(lab, options, settings):
    chosen = [tunnel for tunnel in TUNNELS if tunnel.name in options.only]
    skipped, runs = {}, {}
    for tunnel in chosen:
        try:
            tunnel.prepare(lab)
        except LabError as error:
            skipped[tunnel.name] = str(error)
            say(f"{tunnel.label} is skipped: {error}")
    chosen = [tunnel for tunnel in chosen if tunnel.name not in skipped]

    plain, whole = (next((tunnel for tunnel in chosen if tunnel.name == name), None)
                    for name in ("etherws-ws", "super-ws"))
    keys, foot, calls = {}, None, {}
    if plain:
        foot = attempt("footprint", checks.footprint, lab, plain, settings.settle, settings.idle, settings.starts)
        keys[plain.name] = attempt("mask keys", checks.mask_keys, lab, plain)
    if whole and not settings.quick:
        keys[whole.name] = attempt("mask keys", checks.mask_keys, lab, whole)
    for tunnel in filter(None, (plain, whole)) if not settings.quick else ():
        say(f"system calls of {tunnel.label}")
        calls |= system_calls(lab, tunnel)
    settings.plan(chosen)
    for number in range(settings.runs):
        for tunnel in chosen if number % 2 == 0 else reversed(chosen):  # nobody is always first
            if settings.over():
                say("time is up: the table is made of what there is")
                break
            say(f"run {number + 1} of {settings.runs}: {tunnel.label}")
            runs.setdefault(tunnel.name, []).append(one_run(lab, settings, tunnel))
    return chosen, skipped, runs, keys, foot, calls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer peers, one short run: about 80 s")
    parser.add_argument("--runs", type=int, help="rounds over all tunnels (3; quick: 1)")
    parser.add_argument("--only", help="tunnels, by comma: " + ", ".join(tunnel.name for tunnel in TUNNELS))
    parser.add_argument("--wait", type=float, help="seconds to spend at most on waiting for an idle machine (300; quick: 4)")
    parser.add_argument("--again", type=int, default=2, help="times a disturbed figure is taken again (2)")
    parser.add_argument("--budget", type=float, help="seconds after which nothing more is begun (1410; quick: 74)")
    parser.add_argument("--name", help="of the files in benches/results/ (lab; quick: lab-quick)")
    options = parser.parse_args()
    known = [tunnel.name for tunnel in TUNNELS]
    options.only = options.only.split(",") if options.only else list(QUICK) if options.quick else known
    for name in options.only:
        if name not in known:
            parser.error(f"no tunnel {name!r}; there are {', '.join(known)}")
    if os.geteuid() != 0:
        sys.exit("lab: network namespaces and TAPs want root: sudo make bench")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

    settings = Settings(options)
    began = time.monotonic()
    head = report.machine()
    try:
        with Lab() as lab:
            chosen, skipped, runs, keys, foot, calls = lab_run(lab, options, settings)
    except LabError as error:
        sys.exit(f"lab: {error}")
    rows = [(tunnel.name, tunnel.label + fewer(settings.runs, runs.get(tunnel.name, [])))
            for tunnel in TUNNELS if tunnel.name in options.only]
    left_out = [tunnel.label for tunnel in TUNNELS if tunnel.name not in options.only]
    verdicts = report.verdicts(runs, keys, foot)
    others = [share for found in runs.values() for run in found for share in shares(run)]
    disturbed = sum(share > DISTURBED for share in others)
    doubt = " (others kept the machine busy: take these with doubt, and measure again)" * (disturbed * 3 > len(others))
    text = "\n".join([
        f"etherws {head['commit']}, {head['cores']} x {head['cpu']}, Linux {head['kernel']}, {head['date']}; "
        f"{settings.runs} run(s), {time.monotonic() - began:.0f} s", "",
        report.table(rows, runs, skipped),
        *([f"Left out of this run: {'; '.join(left_out)}."] if left_out else []), "",
        "UDP in calls of 54 datagrams of 1,200 bytes, what arrived unaltered:",
        *(report.udp_lines(rows, runs) or ["not measured"]), "",
        f"Goals{doubt}:", *report.verdict_lines(verdicts), "",
        "System calls of etherws, for each frame on its TAP (a super-frame is one):",
        *(report.syscall_lines(calls) or ["not measured"]), "",
        f"What others used meanwhile: median {sorted(others)[len(others) // 2] if others else 0:.2f}, at most "
        f"{max(others, default=0):.2f} of a core; {disturbed} of {len(others)} figures "
        f"were disturbed (above {DISTURBED})."])
    print(text)
    data = {**head, "runs": settings.runs, "seconds": {"tcp": settings.tcp, "small": settings.small,
                                                         "loaded_ping": settings.loaded, "udp": settings.udp},
            "pings": settings.pings,
            "disturbed": [disturbed, len(others)], "medians": {name: report.medians(found) for name, found in runs.items()},
            "verdicts": [{"row": row, "met": met, "found": words} for row, met, words in verdicts],
            "mask_keys": keys, "footprint": foot, "syscalls": calls, "skipped": skipped, "measured": runs}
    print("\nwritten: " + report.write(options.name or ("lab-quick" if options.quick else "lab"), data, text))
    for tunnel in ("etherws-ws", "super-ws"):
        if tunnel in options.only and not report.medians(runs.get(tunnel, []))["tcp_forward"]:
            sys.exit(f"lab: {tunnel} could not be measured")


def fewer(wanted, had):
    """What is to be said of a tunnel whose last rounds did not come."""
    return f", {len(had)} run{'s' * (len(had) != 1)}" if 0 < len(had) < wanted else ""


def shares(run):
    """The `others` of every figure of a run."""
    for value in run.values():
        if isinstance(value, dict):
            if "others" in value:
                yield value["others"]
            yield from shares(value)


if __name__ == "__main__":
    main()
