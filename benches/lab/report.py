"""The table, the verdicts on the goals, and the JSON file."""

import datetime
import json
import os
import platform
import statistics

from hosts import command
from measure import FORWARD, REVERSE
from packages import ROOT

# name: path of a figure inside one run of a tunnel
FIGURES = {
    "tcp_forward": ("tcp", FORWARD, "mbps"), "tcp_forward_ns": ("tcp", FORWARD, "ns_per_byte"),
    "tcp_reverse": ("tcp", REVERSE, "mbps"), "tcp_reverse_ns": ("tcp", REVERSE, "ns_per_byte"),
    "idle_ping": ("idle_ping", "avg_ms"), "loaded_ping": ("loaded_ping", "avg_ms"),
    "small_forward": ("small", FORWARD, "kpps"), "small_forward_us": ("small", FORWARD, "us_per_frame"),
    "small_reverse": ("small", REVERSE, "kpps"), "small_reverse_us": ("small", REVERSE, "us_per_frame"),
}


def medians(runs):
    """{figure: median over the runs that have it, or None}."""
    result = {}
    for name, path in FIGURES.items():
        values = []
        for value in runs:
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                values.append(value)
        result[name] = statistics.median(values) if values else None
    return result


def table(tunnels, runs, skipped):
    """One line a tunnel: medians, and what etherws ws does for each of it in brackets."""
    middle = {name: medians(runs.get(name, [])) for name, _ in tunnels}
    ours = middle.get("etherws-ws", {})
    head = ["tunnel", "TCP c->s Mb/s", "ns/B", "TCP s->c Mb/s", "ns/B", "idle ping ms", "loaded ping", "64 B c->s kpps", "us/fr",
            "64 B s->c kpps", "us/fr"]
    columns = ["tcp_forward", "tcp_forward_ns", "tcp_reverse", "tcp_reverse_ns", "idle_ping", "loaded_ping",
               "small_forward", "small_forward_us", "small_reverse", "small_reverse_us"]
    rows = []
    for name, label in tunnels:
        if name in skipped and not runs.get(name):
            rows.append([label, "skipped: " + skipped[name].splitlines()[0][:100]])
            continue
        row = [label]
        for column in columns:
            value = middle[name][column]
            text = figure(column, value)
            if value and ours.get(column) and name != "etherws-ws" and not column.endswith(("_ns", "_us")):
                text += f" ({ours[column] / value:.2f})"
            row.append(text)
        rows.append(row)
    return "\n".join(align([head] + rows)) + (
        "\n\nMedians. In brackets: etherws ws divided by that tunnel. c->s: from the side that dials. Pings in ms.\n"
        "ns/B, us/fr: user + system time of both daemons for each byte, each frame received; the kernel's work outside them\n"
        "is not in it.")


def figure(column, value):
    if value is None:
        return "-"
    if column.endswith(("_ns", "_us")):
        return f"{value:.2f}"
    if column.endswith("ping"):
        return f"{value:.3f}"
    return f"{value:,.0f}" if column.startswith("tcp") else f"{value:.1f}"


