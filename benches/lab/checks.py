"""What is shown once for etherws alone: the mask keys on the wire (H4, O3) and the footprint (H9)."""

import os
import socket
import statistics
import struct
import subprocess
import time

from hosts import OVERLAY, UNDERLAY, LabError, environment, until

PROBE = b"\x88\xb6"  # the EtherType of our loop guard


# --- Mask keys -----------------------------------------------------------------------------------------------

def mask_keys(lab, tunnel):
    """{"frames", "distinct", "zero", "unmasked", "real", "server_masked"} of a link that was captured from its start.

    The capture is made of the underlay, with a ping and a short TCP transfer inside. `real` counts those messages
    that, unmasked, are frames of the device or probes of our loop guard: the key was used, not only sent.
    """
    pcap = lab.path(f"{tunnel.name}.pcap")
    head = 10 if tunnel.whole else 0  # the virtio header in front of each frame
    sniffer = lab.start("b", "tcpdump", "tcpdump", "-i", "u0", "-s", "0", "-B", "65536", "-U", "-Z", "root", "-w", pcap,
                        "tcp port 8080")
    try:
        until(lambda: os.path.exists(pcap) and os.path.getsize(pcap) >= 24, 10, "tcpdump")
        tunnel.up(lab)
        macs = [bytes.fromhex(lab.on(side, "cat", "/sys/class/net/t0/address").strip().replace(":", ""))
                for side in "ab"]
        lab.on("a", "ping", "-nqc100", "-i0.005", OVERLAY["b"])
        server = lab.start("b", "iperf3", "iperf3", "-s", "-1", "-4")
        time.sleep(0.5)
        lab.on("a", "iperf3", "-c", OVERLAY["b"], "-n", "2M", "--connect-timeout", "5000")
        lab.stop(server)
        time.sleep(1)
    finally:
        lab.stop(sniffer)
        tunnel.down(lab)
    with open(pcap, "rb") as file:
        streams = _streams(file.read())
    sent = list(_messages(streams[UNDERLAY["a"]]))
    answered = list(_messages(streams[UNDERLAY["b"]]))
    keys = [key for key, _ in sent if key is not None]
    real = 0
    for key, payload in sent:
        clear = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload[:head + 14])) if key else b""
        to, source, kind = clear[head:head + 6], clear[head + 6:head + 12], clear[head + 12:]
        real += kind == PROBE or source == macs[0] and (to == macs[1] or bool(to and to[0] & 1))
    return {"frames": len(sent), "distinct": len(set(keys)), "zero": keys.count(bytes(4)),
            "unmasked": len(sent) - len(keys), "real": real,
            "server_masked": sum(key is not None for key, _ in answered), "server_frames": len(answered)}


def _streams(pcap):
    """{source address: bytes} of the one TCP connection in a capture, from its first byte to the first gap."""
    order = "<" if pcap[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    segments, starts, offset = {}, {}, 24
    while offset + 16 <= len(pcap):
        length = struct.unpack_from(order + "I", pcap, offset + 8)[0]
        packet = pcap[offset + 16:offset + 16 + length]
        offset += 16 + length
        if len(packet) < 54 or packet[12:14] != b"\x08\x00" or packet[23] != 6:
            continue
        ip = 14 + (packet[14] & 15) * 4
        total = struct.unpack_from(">H", packet, 16)[0] or len(packet) - 14
        source = socket.inet_ntoa(packet[26:30])
        sequence = struct.unpack_from(">I", packet, ip + 4)[0]
        if packet[ip + 13] & 2:
            starts[source] = (sequence + 1) & 0xFFFFFFFF
            continue
        data = packet[ip + (packet[ip + 12] >> 4) * 4:14 + total]
        if data and source in starts:
            segments.setdefault(source, {}).setdefault((sequence - starts[source]) & 0xFFFFFFFF, data)
    if len(segments) != 2:
        raise LabError("the capture does not hold both directions of the link")
    streams = {}
    for source, parts in segments.items():
        stream = bytearray()
        for position in sorted(parts):
            if position > len(stream):
                break  # a gap: what follows cannot be read
            stream += parts[position][len(stream) - position:]
        streams[source] = bytes(stream)
    return streams


def _messages(stream):
    """(mask key or None, payload as on the wire) of each binary message behind the HTTP head."""
    offset = stream.index(b"\r\n\r\n") + 4
    while offset + 2 <= len(stream):
        opcode, length, masked = stream[offset] & 15, stream[offset + 1] & 127, stream[offset + 1] >> 7
        offset += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(stream[offset:offset + size], "big")
            offset += size
        key = stream[offset:offset + 4] if masked else None
        offset += 4 * masked
        if offset + length > len(stream):
            return
        if opcode == 2:
            yield key, stream[offset:offset + length]
        offset += length


# --- Footprint -----------------------------------------------------------------------------------------------

def footprint(lab, tunnel, settle, seconds, starts):
    """{"start_ms", "rss_mib", "wakeups_per_s", "binary_mib"}: the last three of a switch with two idle links.

    For half a minute after a link came, the loop guard asks by it every second: wake-ups are counted when `settle`
    seconds have passed, or not at all when that is 0.
    """
    result = {"start_ms": statistics.median(_start(lab, tunnel.sw) for _ in range(starts)),
              "binary_mib": os.path.getsize(tunnel.sw) / 2**20}
    try:
        switch = tunnel.server(lab)
        for side in ("a1", "a2"):
            tunnel.switch(lab, side, "--no-listen")
            tunnel.link(lab, side)
        until(lambda: tunnel.ctl(lab, "b", "listport").count(" up ") == 2, 10, "two links")
        time.sleep(settle)
        before, begin = _switches(switch.pid), time.monotonic()
        time.sleep(seconds)
        if settle:
            result["wakeups_per_s"] = (_switches(switch.pid) - before) / (time.monotonic() - begin)
        with open(f"/proc/{switch.pid}/status", encoding="ascii") as file:
            result["rss_mib"] = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024
    finally:
        tunnel.down(lab)
    return result


def _start(lab, program):
    """Milliseconds from before the fork until the data service accepts a connection, in this host's own loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.monotonic()
    process = subprocess.Popen([program, "sw", "--ctlsock", lab.path("start.sock"), "--host", "127.0.0.1", "--port",
                                str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env=environment(), start_new_session=True)
    process.log = os.devnull
    lab.processes.append(process)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return (time.monotonic() - begin) * 1e3
            except ConnectionRefusedError:
                pass
            if time.monotonic() > begin + 10 or process.poll() is not None:
                raise LabError("etherws does not listen after 10 s")
            time.sleep(0.0005)
    finally:
        lab.stop(process)


def _switches(pid):
    """Voluntary context switches of all threads: each is a sleep that a wake-up ended."""
    count = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as file:
            count += next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches:"))
    return count
