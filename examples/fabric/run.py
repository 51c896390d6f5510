#!/usr/bin/env -S python3 -B
"""Three nodes behind a load balancer, six clients, and what becomes of them when nodes die. Root. make demo-fabric

Before that: what suppression spares the nodes, and a client that is linked to two of them.

    run.py [--kills N] [--cuts N] [--drains N] [--moves N] [--test]

Says what it does as it goes, shows a table at the end, and ends with 1 when a goal was missed. --test makes ten kills.
ETHERWS_BIN names the directory of etherws and etherctl, else target/demo (built here).
"""

import argparse
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time

from lab import FRONT_OUTSIDE, HERE, PATIENCE, Lab, LabError, command, end, until

ROOT = os.path.realpath(os.path.join(HERE, "..", ".."))
AGED = 16  # seconds: a link that lived for less is dialled again with longer waits
LOOKUPS = 1_000
GOALS = {"kill": 10.0, "cut": 10.0, "drain": 3.0, "move": 3.0}  # seconds until pinged, medians
SILENCE = {"drain": 1.0}  # the longest time without an answer, medians: who is told is linked elsewhere before
WORDS = {
    "kill": "SIGKILL to all of the node",
    "cut": "its cable cut, then SIGKILL: nobody is told",
    "drain": "SIGTERM to the switch: it drains",
    "move": "its links moved by HAProxy, the node lives",
}
REPLY = re.compile(r"^\[([\d.]+)\] .* icmp_seq=(\d+) .*time=([\d.]+) ms")


def say(text):
    print(f"\n==> {text}", flush=True)


def prepare(options):
    """The programs; the directory of etherws and etherctl."""
    say("Looking for what the demo needs")
    if os.geteuid() != 0:
        sys.exit("fabric: network namespaces and FRR want root")
    try:
        subprocess.run([os.path.join(ROOT, "scripts/install-deps.sh"), "fabric"], check=True)
    except subprocess.CalledProcessError:
        if options.test:
            print("##### SKIPPED: the fabric example: FRR or HAProxy is not there and cannot be installed #####")
            sys.exit(0)
        sys.exit("fabric: install what is missing, then run make demo-fabric again")
    if "ETHERWS_BIN" in os.environ:
        return os.environ["ETHERWS_BIN"]
    say("Building etherws")
    subprocess.run(["cargo", "build", "--profile", "demo", "--locked"], cwd=ROOT, check=True, timeout=3600)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "demo")


def come_up(lab):
    say("Three nodes (etherws, bridge, VXLAN, FRR), a route reflector, HAProxy, six clients: all in namespaces")
    lab.reflector.frr("frr-reflector.conf", ADDRESS="198.51.100.2", NETWORK="198.51.100.0/24")
    for node in lab.nodes:
        node.up()
    lab.balance()
    for node in lab.nodes:
        ready(lab, node)
    for client in lab.clients:
        client.up()
    for client in lab.clients:
        until(client.connected, PATIENCE, f"the link of {client.name}")
    print(f"    every client reaches every other: 30 pairs, after {lab.settle():.1f} s")
    for node, clients in lab.places().items():
        print(f"    {node.name}: {', '.join(client.name for client in clients) or 'nobody'}")


def ready(lab, node):
    until(lambda: lab.is_up(node), PATIENCE, f"HAProxy to find {node.name} ready")
    until(lambda: len(node.others()) == 2, PATIENCE, f"BGP to tell {node.name} of the other nodes")


def show(lab):
    node = lab.nodes[0]
    for title, text in (
        ("etherctl listport", node.ctl("listport")),
        ("show evpn mac vni all", node.vtysh("-c", "show evpn mac vni all")),
        ("etherctl listfdb", node.ctl("listfdb")),
    ):
        say(f"{node.name}: {title}")
        print("".join(f"    {line.rstrip()}\n" for line in text.splitlines() if line.strip()), end="")


# --- What is done to a node --------------------------------------------------------------------------------------

