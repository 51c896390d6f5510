#!/usr/bin/env -S python3 -B
"""Frames counted and sent at a device, for the lab.

    frames.py bum DEVICE       counts what goes out to group addresses, the loop guard's probes not: all, and ARP's share
    frames.py marked DEVICE    counts copies of the marked broadcast that come in
    frames.py mark DEVICE      sends the marked broadcast, once

Who counts prints `ready`, and the figures when it is told to end (SIGTERM).
"""

import signal
import socket
import sys

ETH_P_ALL, PACKET_OUTGOING, SO_RCVBUFFORCE = 3, 4, 33  # linux/if_ether.h, linux/if_packet.h, asm-generic/socket.h
ARP, PROBE, MARK = b"\x08\x06", b"\x88\xb6", b"\x88\xb5fabric: one copy for each"

what, device = sys.argv[1:]
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
packets.bind((device, ETH_P_ALL))
if what == "mark":
    packets.send((b"\xff" * 6 + bytes.fromhex("02000000777f") + MARK).ljust(60, b"\0"))
    sys.exit()


class End(Exception):
    pass


def end(*_):
    raise End


total = arp = 0
signal.signal(signal.SIGTERM, end)
try:
    print("ready", flush=True)
    while True:
        frame, (_, _, kind, *_) = packets.recvfrom(64)
        if what == "marked":
            total += kind != PACKET_OUTGOING and frame[12:].startswith(MARK)
        elif kind == PACKET_OUTGOING and frame[0] & 1 and frame[12:14] != PROBE:
            total += 1
            arp += frame[12:14] == ARP
except End:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(*([total] if what == "marked" else [total, arp]), flush=True)
