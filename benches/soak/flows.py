"""Numbered datagrams, each way a process in a host: `flows.py WHAT ARGUMENTS`.

    send ADDRESS COUNT RATE RUN   COUNT datagrams of 16 flows, RATE a second; prints {"sent", "seconds"}
    receive COUNT RUN             takes what comes of them; prints "ready", and after the end of its input what it found

A datagram's size and content follow from its run, flow and number, so that whatever arrives is checked to the byte.
"""

import json
import random
import select
import socket
import struct
import sys
import time

FLOWS, PORT = 16, 5310
HEAD = struct.Struct("!IHHQ")  # run, flow, 0, number
SMALLEST, LARGEST = 64, 1400
BLOCK = random.Random(2).randbytes(1 << 16)
BUFFER = 64 << 20
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
BURST = 100  # at a time: a sender that was put aside does not make up for it
SILENCE = 0.5  # seconds without a datagram after which all that was under way has come


def datagram(run, flow, number):
    mixed = (number * 2654435761 + flow * 40503 + run * 97) & 0xFFFFFFFF
    size = SMALLEST + mixed % (LARGEST - SMALLEST + 1) - HEAD.size
    start = (mixed >> 12) & 0x7FFF
    return HEAD.pack(run, flow, 0, number) + BLOCK[start:start + size]


def send(address, count, rate, run):
    count, rate, run, socks = int(count), float(rate), int(run), []
    for _ in range(FLOWS):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
        sock.connect((address, PORT))
        socks.append(sock)
    begin = clock = time.monotonic()
    sent = 0
    while sent < count:
        due = min(int((time.monotonic() - clock) * rate), count)
        if due - sent > BURST:
            clock += (due - sent - BURST) / rate
            due = sent + BURST
        for sent in range(sent, due):
            socks[sent % FLOWS].send(datagram(run, sent % FLOWS, sent // FLOWS))
        sent = due
        time.sleep(0.0005)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begin}))


def receive(count, run):
    count, run = int(count), int(run)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    # The kernel's own limit of a wait: one system call a datagram.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(SILENCE * 1e6)))
    sock.bind(("", PORT))
    print("ready", flush=True)
    following, missing = [0] * FLOWS, [set() for _ in range(FLOWS)]
    came = doubled = late = altered = 0
    while True:
        try:
            data = sock.recv(2048)
        except BlockingIOError:
            if select.select([sys.stdin], [], [], 0)[0]:
                break
            continue
        of, flow, _, number = HEAD.unpack_from(data.ljust(HEAD.size))
        if of != run and data == datagram(of, flow, number):
            continue  # of a run before
        if flow >= FLOWS or data != datagram(run, flow, number):
            altered += 1
            continue
        if number == following[flow]:
            following[flow] += 1
        elif number > following[flow]:
            missing[flow].update(range(following[flow], number))
            following[flow] = number + 1
        elif number in missing[flow]:
            missing[flow].remove(number)
            late += 1
        else:
            doubled += 1
            continue
        came += 1
    print(json.dumps({"lost": count - came, "doubled": doubled, "late": late, "altered": altered}))


if __name__ == "__main__":
    {"send": send, "receive": receive}[sys.argv[1]](*sys.argv[2:])
