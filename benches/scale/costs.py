"""What is measured of a switch with many links: each function returns one row's figures, in plain units."""

import http.client
import json
import re
import signal
import socket
import statistics
import time

from doors import pings, said, write
from hosts import OVERLAY, UNDERLAY, LabError, command, cpu_seconds, until
from place import cpu_exact, descriptors, rss_kib
from tunnels import TLS_ARGS, certificate

HOST = UNDERLAY["b"]
BARE = 9000  # where bare connections come to
SIZE = 1_000  # bytes of a flooded frame
PAGE = 25_000  # stations of one answer, as etherctl asks for them
LOGINS = {"first": "RSA 2048, first login (bcrypt, cost 5)", "again": "RSA 2048, login remembered",
          "P-256": "ECDSA P-256, no password"}
HEADS = {"ws": 4, "wss": 4 + 22}  # bytes around it: a message's header; a TLS record's


class Crowd:
    """Idle links to one switch that answer PINGs, held by processes of host A."""

    def __init__(self, row, server, port, cert=None):
        self.row, self.server, self.port, self.cert = row, server, port, cert
        self.links, self.processes = 0, []

    def grow(self, links):
        """Seconds that it took."""
        began, more = time.monotonic(), links - self.links
        parts = [more] if more < 100 else [more // 2, more - more // 2]
        started = [self.row.peer("a", "idle", part, HOST, self.port, *filter(None, [self.cert])) for part in parts]
        self.processes += started
        for process in started:
            if process.stdout.readline().strip() != "ready":
                raise LabError(f"{links:,} links did not come up")
        self.links = links
        return time.monotonic() - began

    def __enter__(self):
        """Meanwhile they do not run, so that what is measured is the switch alone. Their kernels go on."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)

    def __exit__(self, *_):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)


def idle(servers, seconds):
    """{name: CPU microseconds a second, resident KiB} of switches to which nothing happens."""
    before = {name: cpu_exact(server) for name, server in servers.items()}
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {name: {"cpu": (cpu_exact(server) - before[name]) / passed * 1e6, "rss": rss_kib(server)}
            for name, server in servers.items()}


def handshakes(row, server, port, cert, count, logins=("nobody:x",) * 2, rest=0.0):
    """Links that come as fast as they can from two processes, each of another login, and go again; at the end all of them
    are gone. `rest`: what the switch spends on others meanwhile, in microseconds a second."""
    began, before, there = time.monotonic(), cpu_exact(server), descriptors(server)[0]
    # More a second than there can be: nobody waits for his turn.
    crowds = [row.peer("a", "storm", count * 50, 0.01, HOST, port, cert or "", *logins[half::2], program="strangers.py")
              for half in (0, 1)]
    found = [said(crowd, 120) for crowd in crowds]
    until(lambda: descriptors(server)[0] <= there, 20, "the end of the links")
    links = sum(one["links"] for one in found)
    if not links:
        raise LabError(f"no link came up: {found[0]['failed']}")
    spent = (cpu_exact(server) - before) * 1e6 - (time.monotonic() - began) * rest
    return {"links": links, "failed": count // 2 * 2 - links, "cpu": spent / links,
            "rate": links / max(one["seconds"] for one in found), "p99": max(one["p99"] or 0 for one in found)}


def flood(lab, row, crowd, device, copies, scheme):
    """Broadcasts out of a TAP to all links, whose holders stand still: CPU a copy, the same of bare sends, and the time
    until the first and the last are at the other host."""
    floods = min(20, max(5, 20_000 // copies))
    with crowd:
        time.sleep(0.5)
        found = said(row.peer("a", "flood", crowd.server.pid, lab.names["b"], device, lab.names["a"], crowd.port, copies, floods,
                              SIZE, program="../scale/copies.py"), 120)
    sender = row.peer("b", "send", copies, HOST, BARE, floods, SIZE + HEADS[scheme], program="../scale/copies.py")
    sender.stdout.readline()
    taker = row.peer("a", "take", copies, HOST, BARE, program="../scale/copies.py")
    bare = said(sender, 120)
    taker.stdin.close()
    taker.wait(20)
    return found | {"copies": copies, "floods": floods, "bare": bare["us"], "spread": bare["spread"]}


def unicast(lab, row, server, seconds):
    """One link that works beside the idle ones: Mb/s, the switch's CPU a byte, round trips."""
    began = cpu_seconds([server])
    mbps = row.iperf(seconds)
    spent = cpu_seconds([server]) - began
    times = pings(lab, 100)
    return {"mbps": mbps, "ns": spent / (mbps * 1e6 / 8 * seconds) * 1e9, "median": statistics.median(times),
            "p99": statistics.quantiles(times, n=100)[98]}


def control(row, name):
    """{what: {seconds, bytes}} of answers that grow with the links."""
    return {what: asked(row, name, what)[0] for what in ("listPort", "listCounters", "metrics")}


def asked(row, name, what, params=None):
    """What a method, or the metrics, cost him who asks; and the answer."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(row.socket(name))
    began = time.monotonic()
    if what == "metrics":
        connection.request("GET", "/metrics")
    else:
        call = {"jsonrpc": "2.0", "id": 1, "method": "etherws.control." + what, "params": params or {}}
        connection.request("POST", "/ctl", json.dumps(call), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    seconds = time.monotonic() - began
    connection.close()
    if answer.status != 200:
        raise LabError(f"{what}: {answer.status} {text[:100]!r}")
    return {"seconds": seconds, "bytes": len(text)}, text


def stations(lab, row, count):
    """A switch that has room for `count` stations and gets them all by one link; then each is heard again, twice."""
    config = write(lab.path("stations.toml"), f"[switch]\nmax_macs = {count}\nstorm = 'off'\nannounce = false\n")
    server = row.switch("b", "--host", HOST, "--port", "8090", "--fdb-limit", count, "--config", config, name="stations")
    empty = rss_kib(server)
    peer = row.peer("a", "stations", count, HOST, "8090")
    if peer.stdout.readline().strip() != "ready":
        raise LabError(f"{count:,} stations were not heard")
    rss, spent = rss_kib(server), cpu_exact(server)
    for _ in range(2):
        peer.stdin.write("again\n")
        peer.stdin.flush()
        peer.stdout.readline()
    spent = (cpu_exact(server) - spent) / 2 / count
    scraped, text = asked(row, "stations", "metrics")
    known = int(re.search(rb"^etherws_fdb_entries (\d+)", text, re.MULTILINE)[1])
    listed, entries, page = {"seconds": 0, "bytes": 0}, None, {"limit": PAGE}
    while entries is None or len(entries) == PAGE:
        part, text = asked(row, "stations", "listFdb", page)
        listed = {what: listed[what] + part[what] for what in listed}
        entries = json.loads(text)["result"]["entries"]
        page["after"] = entries and {key: entries[-1][key] for key in ("vid", "mac")}
    lab.stop(peer, server)
    return {"stations": count, "known": known, "empty": empty, "rss": rss, "ns": spent * 1e9, "listFdb": listed,
            "metrics": scraped}


def logins(lab, row, users):
    """Handshakes with another key, with passwords that the switch has never seen, and with the same ones again."""
    lines = [command("htpasswd", "-nbB", f"new{number}", f"pw{number}").strip() for number in range(users)]
    password_file = write(lab.path("logins"), "\n".join(lines) + "\n")
    names = [f"new{number}:pw{number}" for number in range(users)]
    small = lab.path("ec.key"), lab.path("ec.crt")
    command("openssl", "req", *("ec" if word == "rsa:2048" else word for word in TLS_ARGS), "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-keyout", small[0], "-out", small[1])
    rows = []
    for (key, cert), flags, turns in ((certificate(lab), ("--htpasswd", password_file), ("first", "again")), (small, (), ("P-256",))):
        server = row.switch("b", "--host", HOST, "--port", "8091", "--sslkey", key, "--sslcert", cert, *flags, name="logins")
        rows += [{"what": LOGINS[turn]} | handshakes(row, server, 8091, cert, users, names) for turn in turns]
        lab.stop(server)
    return rows
