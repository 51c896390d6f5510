"""The tunnels under test. Each gives host A and host B a device t0 in one segment; B serves, A dials.

A tunnel has `name` (its key in the results), `label`, `prepare(lab)` (programs, keys; once), `up(lab)` -> the daemons'
processes, whose CPU time is counted, and `down(lab)`. Flags that matter: no compression anywhere, one TCP connection,
no UDP shortcut, the cheapest cipher each offers, or none.
"""

import json
import os
import time

from hosts import OVERLAY, UNDERLAY, LabError, command, until
from packages import ENV, etherws, fetch, program

TLS_ARGS = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=lab",
            "-addext", f"subjectAltName=IP:{UNDERLAY['b']}")


def certificate(lab):
    """A key and a certificate that is its own authority, for all tunnels with TLS."""
    key, cert = lab.path("key.pem"), lab.path("cert.pem")
    if not os.path.exists(cert):
        command("openssl", "req", *TLS_ARGS, "-keyout", key, "-out", cert)
    return key, cert


class Tunnel:
    def __init__(self):
        self.daemons = []

    def prepare(self, lab):
        pass

    def up(self, lab):
        """Starts the tunnel and waits until a ping crosses it."""
        self.daemons = []
        self.start(lab)
        for side in "ab":
            lab.device(side)
            lab.address(side)
        deadline = time.monotonic() + 25
        while "1 received" not in lab.on("a", "ping", "-nqc1", "-W1", OVERLAY["b"], check=False):
            if time.monotonic() > deadline:
                raise LabError(f"no ping through {self.label} after 25 s")
        return self.daemons

    def down(self, lab):
        lab.stop(*self.daemons)
        self.daemons = []
        for side in "ab":  # kernel devices, and TAPs that a daemon left behind
            lab.on(side, "ip", "link", "del", "t0", check=False)


class Etherws(Tunnel):
    """`taps`: the hosts whose TAP takes super-frames; `whole`: the link carries them. Nothing of both is the classic way,
    frame by frame, which the H rows are about; all of it is what etherws does when it is not told. `connections`: so many
    for the link, the first for flows that send little."""

    def __init__(self, name, label, tls=False, taps="", whole=False, connections=1):
        super().__init__()
        self.name, self.label, self.tls, self.taps, self.whole = name, label, tls, taps, whole
        self.connections = connections

    def prepare(self, lab):
        self.sw, self.ctl_program = etherws()
        if self.tls:
            self.key, self.cert = certificate(lab)

    def ctl(self, lab, side, *argv):
        return command(self.ctl_program, "--ctlurl", "unix:" + lab.path(f"etherws-{side}.sock"), *argv)

    def switch(self, lab, side, *argv):
        """A switch on a host; it is there when it answers."""
        sock = lab.path(f"etherws-{side}.sock")
        process = lab.start(side[0], f"{self.name}-{side}", self.sw, "sw", "--ctlsock", sock, *argv)
        self.daemons.append(process)
        until(lambda: os.path.exists(sock), 10, f"the switch on host {side}")
        self.ctl(lab, side, "version")
        return process

    def server(self, lab):
        return self.switch(lab, "b", "--host", UNDERLAY["b"], "--port", "8080",
                           *(("--sslkey", self.key, "--sslcert", self.cert) if self.tls else ()))

    def link(self, lab, side):
        scheme, trust = ("wss", ("--cacerts", self.cert)) if self.tls else ("ws", ())
        self.ctl(lab, side, "addport", "client", f"{scheme}://{UNDERLAY['b']}:8080/", *trust, *offload(self.whole),
                 *(("--connections", self.connections) if self.connections > 1 else ()))

    def start(self, lab):
        self.server(lab)
        self.switch(lab, "a", "--no-listen")
        for side in "ab":
            self.ctl(lab, side, "addport", "tap", "t0", *offload(side in self.taps))
        self.link(lab, "a")

    def up(self, lab):
        daemons = super().up(lab)
        for side in "ab":
            for port in json.loads(self.ctl(lab, side, "--json", "listport"))["entries"]:
                wanted = side in self.taps if port["type"] == "tap" else self.whole
                if bool(port.get("offload")) != wanted:
                    raise LabError(f"{self.label}: the {port['type']} on host {side.upper()} was to have "
                                   f"{'super-frames' if wanted else 'none'}, it has {port.get('offload')}")
        return daemons


def offload(wanted):
    return () if wanted else ("--no-offload",)


