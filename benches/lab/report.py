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
    "udp_forward": ("udp", FORWARD, "mbps"), "udp_reverse": ("udp", REVERSE, "mbps"),
}
TCP, SMALL, UDP = (("tcp_forward", "tcp_reverse"), ("small_forward", "small_reverse"), ("udp_forward", "udp_reverse"))
FULL_FRAME = 1514  # what an MTU of 1500 lets through at once


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
        "is not in it. super: with super-frames on TAPs and link, as by default; the other lines of etherws are with\n"
        "--no-offload on all that they do not name.")


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


def udp_lines(tunnels, runs):
    rows = [["tunnel", "", "Mb/s", "ns/B", "lost", "longest frame on the TAP"]]
    for name, label in tunnels:
        for direction, arrow in ((FORWARD, "c->s"), (REVERSE, "s->c")):
            found = [run["udp"][direction] for run in runs.get(name, []) if direction in run["udp"]]
            if found:
                mbps, ns, lost = (statistics.median(run[key] for run in found) for key in ("mbps", "ns_per_byte", "lost"))
                rows.append([label, arrow, f"{mbps:,.0f}", f"{ns:.2f}", f"{lost:.0%}",
                             f"{max(run['largest_frame'] for run in found):,}"])
    return align(rows) if len(rows) > 1 else []


def verdicts(runs, keys, foot):
    """[(row, met: True, False or None when it could not be judged, what was found)]."""
    middle = {name: medians(values) for name, values in runs.items()}
    return frame_by_frame(middle, keys.get("etherws-ws"), foot) + super_frames(middle, runs, keys.get("super-ws"))


def frame_by_frame(middle, keys, foot):
    """The H rows: the classic wire, nothing offloaded."""
    ws, wss = "etherws-ws", "etherws-wss"
    result = [judge("H3 TCP", [("/ SoftEther clear", ratio(middle, ws, "softether"), 1.2),
                               ("/ tinc", ratio(middle, ws, "tinc"), 3), ("/ OpenVPN", ratio(middle, ws, "openvpn"), 6)])]

    row, met, text = judge("H4 asymmetry", [("c->s / s->c", asymmetry(middle, ws), 0.95)])
    text += "; " + masked_words(keys)
    result.append((row, met if keys and masked(keys) else False if keys else None if met else met, text))

    tinc, vxlan = ratio(middle, ws, "tinc", SMALL), ratio(middle, ws, "vxlan", SMALL)
    parts = [f"/ tinc {tinc:.2f} (goal 1.5)" if tinc else "/ tinc: not measured",
             f"/ VXLAN {vxlan:.2f} (goal 0.7)" if vxlan else "/ VXLAN: not measured"]
    met = True if (tinc or 0) >= 1.5 or (vxlan or 0) >= 0.7 else False if tinc and vxlan else None
    result.append(("H5 64 B", met, "; ".join(parts) + "; one of them is enough"))

    result.append(judge("H6 idle ping", [("/ tinc", ratio(middle, ws, "tinc", ("idle_ping",)), -1.0)]))
    result.append(judge("H8 wss", [("/ SoftEther TLS", ratio(middle, wss, "softether-tls"), 1.2),
                                   ("/ our ws", ratio(middle, wss, ws), 0.7)]))
    if foot:
        limits = (("start to listening", "start_ms", 50, "ms"), ("idle RSS", "rss_mib", 12, "MiB"),
                  ("wake-ups with two idle links", "wakeups_per_s", 2, "/s"), ("binary", "binary_mib", 12, "MiB"))
        limits = [limit for limit in limits if limit[1] in foot]
        result.append(("H9 footprint", all(foot[key] <= limit for _, key, limit, _ in limits),
                       "; ".join(f"{text} {foot[key]:.1f} {unit} (goal {limit})" for text, key, limit, unit in limits)))
    else:
        result.append(("H9 footprint", None, "not measured"))
    return result


