#!/usr/bin/env python3
"""UDP as QUIC stacks send it, many datagrams a call: udp.py send ADDRESS SECONDS, udp.py receive DEVICE.

The sender gives the kernel blocks of 54 datagrams of 1,200 bytes (UDP_SEGMENT, Linux 4.18) as fast as it takes them,
the receiver takes what comes as the kernel merged it (UDP_GRO, 5.0). Every datagram says the same, so that whatever
arrives is checked to the byte. Both print JSON at the end.
"""

import errno
import json
import random
import socket
import sys
import time

SEGMENT = 1200
DATAGRAMS = 54  # 64,800 bytes: what fits into one IP packet
BLOCK = random.Random(1).randbytes(SEGMENT) * DATAGRAMS
PORT = 5202
UDP_SEGMENT, UDP_GRO = 103, 104  # include/uapi/linux/udp.h; the socket module lacks them
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
BUFFER = 8 << 20
ETH_P_IP, PACKET_OUTGOING = 0x0800, 4
LOOK = 200  # frames whose length is looked at
SILENCE = 0.5  # seconds without a datagram after which the sender has ended


def send(address, seconds):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT)
    target, segmented, blocks = (address, PORT), True, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if segmented:
                sock.sendto(BLOCK, target)
            else:
                for _ in range(DATAGRAMS):
                    sock.sendto(BLOCK[:SEGMENT], target)
            blocks += 1
        except OSError as error:
            # Before Linux 6.11 a device without checksum offload takes no UDP_SEGMENT.
            if error.errno != errno.EIO or not segmented:
                raise
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
            segmented = False
    print(json.dumps({"bytes": blocks * len(BLOCK), "segmented": segmented}))


def receive(device):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    sock.bind(("", PORT))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        tap.bind((device, ETH_P_IP))
        print("ready", flush=True)
        lengths = list(look(tap))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.settimeout(SILENCE)
    received = altered = largest = 0
    begin = last = time.monotonic()
    while True:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            break
        last = time.monotonic()
        if len(data) % SEGMENT == 0 and BLOCK.startswith(data):
            received += len(data)
        else:
            altered += 1
        largest = max(largest, len(data))
    print(json.dumps({"bytes": received, "seconds": last - begin, "altered": altered, "largest_read": largest,
                      "frames_seen": len(lengths), "largest_frame": max(lengths)}))


def look(tap):
    """Lengths of the first frames to our port that come in on the device."""
    tap.settimeout(10)
    head = bytearray(64)
    for _ in range(LOOK):
        while True:
            # MSG_TRUNC: the frame's own length, however little of it is read.
            length, address = tap.recvfrom_into(head, 0, socket.MSG_TRUNC)
            if address[2] != PACKET_OUTGOING and head[23] == socket.IPPROTO_UDP and head[36:38] == PORT.to_bytes(2, "big"):
                break
        yield length


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], float(sys.argv[3]))
    else:
        receive(sys.argv[2])
