"""Peers and stations for the soak, each a process in a host: `peers.py WHAT ARGUMENTS`.

    idle N HOST PORT [CA]     N links that answer PINGs; prints "ready", at the end of its input how they ended, and how many
                              frames of EtherType 0x88b5 had come to those that got fewest and most
    slow HOST PORT            a link that is never read
    sources N HOST PORT [MAC...]  a link that sends N frames, each from another station; prints how many frames came to it
                              that were for one of these
    stations N HOST PORT      the same, "ready" when all have been taken; once more for each line of its input
    frames DEVICE N SEED      N frames of all kinds into a TAP
    stream DEVICE MAC RATE S  RATE frames of 1,000 bytes a second to MAC, for S seconds
"""

import base64
import functools
import json
import os
import random
import resource
import select
import socket
import ssl
import struct
import sys
import time

BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


@functools.cache
def trust(ca):
    return ssl.create_default_context(cafile=ca)


def request(host, port, login=None):
    """An upgrade; `login` is USER:PASSWORD."""
    key = base64.b64encode(os.urandom(16)).decode()
    login = f"Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n" if login else ""
    return (f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{login}\r\n").encode()


def connect(host, port, ca=None, login=None, source=None):
    """A link: the socket behind an upgrade."""
    sock = socket.create_connection((host, int(port)), timeout=20, source_address=source and (source, 0))
    if ca:
        sock = trust(ca).wrap_socket(sock, server_hostname=host)
    sock.sendall(request(host, port, login))
    head = b""
    while b"\r\n\r\n" not in head:
        more = sock.recv(1)
        if not more:
            raise OSError(f"no answer: {head!r}")
        head += more
    if b" 101 " not in head.split(b"\r\n", 1)[0]:
        raise OSError(f"no link: {head!r}")
    return sock


def message(opcode, payload):
    """Masked, with a key that leaves the payload as it is: nobody here measures masks."""
    length = len(payload)
    size = struct.pack("!B", 0x80 | length) if length < 126 else struct.pack("!BH", 0xFE, length)
    return struct.pack("!B", 0x80 | opcode) + size + b"\0\0\0\0" + payload


class Peer:
    """A link that is read; `takes` is shown each frame."""

    def __init__(self, sock, takes=lambda frame: None):
        self.sock, self.data, self.ended, self.takes = sock, b"", None, takes

    def read(self):
        """Takes what came; PINGs are answered."""
        try:
            while True:
                more = self.sock.recv(65536)
                if not more:
                    self.ended = self.ended or "end"
                    return
                self.data += more
                self.take()
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError as error:
            self.ended = self.ended or str(error)

    def take(self):
        while len(self.data) >= 2:
            length, head = self.data[1] & 0x7F, 2
            if length == 126:
                length, head = int.from_bytes(self.data[2:4], "big"), 4
            elif length == 127:
                length, head = int.from_bytes(self.data[2:10], "big"), 10
            if len(self.data) < head + length:
                return
            opcode, body = self.data[0] & 15, self.data[head:head + length]
            self.data = self.data[head + length:]
            if opcode == BINARY:
                self.takes(body)
            elif opcode == PING:
                self.sock.sendall(message(PONG, body))
            elif opcode == CLOSE:
                self.ended = str(int.from_bytes(body[:2], "big"))
                self.sock.sendall(message(CLOSE, body[:2]))


def idle(count, host, port, ca=None):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    poll, peers, frames = select.epoll(), {}, {}

    def counts(number):
        def takes(frame):
            frames[number] += frame[12:14] == b"\x88\xb5"
        return takes

    for _ in range(int(count)):
        sock = connect(host, port, ca)
        sock.setblocking(False)
        number = sock.fileno()
        frames[number] = 0
        peers[number] = Peer(sock, counts(number))
        poll.register(sock.fileno(), select.EPOLLIN)
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    until = None
    while until is None or (time.monotonic() < until and any(peer.ended is None for peer in peers.values())):
        for descriptor, _ in poll.poll(1):
            if descriptor == sys.stdin.fileno():
                poll.unregister(descriptor)
                until = time.monotonic() + 12
                continue
            peer = peers[descriptor]
            peer.read()
            if peer.ended is not None:
                poll.unregister(descriptor)
        if until is None and all(peer.ended is not None for peer in peers.values()):
            break
    ends = [str(peer.ended) for peer in peers.values()]
    print(json.dumps({end: ends.count(end) for end in set(ends)}))
    print(json.dumps([min(frames.values()), max(frames.values())]), flush=True)


def slow(host, port):
    sock = connect(host, port)
    print("ready", flush=True)
    time.sleep(3600)
    sock.close()


def ethernet(to, sender, kind, payload):
    return to + sender + kind + payload


def speak(sock, count):
    for start in range(0, int(count), 500):
        frames = []
        for number in range(start, min(start + 500, int(count))):
            sender = b"\x02" + struct.pack("!Q", number)[3:]
            frames.append(message(BINARY, ethernet(b"\x02\xee\0\0\0\1", sender, b"\x88\xb5", bytes(46))))
        sock.sendall(b"".join(frames))


def sources(count, host, port, *stations):
    sock, strays = connect(host, port), []
    others = {bytes.fromhex(mac.replace(":", "")) for mac in stations}
    peer = Peer(sock, lambda frame: strays.append(frame) if frame[:6] in others else None)
    speak(sock, count)
    sock.sendall(message(CLOSE, b"\x03\xe8"))
    sock.settimeout(60)
    peer.read()
    print(json.dumps({"strays": len(strays), "ended": peer.ended}), flush=True)


def stations(count, host, port):
    sock = connect(host, port)
    sock.settimeout(60)
    while True:
        speak(sock, count)
        sock.sendall(message(PING, b"taken"))
        heard = b""
        while b"\x8a\x05taken" not in heard:
            heard = heard[-6:] + sock.recv(65536)
        print("ready", flush=True)
        if not sys.stdin.readline():
            return


def packet(device):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((device, 0))
    return sock


def frames(device, count, seed):
    sock, rng = packet(device), random.Random(int(seed))
    home = 10 * int(seed)
    station = lambda number: b"\x02\0\0\0" + struct.pack("!H", number)
    for _ in range(int(count)):
        dice = rng.randrange(20)
        to = (b"\xff" * 6 if dice == 0 else b"\1\x80\xc2\0\0\0" if dice == 1 else b"\x33\x33\0\0\0\7" if dice == 2
              else station(60000 + dice) if dice == 3 else station(10 * rng.randrange(1, 5) + rng.randrange(10)))
        sender = b"\1\0\0\0\0\1" if dice == 4 else station(home + rng.randrange(10))
        tag = b"\x81\0\0\7" if dice == 5 else b""
        try:
            sock.send(to + sender + tag + b"\x88\xb5" + bytes(rng.randrange(0, 1400)))
        except OSError:
            time.sleep(0.001)


def stream(device, mac, rate, seconds):
    sock, rate = packet(device), float(rate)
    frame = ethernet(bytes.fromhex(mac.replace(":", "")), b"\x02\0\0\0\xaa\1", b"\x88\xb5", bytes(986))
    began, sent = time.monotonic(), 0
    while time.monotonic() < began + float(seconds):
        due = int((time.monotonic() - began) * rate)
        for _ in range(max(0, min(due - sent, 200))):
            try:
                sock.send(frame)
            except OSError:
                pass
        sent = due
        time.sleep(0.001)


if __name__ == "__main__":
    {"idle": idle, "slow": slow, "sources": sources, "stations": stations, "frames": frames,
     "stream": stream}[sys.argv[1]](*sys.argv[2:])