class Vxlan(Tunnel):
    """No user space at all: the ceiling. Its t0 has MTU 1450, so that the underlay's 1500 hold its packets."""
    name = "vxlan"
    label = "kernel VXLAN"

    def start(self, lab):
        for side, other in ("ab", "ba"):
            lab.ip(side, "link", "add", "t0", "type", "vxlan", "id", "7", "remote", UNDERLAY[other], "dstport", "4789",
                   "dev", "u0")


class OpenVpn(Tunnel):
    def __init__(self, tls):
        super().__init__()
        self.tls = tls
        self.name = "openvpn-tls" if tls else "openvpn"
        self.label = "OpenVPN TCP" + (" TLS" if tls else "")

    def prepare(self, lab):
        fetch("openvpn")
        self.program = program("usr/sbin/openvpn")
        if self.tls:
            self.key, self.cert = certificate(lab)

    def start(self, lab):
        for side, role in (("b", ("--proto", "tcp-server", "--port", "1194")),
                           ("a", ("--proto", "tcp-client", "--remote", UNDERLAY["b"], "1194"))):
            security = ("--auth", "none")
            if self.tls:
                security = ("--tls-server", "--dh", "none") if side == "b" else ("--tls-client",)
                security += ("--ca", self.cert, "--cert", self.cert, "--key", self.key,
                             "--cipher", "AES-128-GCM", "--data-ciphers", "AES-128-GCM")
            self.daemons.append(lab.start(side, f"{self.name}-{side}", self.program, "--dev", "t0", "--dev-type", "tap",
                                          *role, *security, env=ENV))
            lab.device(side)


class Tinc(Tunnel):
    name = "tinc"
    label = "tinc TCP, no cipher"

    def prepare(self, lab):
        fetch("tinc")
        self.program = program("usr/sbin/tincd")
        hosts = {}
        for side in "ab":
            with open(lab.path(f"tinc-{side}", "tinc.conf"), "w", encoding="ascii") as file:
                file.write(f"Name = {side}\nMode = switch\nDeviceType = tap\nInterface = t0\nAddressFamily = ipv4\n")
                if side == "a":
                    file.write("ConnectTo = b\n")
            os.makedirs(lab.path(f"tinc-{side}", "hosts", "x")[:-2], exist_ok=True)
            host = lab.path(f"tinc-{side}", "hosts", side)
            with open(host, "w", encoding="ascii") as file:
                file.write(f"Address = {UNDERLAY[side]}\nTCPOnly = yes\nCipher = none\nDigest = none\n"
                           "PMTUDiscovery = no\n")
            command(self.program, "-c", os.path.dirname(os.path.dirname(host)), "-K", "2048", timeout=60, env=ENV)
            with open(host, encoding="ascii") as file:
                hosts[side] = file.read()
        for side, other in ("ab", "ba"):
            with open(lab.path(f"tinc-{side}", "hosts", other), "w", encoding="ascii") as file:
                file.write(hosts[other])

    def start(self, lab):
        for side in "ba":
            config = lab.path(f"tinc-{side}", "tinc.conf")[:-len("/tinc.conf")]
            self.daemons.append(lab.start(side, f"tinc-{side}", self.program, "-D", "-c", config,
                                          "--pidfile", lab.path(f"tinc-{side}.pid"), env=ENV))
            lab.device(side)


