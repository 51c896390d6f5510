"""What a frame to many costs, each a process: `copies.py WHAT ARGUMENTS`.

    flood PID NETNS DEVICE NETNS PORT N FLOODS SIZE   FLOODS broadcasts of SIZE bytes into DEVICE, of which N copies come to
                                                      the other namespace from PORT; prints the CPU time of process PID a copy,
                                                      and the seconds until the first and the last
    send N ADDRESS PORT FLOODS SIZE                   FLOODS times SIZE bytes to each of N connections, by nobody but the
                                                      kernel; prints the CPU time of a send
    take N ADDRESS PORT                               the N connections for that, which are never read; until its input ends

The first two print JSON. A copy has come when its packet is at the other host's kernel: nobody there has to run for that.
"""

import ctypes
import json
import os
import resource
import select
import socket
import statistics
import struct
import sys
import time

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 33, 35  # asm-generic/socket.h
ETH_P_IP = 0x0800
PATIENCE = 15  # seconds for the copies of one flood
PAUSE = 0.1  # between two floods


def enter(netns):
    """Sockets that are made from now on are that namespace's."""
    with open(f"/run/netns/{netns}", encoding="ascii") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"{netns} could not be entered")


def watch(port, least):
    """Packets of TCP from `port`, `least` bytes of IPv4 or more, with the time at which the kernel had them."""
    checks = [(0x30, 9, 6), (0x28, 20, port)]  # ldb protocol, ldh source port (no options: 20 bytes of IPv4)
    code = []
    for number, (load, at, value) in enumerate(checks):
        code += [(load, 0, 0, at), (0x15, 0, 2 * (len(checks) - number) + 1, value)]  # jeq, else to the end
    code += [(0x28, 0, 0, 2), (0x35, 0, 1, least), (0x06, 0, 0, 64), (0x06, 0, 0, 0)]  # ldh length, jge, ret
    text = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *line) for line in code))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(code), ctypes.addressof(text)))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind(("u0", ETH_P_IP))
    sock.setblocking(False)
    return sock


def flood(pid, source, device, sink, port, count, floods, size):
    count, size = int(count), int(size)
    clock = ~int(pid) << 3 | 2  # clock_getcpuclockid(3)
    enter(sink)
    copies = watch(int(port), size)
    enter(source)
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    tap.bind((device, 0))
    frame = b"\xff" * 6 + b"\x02\0\0\0\xaa\2" + b"\x88\xb5" + bytes(size - 14)
    first, last, lost, spent = [], [], 0, 0
    for _ in range(int(floods)):
        time.sleep(PAUSE)
        begin, sent, times = time.clock_gettime_ns(clock), time.time_ns(), []
        tap.send(frame)
        deadline = time.monotonic() + PATIENCE
        while len(times) < count and time.monotonic() < deadline:
            time.sleep(0.002)  # what is measured has the processors
            try:
                while True:
                    _, told, _, _ = copies.recvmsg(64, 64)
                    seconds, nanoseconds = struct.unpack("@ll", told[0][2])
                    times.append(seconds * 10**9 + nanoseconds - sent)
            except BlockingIOError:
                pass
        spent += time.clock_gettime_ns(clock) - begin
        lost += max(count - len(times), 0)
        if times:
            first.append(min(times) / 1e9)
            last.append(max(times) / 1e9)
    middle = lambda times: statistics.median(times) if times else None
    print(json.dumps({"first": middle(first), "last": middle(last), "lost": lost, "us": spent / 1e3 / count / int(floods)}))


def room():
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def send(count, address, port, floods, size):
    room()
    data, socks = os.urandom(int(size)), []
    listener = socket.create_server((address, int(port)), backlog=4096)
    print("ready", flush=True)
    for _ in range(int(count)):
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
    each = []
    for _ in range(int(floods)):
        time.sleep(PAUSE)
        start = time.process_time_ns()
        for sock in socks:
            sock.send(data)
        between = time.process_time_ns()
        for sock in socks:
            sock.fileno()  # what the loop and the call are to Python
        each.append((2 * between - start - time.process_time_ns()) / 1e3 / int(count))
    print(json.dumps({"us": statistics.fmean(each), "spread": max(each) - min(each)}))


def take(count, address, port):
    room()
    poll, socks = select.epoll(), []
    for _ in range(int(count)):
        socks.append(socket.create_connection((address, int(port)), timeout=20))
        poll.register(socks[-1].fileno(), select.EPOLLIN)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    {"flood": flood, "send": send, "take": take}[sys.argv[1]](*sys.argv[2:])