def super_frames(middle, runs, keys):
    """The O rows, and R3 as far as it can be seen here."""
    ws, whole, tls = "etherws-ws", "super-ws", "super-wss"
    result = [
        judge("O1 TCP", [("/ SoftEther clear", ratio(middle, whole, "softether"), 3),
                         ("/ OpenVPN", ratio(middle, whole, "openvpn"), 14), ("/ VXLAN", ratio(middle, whole, "vxlan"), 0.7)]),
        judge("O2 wss", [("/ SoftEther TLS", ratio(middle, tls, "softether-tls"), 2)])]
    row, met, text = judge("O3 asymmetry", [("c->s / s->c", asymmetry(middle, whole), 0.95)])
    result.append((row, False if keys and not masked(keys) else met, text + "; " + masked_words(keys)))

    # The TAP with super-frames is the sender's of one direction and the receiver's of the other.
    split, merged = ([ratio(middle, name, ws, (figure,)) for name, figure in zip(names, TCP)]
                     for names in (("tap-a", "tap-b"), ("tap-b", "tap-a")))
    row, met, text = judge("O4 mixed", [("split / H3's own", least(split), 1.3), ("merged / H3's own", least(merged), 1.3)])
    if None in split + merged:
        text, met = text + "; one direction each", met and None
    both = ratio(middle, "taps", ws)
    result.append((row, met, text + (f"; both at once {both:.2f}" if both else "")))

    row, met, text = judge("O5 UDP", [("/ our no-offload", ratio(middle, whole, ws, UDP), 2)])
    longest = {name: [found["largest_frame"] for run in runs.get(name, []) for found in run["udp"].values()]
               for name in (ws, whole)}
    if longest[whole]:
        seen = min(longest[whole]) > FULL_FRAME
        text += f"; super-frames {'seen' if seen else 'NOT seen'} on the receiver's TAP, up to {max(longest[whole]):,} bytes"
        met = met if seen else False
        if max(longest[ws], default=0) > FULL_FRAME:
            text, met = text + "; but also without offload", None
    if any(found["altered"] for name in (ws, whole) for run in runs.get(name, []) for found in run["udp"].values()):
        text, met = text + "; bytes were ALTERED", False
    result.append((row, met, text))

    spent = [ratio(middle, whole, ws, (figure + "_ns",)) for figure in TCP]
    result.append(judge("O6 CPU/byte", [("/ our no-offload", most(spent), -0.35)]))

    row, met, text = judge("R3 ping, load", [(f"{label} / SoftEther", ratio(middle, name, "softether", ("loaded_ping",)), goal)
                                             for label, name, goal in (("super", whole, -0.25), ("without", ws, -0.5))])
    spread = ratio(middle, "super-ws-2", "softether", ("loaded_ping",))
    text += f"; super over two connections {spread:.2f}" if spread else ""
    result.append((row, None if met else met, text + "; a bottleneck is not part of this lab"))
    return result


def judge(row, parts):
    """`parts`: (text, ratio or None, goal). A goal is a least; a negative one is, without its sign, a most."""
    words, results = [], []
    for text, found, goal in parts:
        if found is None:
            words.append(f"{text}: not measured")
            results.append(None)
        else:
            words.append(f"{text} {found:.2f} (goal {'<= ' if goal < 0 else ''}{abs(goal)})")
            results.append(found <= -goal if goal < 0 else found >= goal)
    return row, False if False in results else None if None in results else True, "; ".join(words)


def ratio(middle, ours, theirs, figures=TCP):
    """Our figure divided by theirs, the least of the directions; None when one of them lacks a figure."""
    mine, other = middle.get(ours, {}), middle.get(theirs, {})
    wanted = [name for name in figures if mine.get(name) or other.get(name)]
    if not all(mine.get(name) and other.get(name) for name in wanted):
        return None
    return least(mine[name] / other[name] for name in wanted)


def asymmetry(middle, name):
    forward, reverse = (middle.get(name, {}).get(figure) for figure in TCP)
    return forward / reverse if forward and reverse else None


def least(values):
    return min((value for value in values if value is not None), default=None)


def most(values):
    return max((value for value in values if value is not None), default=None)


def masked(keys):
    return (keys["frames"] >= 100 and keys["distinct"] >= keys["frames"] - 1 and not keys["zero"]
            and not keys["unmasked"] and keys["real"] == keys["frames"])


def masked_words(keys):
    if not keys:
        return "no capture"
    return (f"captured {keys['frames']} messages: {keys['distinct']} distinct mask keys, {keys['zero']} zero, "
            f"{keys['unmasked']} unmasked, {keys['real']} are our frames once unmasked")


def verdict_lines(rows):
    words = {True: "met", False: "MISSED", None: "open"}
    return [f"{row:<13} {words[met]:<7} {text}" for row, met, text in rows]


def syscall_lines(measured):
    """Of {(workload, direction text): {side: ...}}."""
    lines = []
    for title, sides in measured.items():
        for side, found in sides.items():
            names = ", ".join(f"{name} {count:.3f}" for name, count in found["by_name"].items())
            lines.append(f"{title:<27} host {side.upper()}  {found['per_frame']:.3f} a frame  ({names})  {found['with']}")
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