class Event:
    """One node lost, and when what was noticed; times are seconds since the beginning."""

    def __init__(self, lab, kind, node, clients):
        self.lab, self.kind, self.node, self.clients = lab, kind, node, clients
        places = lab.places()
        # One client of each other node looks on, so that the way through the fabric is seen and not only that within a node.
        watchers = [there[0] for other, there in places.items() if other is not node and there]
        self.watched = {(watcher, client): watcher.watch(client) for watcher in watchers for client in clients}

    def run(self):
        until(lambda: all(self._replies(log) for log in self.watched.values()), PATIENCE, "the first pings")
        self.begin = time.time()
        getattr(self, "_" + self.kind)()
        self.noticed = 0.0 if self.kind == "move" else None
        self.dropped = None if self.kind in ("kill", "cut") else 0.0
        until(self._is_over, PATIENCE, f"HAProxy and BGP to give {self.node.name} up and its clients to come back: " +
              ", ".join(client.name for client in self.clients))
        self.link = max(self._linked(client) - self.begin for client in self.clients)
        self.back = max(self._back(client, log) for (_, client), log in self.watched.items()) - self.begin
        self.gap = max(self._gap(client, log) for (_, client), log in self.watched.items())
        self.fabric = max(self._back(client, log) - self._linked(client) for (_, client), log in self.watched.items())

    def _kill(self):
        self.node.kill()

    def _cut(self):
        self.node.ip("link", "set", "eth0", "down")
        self.node.kill()

    def _drain(self):
        self.node.terminate_switch()

    def _move(self):
        self.lab.haproxy(f"set server nodes/{self.node.name} state drain")
        self.lab.haproxy(f"shutdown sessions server nodes/{self.node.name}")

    def _linked(self, client):
        """When the client's link came up again."""
        return next((at for at in client.connected() if at > self.begin), None)

    def _replies(self, log):
        """[(when the ping was sent, when it was answered)]"""
        with open(log, encoding="utf-8") as file:
            found = [match for match in map(REPLY.match, file) if match]
        return [(float(at) - float(took) / 1000, float(at)) for at, _, took in (match.groups() for match in found)]

    def _back(self, client, log):
        """When a ping that was sent over the new link was answered."""
        linked = self._linked(client)
        return linked and next((at for sent, at in self._replies(log) if at > linked), None)

    def _gap(self, client, log):
        """The longest time without an answer."""
        answers = [at for _, at in self._replies(log) if at <= self._back(client, log)]
        return max((after - before for before, after in zip(answers, answers[1:]) if after > self.begin), default=0.0)

    def _is_over(self):
        if self.noticed is None and not self.lab.is_up(self.node):
            self.noticed = time.time() - self.begin
        if self.dropped is None and not any(self.node.address in node.others() for node in self.lab.nodes
                                            if node is not self.node):
            self.dropped = time.time() - self.begin
        is_back = all(self._back(client, log) for (_, client), log in self.watched.items())
        return is_back and None not in (self.noticed, self.dropped)

    def clean_up(self):
        """All is as before, and every client reaches every other."""
        for watcher, client in self.watched:
            end(watcher.processes.pop(f"ping-{client.name}"))
        if self.kind == "drain":  # it goes on for its drain_wait, and ends in good order
            code = self.node.processes.pop("etherws").wait(PATIENCE)
            if code != 0:
                raise LabError(f"{self.node.name} was drained and ended with exit code {code}")
        self.settled = self.lab.settle()
        if self.kind == "move":
            self.lab.haproxy(f"set server nodes/{self.node.name} state ready")
        else:
            self.node.stop()
            self.node.up()
        ready(self.lab, self.node)
        self.settled = max(self.settled, self.lab.settle())


def next_node(lab):
    """The node with the oldest links, and its clients, once these are old enough to be dialled again at once."""
    ages = {node: max(client.connected()[-1] for client in clients) for node, clients in lab.places().items() if clients}
    node = min(ages, key=ages.get)
    time.sleep(max(0, ages[node] + AGED - time.time()))
    return node, lab.places()[node]


def lose(lab, kind, stream=False):
    node, clients = next_node(lab)
    say(f"{node.name}: {WORDS[kind]} ({', '.join(client.name for client in clients)})")
    event = Event(lab, kind, node, clients)
    flow = Stream(next(iter(event.watched))) if stream else None
    event.run()
    print(f"    noticed by HAProxy {event.noticed:.1f} s, links again {event.link:.1f} s, pinged {event.back:.1f} s; "
          f"longest without an answer {event.gap:.1f} s")
    if flow:
        flow.report()
    event.clean_up()
    return event


# --- What crosses the fabric -----------------------------------------------------------------------------------

