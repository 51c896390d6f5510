"""The fabric's hosts as network namespaces, and the processes in them.

    client1 ... client6  --- outside 192.0.2.0/24 ---  front (HAProxy)
                                                         |
    reflector  --- inside 198.51.100.0/24, MTU 1600 ---  +  --- edge-1, edge-2, edge-3

Both networks are bridges in a namespace of their own. Every wait is bounded, and everything that was started is ended by
its process id when the lab closes, whatever happened before.
"""

import json
import os
import re
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from datetime import datetime

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "benches", "lab"))
from hosts import LabError, command, end, environment, kill, until  # noqa: E402 (the path comes first)

FRONT_OUTSIDE, FRONT_INSIDE, REFLECTOR = "192.0.2.1", "198.51.100.1", "198.51.100.2"
INSIDE = "198.51.100.0/24"
FRR = "/usr/lib/frr"
PATIENCE = 30  # seconds for what should be there at once


class Host:
    def __init__(self, lab, name):
        self.lab, self.name, self.netns = lab, name, f"ewf{os.getpid()}-{name}"
        self.dir = lab.path(name)
        os.mkdir(self.dir)
        self.processes = {}
        command("ip", "netns", "add", self.netns)
        lab.hosts.append(self)
        self.on("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self.ip("link", "set", "lo", "up")

    def on(self, *argv, timeout=PATIENCE, check=True):
        return command("ip", "netns", "exec", self.netns, *argv, timeout=timeout, check=check)

    def ip(self, *argv, check=True):
        return command("ip", "-n", self.netns, *argv, check=check)

    def start(self, name, *argv, env=None):
        """Starts a process (its pid is the program's own: `ip netns exec` executes it)."""
        with open(self.log(name), "ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, env=environment(env))
        self.processes[name] = process
        return process

    def log(self, name):
        return os.path.join(self.dir, name + ".log")

    def configure(self, template, name, **values):
        """One of the example's files, its variables replaced."""
        with open(os.path.join(HERE, template), encoding="utf-8") as file:
            text = string.Template(file.read()).substitute(values)
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def cable(self, network, device, address, mtu=1500):
        """A cable to one of the two networks."""
        net, end_name = self.lab.net, f"{network[0]}-{self.name}"
        self.ip("link", "add", device, "mtu", mtu, "type", "veth",
                "peer", "name", end_name, "mtu", mtu, "netns", net.netns)
        net.ip("link", "set", end_name, "master", network, "up")
        self.ip("addr", "add", address + "/24", "dev", device)
        self.ip("link", "set", device, "up")

    # --- FRR, without its service

    def frr(self, template, **values):
        """zebra, bgpd and bfdd in the foreground, as the service would start them."""
        run = os.path.join(self.dir, "frr")
        shutil.rmtree(run, ignore_errors=True)
        os.mkdir(run)
        config = self.configure(template, "frr.conf", **values)
        shutil.chown(run, "frr", "frr")
        zserv = os.path.join(run, "zserv.api")
        for daemon in ("zebra", "bfdd", "bgpd"):
            more = ("--bfdctl", f"{run}/bfdd.sock") if daemon == "bfdd" else ()
            self.start(daemon, f"{FRR}/{daemon}", "-u", "frr", "-g", "frr", "-f", "/dev/null", "-i", f"{run}/{daemon}.pid",
                       "-z", zserv, "--vty_socket", run, "-P", "0", "--log", "stdout", *more)
            path = os.path.join(run, f"{daemon}.vty")
            until(lambda at=path: os.path.exists(at), PATIENCE, f"{daemon} on {self.name}, see {self.log(daemon)}")
        self.vtysh("-f", config)

    def vtysh(self, *argv):
        return self.on("vtysh", "--vty_socket", os.path.join(self.dir, "frr"), *argv)

    # --- etherws

    def switch(self, config):
        self.start("etherws", self.lab.etherws, "sw", "--config", config, "--ctlsock", self.sock())
        until(lambda: self.ctl("version", check=False), PATIENCE, f"etherws on {self.name}, see {self.log('etherws')}")

    def sock(self):
        return os.path.join(self.dir, "ctl.sock")

    def ctl(self, *argv, check=True):
        return self.on(self.lab.etherctl, "--ctlurl", "unix:" + self.sock(), *argv, check=check)

    def ports(self):
        ports = json.loads(self.ctl("--json", "listport"))
        return ports if isinstance(ports, list) else ports["entries"]

    # --- Frames

    def count(self, what, device):
        """Begins to count frames, see frames.py."""
        name = f"frames-{what}"
        if os.path.exists(self.log(name)):
            os.unlink(self.log(name))
        self.start(name, os.path.join(HERE, "frames.py"), what, device)
        until(lambda: self._lines(name), PATIENCE, f"{self.log(name)} to begin")

    def counted(self, what):
        """Ends it; the figures."""
        name = f"frames-{what}"
        end(self.processes.pop(name))
        lines = self._lines(name)
        if len(lines) != 2:
            raise LabError(f"frames.py {what} on {self.name} said {lines}")
        return [int(word) for word in lines[1].split()]

    def _lines(self, name):
        with open(self.log(name), encoding="utf-8") as file:
            return file.read().splitlines()


class Node(Host):
    def __init__(self, lab, number):
        super().__init__(lab, f"edge-{number}")
        self.address = f"198.51.100.{10 + number}"
        self.cable("inside", "eth0", self.address, mtu=1600)

    def up(self):
        """From the cable to the switch, as after a boot."""
        for link in ("br0", "vxlan77"):
            self.ip("link", "del", link, check=False)
        self.ip("link", "set", "eth0", "up")
        self.on(os.path.join(HERE, "node-up.sh"), self.address)
        self.frr("frr-node.conf", NODE=self.name, ADDRESS=self.address, REFLECTOR=REFLECTOR)
        self.switch(self.configure("etherws.toml", "etherws.toml", NODE=self.name, FRONT=FRONT_INSIDE))

    def suppress(self, on):
        """Turns suppression on or off; links stay."""
        path = os.path.join(self.dir, "etherws.toml")
        with open(path, encoding="utf-8") as file:
            text, found = re.subn(r"^suppress = \w+", f"suppress = {str(on).lower()}", file.read(), flags=re.MULTILINE)
        if found != 1:
            raise LabError(f"{path} does not say suppress once")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        self.ctl("reload")

    def kill(self):
        """SIGKILL to all that runs here; returns when nothing does any more."""
        for process in self.processes.values():
            kill(process.pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait(PATIENCE)
        self.processes.clear()

    def terminate_switch(self):
        kill(self.processes["etherws"].pid, signal.SIGTERM)

    def stop(self):
        for process in reversed(self.processes.values()):
            end(process, PATIENCE)
        self.processes.clear()

    def clients(self):
        """The addresses of the clients whose links are here, as the PROXY header told them."""
        return {port["peer"].rsplit(":", 1)[0] for port in self.ports() if port["type"] == "server" and port.get("peer")}

    def others(self):
        """The nodes that BGP has told this one of, by address."""
        found = json.loads(self.vtysh("-c", "show evpn vni 77 json")).get("numRemoteVteps")
        return found if isinstance(found, list) else []  # 0 when there are none

    def macs(self):
        """{MAC: the address of the node where EVPN sees it}"""
        found = json.loads(self.vtysh("-c", "show evpn mac vni 77 json")).get("macs", {})
        return {mac: self.address if entry["type"] == "local" else entry.get("remoteVtep") for mac, entry in found.items()}


class Client(Host):
    def __init__(self, lab, number):
        super().__init__(lab, f"client{number}")
        self.outside, self.inside = f"192.0.2.{20 + number}", f"10.77.0.{number}"
        self.mac = f"02:00:00:00:77:{number:02x}"
        self.cable("outside", "eth0", self.outside)

    def up(self):
        self.switch(self.configure("client.toml", "etherws.toml", NODE=self.name, ADDRESS=self.inside, MAC=self.mac,
                                   FRONT=FRONT_OUTSIDE))

    def connected(self):
        """When its link came up, each time, in seconds of the epoch."""
        with open(self.log("etherws"), encoding="utf-8") as file:
            return [datetime.fromisoformat(line.split()[0].replace("Z", "+00:00")).timestamp()
                    for line in file if " connected to " in line]

    def pings(self, others):
        """Starts one ping to each; the processes."""
        return [subprocess.Popen(["ip", "netns", "exec", self.netns, "ping", "-nq", "-c1", "-W2", other.inside],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for other in others]

    def look_up(self, others, rounds):
        """Starts to ask for the address of each, so many times; the process. It ends with 1 when two pings were lost: one may
        have waited for an answer that the other client was about to forget."""
        script = ("lost=0; for _ in $(seq $0); do for other; do ip neigh flush to $other dev ews0; "
                  "ping -nqc1 -W2 $other || ping -nqc1 -W2 $other || lost=1; done; done; exit $lost")
        return subprocess.Popen(["ip", "netns", "exec", self.netns, "sh", "-c", script, str(rounds),
                                 *(other.inside for other in others)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def watch(self, other):
        """Pings another client ten times a second until the process is ended; where it writes."""
        name = f"ping-{other.name}"
        if os.path.exists(self.log(name)):
            os.unlink(self.log(name))
        self.start(name, "stdbuf", "-oL", "ping", "-nD", "-i0.1", "-W1", other.inside)
        return self.log(name)


class Lab:
    def __init__(self, binaries):
        self.etherws, self.etherctl = (os.path.join(binaries, name) for name in ("etherws", "etherctl"))
        for path in (self.etherws, self.etherctl):
            if not os.access(path, os.X_OK):
                raise LabError(f"{path} is missing: make build, or name another directory by ETHERWS_BIN")
        self.work = tempfile.mkdtemp(prefix="etherws-fabric-")
        os.chmod(self.work, 0o755)  # FRR runs as user frr
        self.hosts = []

    def path(self, *parts):
        return os.path.join(self.work, *parts)

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _build(self):
        self.net = Host(self, "net")
        for network, mtu in (("outside", 1500), ("inside", 1600)):
            self.net.ip("link", "add", network, "mtu", mtu, "type", "bridge", "mcast_snooping", "0")
            self.net.ip("link", "set", network, "up")
        self.front, self.reflector = Host(self, "front"), Host(self, "reflector")
        self.front.cable("outside", "eth0", FRONT_OUTSIDE)
        self.front.cable("inside", "eth1", FRONT_INSIDE, mtu=1600)
        self.reflector.cable("inside", "eth0", REFLECTOR, mtu=1600)
        self.nodes = [Node(self, number) for number in (1, 2, 3)]
        self.clients = [Client(self, number) for number in range(1, 7)]

    def close(self):
        for host in reversed(self.hosts):
            for process in host.processes.values():
                kill(process.pid, signal.SIGTERM)
        for host in reversed(self.hosts):
            for process in host.processes.values():
                end(process)
            for pid in command("ip", "netns", "pids", host.netns, check=False).split():
                kill(int(pid), signal.SIGKILL)
            command("ip", "netns", "del", host.netns, check=False)
        self.hosts.clear()
        shutil.rmtree(self.work, ignore_errors=True)

    # --- HAProxy

    def balance(self):
        env = {"SOCKET": self.path("front", "haproxy.sock")}
        env.update({f"NODE_{number}": node.address for number, node in enumerate(self.nodes, 1)})
        self.front.start("haproxy", "haproxy", "-db", "-f", os.path.join(HERE, "haproxy.cfg"), env=env)

    def haproxy(self, line):
        """Asks HAProxy's runtime API."""
        with socket.socket(socket.AF_UNIX) as api:
            api.settimeout(5)
            api.connect(self.path("front", "haproxy.sock"))
            api.sendall(line.encode() + b"\n")
            return b"".join(iter(lambda: api.recv(65536), b"")).decode()

    def is_up(self, node):
        """What HAProxy thinks of a node."""
        try:
            rows = [line.split(",") for line in self.haproxy("show stat").splitlines() if line]
        except OSError:
            return False
        status = rows[0].index("status")
        return any(row[:2] == ["nodes", node.name] and row[status].startswith("UP") for row in rows[1:])

    # --- What is where

    def blocked(self):
        """The ports that the loop guard has blocked, as text."""
        return [f"{host.name}'s {port['name']}: {port['reason']}" for host in self.nodes + self.clients
                for port in host.ports() if port["state"] == "blocked" and "loop" in port["reason"]]

    def places(self):
        """{node: [its clients]}"""
        found = {}
        for node in self.nodes:
            here = node.clients() if "etherws" in node.processes else ()
            found[node] = [client for client in self.clients if client.outside in here]
        return found

    def unreachable(self):
        """The pairs of clients of which the first does not get a ping answered by the second."""
        pairs = [(one, other) for one in self.clients for other in self.clients if one is not other]
        tries = {}
        for one in self.clients:
            others = [other for other in self.clients if other is not one]
            tries.update(zip(((one, other) for other in others), one.pings(others)))
        for process in tries.values():
            process.wait(PATIENCE)
        return [f"{one.name} to {other.name}" for one, other in pairs if tries[one, other].returncode != 0]

    def misplaced(self):
        """Clients that a node looks for behind another node than the one that has their link."""
        places = {client: node for node, clients in self.places().items() for client in clients}
        found = [f"{client.name} has no link" for client in self.clients if client not in places]
        for node in self.nodes:
            if "zebra" not in node.processes:
                continue
            macs = node.macs()
            found += [f"{node.name} sees {client.name} at {macs.get(client.mac)}, not {place.address}"
                      for client, place in places.items() if macs.get(client.mac) != place.address]
        return found

    def settle(self):
        """Waits until every client reaches every other and every node knows where; returns the seconds it took."""
        begin = time.monotonic()
        while missing := self.unreachable() or self.misplaced():
            if time.monotonic() > begin + PATIENCE:
                raise LabError(f"no way after {PATIENCE} s: {', '.join(missing)}")
        return time.monotonic() - begin