def align(rows):
    widths = [max((len(row[index]) for row in rows if len(row) > 2 and index < len(row)), default=0)
              for index in range(max(map(len, rows)))]
    return ["  ".join(cell.ljust(width) if index == 0 else (cell.rjust(width) if len(row) > 2 else cell)
                      for index, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]


def verdicts(runs, keys, foot):
    """[(row, met: True, False or None when it could not be judged, what was found)]."""
    middle = {name: medians(values) for name, values in runs.items()}

    def ratio(ours, theirs, figures=("tcp_forward", "tcp_reverse")):
        """The worse of the directions, or None."""
        try:
            return min(middle[ours][name] / middle[theirs][name] for name in figures
                       if middle[ours][name] and middle[theirs][name])
        except (KeyError, ValueError):
            return None

    def judge(row, parts):
        """`parts`: (text, ratio, least)."""
        words, known = [], True
        met = True
        for text, found, least in parts:
            if found is None:
                words.append(f"{text}: not measured")
                known = False
            else:
                words.append(f"{text} {found:.2f} (goal {least})")
                met = met and found >= least
        return row, (False if not met else True if known else None), "; ".join(words)

    ws, wss, small = "etherws-ws", "etherws-wss", ("small_forward", "small_reverse")
    result = [judge("H3 TCP", [("/ SoftEther clear", ratio(ws, "softether"), 1.2), ("/ tinc", ratio(ws, "tinc"), 3),
                               ("/ OpenVPN", ratio(ws, "openvpn"), 6)])]

    mine = middle.get(ws, {})
    asymmetry = None
    if mine.get("tcp_forward") and mine.get("tcp_reverse"):
        asymmetry = mine["tcp_forward"] / mine["tcp_reverse"]
    row, met, text = judge("H4 asymmetry", [("c->s / s->c", asymmetry, 0.95)])
    if keys:
        masked = (keys["frames"] >= 100 and keys["distinct"] >= keys["frames"] - 1 and not keys["zero"]
                  and not keys["unmasked"] and keys["real"] == keys["frames"])
        text += (f"; captured {keys['frames']} messages: {keys['distinct']} distinct mask keys, {keys['zero']} zero, "
                 f"{keys['unmasked']} unmasked, {keys['real']} are our frames once unmasked")
        met = met if masked else False
    else:
        text += "; no capture"
        met = None if met else met
    result.append((row, met, text))

    tinc, vxlan = ratio(ws, "tinc", small), ratio(ws, "vxlan", small)
    parts = [f"/ tinc {tinc:.2f} (goal 1.5)" if tinc else "/ tinc: not measured",
             f"/ VXLAN {vxlan:.2f} (goal 0.7)" if vxlan else "/ VXLAN: not measured"]
    met = True if (tinc or 0) >= 1.5 or (vxlan or 0) >= 0.7 else False if tinc and vxlan else None
    result.append(("H5 64 B", met, "; ".join(parts) + "; one of them is enough"))

    ping = ratio("tinc", ws, ("idle_ping",))
    result.append(("H6 idle ping", ping >= 1 if ping else None,
                   f"{1 / ping:.2f} x tinc's (goal <= 1.0)" if ping else "not measured"))
    result.append(judge("H8 wss", [("/ SoftEther TLS", ratio(wss, "softether-tls"), 1.2), ("/ our ws", ratio(wss, ws), 0.7)]))

    if foot:
        limits = (("start to listening", "start_ms", 50, "ms"), ("idle RSS", "rss_mib", 12, "MiB"),
                  ("wake-ups with two idle links", "wakeups_per_s", 2, "/s"), ("binary", "binary_mib", 12, "MiB"))
        result.append(("H9 footprint", all(foot[key] <= limit for _, key, limit, _ in limits),
                       "; ".join(f"{text} {foot[key]:.1f} {unit} (goal {limit})" for text, key, limit, unit in limits)))
    else:
        result.append(("H9 footprint", None, "not measured"))
    return result


def verdict_lines(rows):
    words = {True: "met", False: "MISSED", None: "open"}
    return [f"{row:<13} {words[met]:<7} {text}" for row, met, text in rows]


def syscall_lines(measured):
    """Of {(workload, direction text): {side: ...}}."""
    lines = []
    for title, sides in measured.items():
        for side, found in sides.items():
            names = ", ".join(f"{name} {count:.3f}" for name, count in found["by_name"].items())
            lines.append(f"{title:<16} host {side.upper()}  {found['per_frame']:.3f} a frame  ({names})  {found['with']}")
    return lines


def machine():
    model = platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    commit = command("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD", check=False).strip()
    changed = bool(command("git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no", "--", "src", "Cargo.toml",
                           "Cargo.lock", check=False).strip())
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "commit": commit + ("+" * changed),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def write(name, data, text):
    """benches/results/NAME.json, and what was printed beside it as NAME.txt."""
    directory = os.path.join(ROOT, "benches", "results")
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, name)
    with open(path + ".json", "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
    with open(path + ".txt", "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return os.path.relpath(path, ROOT) + ".json"