def broadcasts(lab):
    """What LOOKUPS questions for clients of other nodes send to all nodes, without suppression and with it; is that good?"""
    say(f"{LOOKUPS:,} ARP lookups between clients of different nodes, without suppression and with it")
    without, with_it = (questions(lab, on) for on in (False, True))
    good = with_it[0] * 10 <= without[0]
    for what, (frames, arp, asked) in (("without", without), ("with it", with_it)):
        print(f"    {what}  {frames:5} broadcasts and multicasts went to the other nodes, {arp} of them ARP; {asked} lookups")
    print(f"    goal a tenth: {'met' if good else 'MISSED'}")
    return good


def questions(lab, suppress):
    """(frames to group addresses that the nodes sent to the others, those of ARP, lookups)"""
    for node in lab.nodes:
        node.suppress(suppress)
    homes = {client: node for node, clients in lab.places().items() for client in clients}
    others = {one: [other for other in lab.clients if homes[other] is not homes[one]] for one in lab.clients}
    rounds = math.ceil(LOOKUPS / sum(map(len, others.values())))
    for node in lab.nodes:
        node.count("bum", "vxlan77")
    asking = [one.look_up(some, rounds) for one, some in others.items() if some]
    lost = [process.wait(10 * PATIENCE) for process in asking]
    counted = [node.counted("bum") for node in lab.nodes]
    frames, arp = map(sum, zip(*counted))
    lookups = rounds * sum(map(len, others.values()))
    if any(lost):
        raise LabError(f"pings were lost while clients looked each other up, suppress = {suppress}")
    # A question tells the asked where the asker is: when both ask at once one question is enough.
    if not suppress and arp < lookups // 2:
        raise LabError(f"{lookups} lookups without suppression, and only {arp} questions were seen: the count is wrong")
    return frames, arp, lookups


def loop(lab):
    """A client links to a second node: the loop through the fabric is cut at one port."""
    client = lab.clients[0]
    home = next(node for node, clients in lab.places().items() if client in clients)
    second, third = (node for node in lab.nodes if node is not home)
    say(f"{client.name}, whose link is at {home.name}, links to {second.name} too: a loop through the fabric")
    for node in (home, third):  # what is there stays, what is new goes to the second
        lab.haproxy(f"set server nodes/{node.name} state drain")
    client.ctl("addport", "client", f"ws://{FRONT_OUTSIDE}/", "--name", "second")
    until(lambda: client.outside in second.clients(), PATIENCE, f"{client.name}'s link to {second.name}")
    begin = time.monotonic()
    for node in (home, third):
        lab.haproxy(f"set server nodes/{node.name} state ready")
    until(lab.blocked, PATIENCE, "a port to be blocked")
    # Two may have been at it at once: then both open again, and one is first.
    until(lambda: not lab.unreachable(), 2 * PATIENCE, "every client to reach every other")
    until(lambda: len(lab.blocked()) == 1, 2 * PATIENCE, "one port to be blocked")
    took = time.monotonic() - begin
    port = lab.blocked()[0]
    for other in lab.clients:
        if other is not client:
            other.count("marked", "ews0")
    client.on(os.path.join(HERE, "frames.py"), "mark", "ews0")
    time.sleep(2)  # for further copies, which are not to come
    copies = {other.name: other.counted("marked")[0] for other in lab.clients if other is not client}
    client.ctl("delport", "second")
    if any(count != 1 for count in copies.values()):
        raise LabError(f"copies of one broadcast: {copies}")
    print(f"    one port is blocked after {took:.1f} s: {port}; a broadcast comes once to each of {len(copies)} clients")
    until(lambda: not lab.blocked(), 2 * PATIENCE, "the port to open again")
    for node in (home, third):
        ready(lab, node)
    lab.settle()


class Stream:
    """iperf3 from a client of the lost node to one that keeps its place."""

    def __init__(self, pair):
        self.server, self.client = pair
        self.server.start("iperf3", "iperf3", "-s", "-1", "-i", "0.1", "-f", "m", "--forceflush")
        until(lambda: "5201" in self.server.on("ss", "-Hltn", "sport = :5201"), PATIENCE, "iperf3 to listen")
        self.process = self.client.start("iperf3", "iperf3", "-c", self.server.inside, "-t", "10", "-b", "20M")
        until(lambda: len(self._rates()) >= 10, PATIENCE, "iperf3's first second")

    def _rates(self):
        """Mb/s that arrived, a figure for each tenth of a second."""
        with open(self.server.log("iperf3"), encoding="utf-8") as file:
            lines = [line for line in file if "receiver" not in line]
        return [float(rate) for rate in re.findall(r"Bytes +([\d.]+) Mbits/sec", "".join(lines))]

    def report(self):
        code = self.process.wait(PATIENCE)
        rates = self._rates()
        if code != 0:
            raise LabError(f"iperf3's stream broke: exit {code}, see {self.client.log('iperf3')}")
        print(f"    iperf3, {self.client.name} to {self.server.name}, 20 Mb/s for 10 s: one TCP connection to the end, "
              f"{sum(rate == 0 for rate in rates) / 10:.1f} s without data")
        for host in (self.server, self.client):
            end(host.processes.pop("iperf3"))


