"""The figures of a run as tables, which docs/scale.md takes as they are."""


def text(data):
    machine = data["machine"]
    head = (f"{machine['date'][:10]}, {machine['cores']} processors ({machine['cpu']}), Linux {machine['kernel']}, commit "
            f"{machine['commit']}{'' if not data['quick'] else ', --quick'}.")
    parts = [head, *(f"**{what}** could not be had: {why}" for what, why in data["missing"])]
    for title, table in (("Idle links", idle), ("Handshakes", handshakes), ("A broadcast to all links", floods),
                         ("One link that works beside them", unicast), ("What control answers", control),
                         ("Keys and passwords", logins), ("Stations", stations), ("Reckoned from these", reckoned)):
        rows = table(data)
        if len(rows) > 1:
            parts += [f"### {title}", markdown(rows)]
    return "\n\n".join(parts)


def markdown(rows):
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def each(data, what):
    """(links, scheme, figures) of each step that has them."""
    return [(step["links"], scheme, step[scheme][what]) for scheme in ("ws", "wss") for step in data["steps"]
            if what in step.get(scheme, {})]


def a_link(data, scheme, step):
    """KiB, and microseconds of CPU in a second, of each link more than there were at the first step."""
    first = data["steps"][0]
    more = step["links"] - first["links"]
    return [(step[scheme]["idle"][key] - first[scheme]["idle"][key]) / more for key in ("rss", "cpu")] if more else None


def idle(data):
    rows = [["links", "", "resident MiB", "CPU of a core", "KiB a link more", "us a second and link more"]]
    for scheme in ("ws", "wss"):
        for step in data["steps"]:
            found, more = step[scheme]["idle"], a_link(data, scheme, step)
            rows.append([f"{step['links']:,}", scheme, f"{found['rss'] / 1024:.1f}", f"{found['cpu'] / 1e4:.2f} %",
                         *(f"{value:.1f}" if more else "-" for value in more or (0, 0))])
    return rows


def handshakes(data):
    rows = [["links there", "", "us of CPU", "a second", "99 % within", "failed"]]
    for links, scheme, found in each(data, "handshakes"):
        rows.append([f"{links:,}", scheme, f"{found['cpu']:,.0f}", f"{found['rate']:,.0f}", f"{found['p99'] * 1e3:,.0f} ms",
                     str(found["failed"])])
    return rows


def floods(data):
    rows = [["links", "", "us of CPU a copy", "of a bare send", "beyond it", "first copy after", "last copy after", "lost"]]
    for links, scheme, found in each(data, "flood"):
        first, last = (f"{found[key] * 1e3:,.2f} ms" if found[key] else "-" for key in ("first", "last"))
        beyond = found["us"] - found["bare"]
        beyond = f"{beyond:.2f}" if beyond > found.get("spread", 0) else "< noise"  # older files have no spread
        rows.append([f"{links:,}", scheme, f"{found['us']:.2f}", f"{found['bare']:.2f}", beyond,
                     first, last, str(found["lost"])])
    return rows


def unicast(data):
    rows = [["idle links", "", "Mb/s", "ns of CPU a byte", "ping median", "ping 99 %"]]
    for links, scheme, found in each(data, "unicast"):
        rows.append([f"{links:,}", scheme, f"{found['mbps']:,.0f}", f"{found['ns']:.2f}", f"{found['median']:.2f} ms",
                     f"{found['p99']:.2f} ms"])
    return rows


def control(data):
    names = ("listPort", "listCounters", "metrics")
    rows = [["links", "", *(f"`{name}`" for name in names)]]
    for links, scheme, found in each(data, "control"):
        rows.append([f"{links:,}", scheme, *(answer(found[name]) for name in names)])
    return rows


def answer(found):
    return f"{found['seconds'] * 1e3:,.1f} ms, {found['bytes'] / 1e3:,.0f} kB"


def logins(data):
    rows = [["", "us of CPU", "a second", "99 % within", "failed"]]
    for found in data["logins"]:
        rows.append([found["what"], f"{found['cpu']:,.0f}", f"{found['rate']:,.0f}", f"{found['p99'] * 1e3:,.0f} ms",
                     str(found["failed"])])
    return rows


def stations(data):
    """Of memory, what is more than with room for a thousand."""
    rows = [["stations", "known", "resident MiB, empty", "filled", "bytes each", "us of CPU a frame", "`listFdb`", "`metrics`"]]
    for found in data["stations"]:
        least = data["stations"][0]
        bytes_each = (found["rss"] - least["empty"]) * 1024 / found["stations"]
        listed = found["listFdb"]
        rows.append([f"{found['stations']:,}", f"{found['known']:,}", f"{found['empty'] / 1024:.1f}", f"{found['rss'] / 1024:.1f}",
                     f"{bytes_each:,.0f}", f"{found['ns'] / 1e3:.2f}", answer(listed),
                     answer(found["metrics"])])
    return rows


NODES = 100


def reckoned(data):
    """On paper: a node with 10,000 links, and a hundred of those, from what the largest crowd over TLS cost."""
    rows = [["what", "reckoning", "a node of 10,000", f"{NODES} nodes"]]
    if len(data["steps"]) < 2:
        return rows
    last, each_node = data["steps"][-1], 10_000
    kib, idle_us = a_link(data, "wss", last)
    copy, handshake = last["wss"]["flood"]["us"], last["wss"]["handshakes"]["cpu"]

    def row(what, how, value, unit, digits=0, all_nodes=True):
        rows.append([what, how, f"{value:,.{digits}f} {unit}", f"{value * NODES:,.{digits}f} {unit}" if all_nodes else "the same"])

    row("memory of the switch", f"10,000 x {kib:.1f} KiB", each_node * kib / 2**20, "GiB", 1)
    row("idle: PINGs and probes", f"10,000 x {idle_us:.1f} us a second", each_node * idle_us / 1e6, "cores", 2)
    row("all links come, one after the other", f"10,000 x {handshake / 1e3:.2f} ms", each_node * handshake / 1e6, "s", 0, False)
    row("those of a dead node come to the others", f"10,000 / {NODES - 1} x {handshake / 1e3:.2f} ms",
        each_node / (NODES - 1) * handshake / 1e6, "s", 2, False)
    row("a broadcast to every link", f"10,000 x {copy:.1f} us", each_node * copy / 1e3, "ms of a core")
    row("broadcasts a second that fill a core", f"1 s / (10,000 x {copy:.1f} us)", 1e6 / (each_node * copy), "a second", 1, False)
    return rows