class SoftEther(Tunnel):
    """Its state is below /var/lib and /run: each instance sees directories of its own there (`ip netns exec` gives every
    process a mount namespace), and nothing of the host's is touched."""

    def __init__(self, tls):
        super().__init__()
        self.tls = tls
        self.name = "softether-tls" if tls else "softether"
        self.label = "SoftEther " + ("TLS" if tls else "clear")

    def prepare(self, lab):
        fetch("softether-vpnserver", "softether-vpnclient", "softether-vpncmd")
        base = "usr/libexec/softether/{0}/{0}"
        self.server, self.client, self.cmd = (program(base.format(name)) for name in
                                              ("vpnserver", "vpnclient", "vpncmd"))

    def private(self, lab, side):
        """The words before a program that give it a /var/lib, a /run and a /tmp of its own."""
        root = lab.path(f"{self.name}-{side}", "x")[:-2]
        for name in ("lib/softether", "run/softether", "tmp"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
        return ("sh", "-c", 'mount --bind "$1/lib" /var/lib && mount --bind "$1/run" /run && mount --bind "$1/tmp" /tmp && '
                'shift && cd / && exec "$@"', "sh", root)

    def vpncmd(self, lab, side, *lines):
        mode = ("/SERVER",) if side == "b" else ("/CLIENT",)
        script = lab.path(f"{self.name}-{side}", "lib", "commands")
        with open(script, "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
        output = lab.on(side, *self.private(lab, side), self.cmd, "localhost", *mode, "/IN:/var/lib/commands", timeout=40)
        if output.count("completed successfully") < len(lines):
            raise LabError(f"vpncmd on host {side}: {' / '.join(output.split(chr(10))[-4:])}")

    def start(self, lab):
        for side in "ba":  # with the files of an earlier run it would connect by itself
            command("rm", "-rf", lab.path(f"{self.name}-{side}", "x")[:-2])
        for side, daemon, port in (("b", self.server, 5555), ("a", self.client, 9931)):
            process = lab.start(side, f"{self.name}-{side}", *self.private(lab, side), daemon, "execsvc")
            self.daemons.append(process)
            until(lambda: listens(process.pid, port), 20, f"SoftEther on host {side}")
        self.vpncmd(lab, "b", "Hub DEFAULT", "UserCreate u /GROUP:none /REALNAME:none /NOTE:none", "UserPasswordSet u /PASSWORD:labpw",
                    "ExtOptionSet DisableUdpAcceleration /VALUE:1", "BridgeCreate DEFAULT /DEVICE:t0 /TAP:yes")
        self.vpncmd(lab, "a", "NicCreate t0",
                    f"AccountCreate lab /SERVER:{UNDERLAY['b']}:443 /HUB:DEFAULT /USERNAME:u /NICNAME:t0",
                    "AccountPasswordSet lab /PASSWORD:labpw /TYPE:standard",
                    f"AccountEncrypt{'Enable' if self.tls else 'Disable'} lab",
                    "AccountDetailSet lab /MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:yes /MONITOR:no /NOTRACK:yes "
                    "/NOQOS:yes /DISABLEUDP:yes", "AccountConnect lab")
        for side, name in (("b", "tap_t0"), ("a", "vpn_t0")):
            until(lambda: name in lab.ip(side, "-o", "link"), 15, f"{name} on host {side}")
            lab.ip(side, "link", "set", name, "down")
            lab.ip(side, "link", "set", name, "name", "t0")

    def down(self, lab):
        super().down(lab)
        for side in "ab":
            for name in ("tap_t0", "vpn_t0"):
                lab.on(side, "ip", "link", "del", name, check=False)


def listens(pid, port):
    """True when a socket in the process's network namespace listens on that TCP port."""
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
                for line in file:
                    words = line.split()
                    if words[3] == "0A" and words[1].endswith(f":{port:04X}"):
                        return True
        except OSError:
            pass
    return False


TUNNELS = (
    Etherws("etherws-ws", "etherws ws"),
    Etherws("etherws-wss", "etherws wss", tls=True),
    Etherws("super-ws", "etherws super ws", taps="ab", whole=True),
    Etherws("super-wss", "etherws super wss", tls=True, taps="ab", whole=True),
    Etherws("super-ws-2", "etherws super ws, 2 conn.", taps="ab", whole=True, connections=2),
    Etherws("taps", "etherws ws, super TAPs", taps="ab"),
    Etherws("tap-a", "etherws ws, super TAP on A", taps="a"),
    Etherws("tap-b", "etherws ws, super TAP on B", taps="b"),
    Vxlan(), Tinc(), SoftEther(False), SoftEther(True), OpenVpn(False), OpenVpn(True))

# What is measured of each. The time goes to what a goal is about; the table says "-" of the rest.
ALL = ("idle_ping", "tcp", "loaded_ping", "small")
FULL = {"etherws-ws": (*ALL, "udp"), "super-ws": (*ALL, "udp"), "vxlan": ALL, "tinc": ALL, "softether": ALL}
FULL |= {name: ALL[:3] for name in ("etherws-wss", "super-wss", "softether-tls", "openvpn", "openvpn-tls")}
FULL |= {name: ("tcp",) for name in ("taps", "tap-a", "tap-b")} | {"super-ws-2": ("tcp", "loaded_ping")}
QUICK = {"etherws-ws": ("idle_ping", "tcp", "small", "udp"), "super-ws": ("tcp", "loaded_ping", "udp"), "vxlan": ("tcp", "small"),
         "tinc": ("idle_ping", "tcp", "small"), "softether": ("tcp", "loaded_ping")}
QUICK |= {"super-ws-2": ("loaded_ping",)} | {name: ("tcp",) for name in ("etherws-wss", "super-wss", "tap-a", "softether-tls", "openvpn")}