# --- The table ---------------------------------------------------------------------------------------------------

def table(events):
    say("Seconds since each event until the last of the node's clients was there again")
    row = "    {:6} {:7} {:>7}  {:>7} {:>6} {:>7}  {:>6} {:>7} {:>8}"
    print(row.format("event", "node", "clients", "noticed", "link", "fabric", "pinged", "silence", "given up"))
    for event in events:
        figures = (event.noticed, event.link, event.fabric, event.back, event.gap, event.dropped)
        print(row.format(event.kind, event.node.name, len(event.clients), *(f"{value:.1f}" for value in figures)))
    print("    noticed   HAProxy marks the node down, or sends nobody new there\n"
          "    link      the last client is linked to another node: HAProxy, and the wait before a client dials; drained, it has the\n"
          "              old link meanwhile\n"
          "    fabric    from a link to an answered ping: announcement, bridge, EVPN; its worst client\n"
          "    pinged    the last client answered one of each other node; silence: the longest time without an answer\n"
          "    given up  BGP has told both other nodes that the node is gone")
    met = True
    print()
    for kind in dict.fromkeys(event.kind for event in events):
        some = [event for event in events if event.kind == kind]
        median = statistics.median(event.back for event in some)
        good = median <= GOALS[kind]
        goal = f"goal {GOALS[kind]:.0f} s"
        if kind in SILENCE:
            silence = statistics.median(event.gap for event in some)
            good &= silence <= SILENCE[kind]
            goal = f"without an answer for {silence:.1f} s; goals {GOALS[kind]:.0f} s and {SILENCE[kind]:.0f} s"
        met &= good
        worst = max(event.back for event in some)
        link, fabric = (statistics.median(getattr(event, part) for event in some) for part in ("link", "fabric"))
        print(f"    {kind:5} {len(some):2} x: median {median:.1f} s (load balancer and dial {link:.1f} s, fabric {fabric:.1f} s), "
              f"worst {worst:.1f} s; {goal}: {'met' if good else 'MISSED'}")
    print("    After each of them every client reached every other, and every node looked for each where its link is: after "
          f"{max(event.settled for event in events):.1f} s at most")
    return met


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind, demo in (("kills", 3), ("cuts", 1), ("drains", 1), ("moves", 1)):
        parser.add_argument("--" + kind, type=int, metavar="N", help=f"how many (default: {demo}; kills with --test: 10)")
    parser.add_argument("--test", action="store_true", help="ten kills; skipped, and said so, where FRR cannot be installed")
    options = parser.parse_args()
    counts = [("kill", options.kills, 10 if options.test else 3), ("cut", options.cuts, 2 if options.test else 1),
              ("drain", options.drains, 3 if options.test else 1), ("move", options.moves, 3 if options.test else 1)]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    binaries = prepare(options)
    try:
        with Lab(binaries) as lab:
            try:
                come_up(lab)
                show(lab)
                few = broadcasts(lab)
                loop(lab)
                events = []
                for kind, wanted, default in counts:
                    for number in range(default if wanted is None else wanted):
                        events.append(lose(lab, kind, stream=kind == "kill" and number == 0))
                met = (table(events) if events else True) and few
            except LabError:
                last_words(lab)
                raise
    except LabError as error:
        sys.exit(f"\nfabric: FAILED: {error}")
    print("\nfabric: done" if met else "\nfabric: a goal was missed")
    sys.exit(0 if met else 1)


def last_words(lab):
    for host in lab.hosts:
        for name in sorted(os.listdir(host.dir)):
            if name.endswith(".log") and not name.startswith("ping"):
                with open(os.path.join(host.dir, name), encoding="utf-8", errors="replace") as file:
                    lines = file.read().splitlines()[-8:]
                print("\n".join([f"--- {host.name} {name}", *lines]), file=sys.stderr)


if __name__ == "__main__":
    main()
