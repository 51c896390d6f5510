"""Who comes to the door of a switch, each a process in a host: `strangers.py WHAT ARGUMENTS`.

    storm RATE SECONDS HOST PORT CA LOGIN...   links, RATE a second, each open for a moment; LOGIN is USER:PASSWORD
    enter N HOST PORT LOGIN SOURCE...          N links one after the other; prints the seconds that each took
    session HOST PORT CA LOGIN                 one link; prints the status, and behind 101 the certificate's SHA-256
    slow N HOST PORT SOURCES                   N requests that never end, from so many addresses, 2,000 a second; others take
                                               the place of those that are closed. Prints "ready" when N were begun, at the
                                               end of its input how many there were
    guess RATE SECONDS HOST PORT SOURCES       wrong logins, RATE a second, from so many addresses
    clock N HOST PORT KNOWN SOURCES            N wrong logins, by chance of user KNOWN or of nobody; prints the seconds of either

All but `session` print JSON. Addresses to come from are those of 10.98.0.0/16.
"""

import collections
import concurrent.futures
import hashlib
import itertools
import json
import os
import queue
import random
import re
import resource
import select
import socket
import sys
import threading
import time

from peers import CLOSE, connect, message, request

IP_BIND_ADDRESS_NO_PORT = 24  # include/uapi/linux/in.h
AT_ONCE = 100  # links that a storm keeps open
A_SECOND = 2_000  # requests that never end


def source(number):
    return f"10.98.{number // 250 % 250}.{number % 250 + 1}"


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else None


def storm(rate, seconds, host, port, ca, *logins):
    took, failed, links, due = [], collections.Counter(), queue.SimpleQueue(), itertools.count()
    rate, seconds, begin = float(rate), float(seconds), time.monotonic()

    def work():
        while (number := next(due)) < rate * seconds:
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            start = time.monotonic()
            try:
                links.put(connect(host, port, ca, logins[number % len(logins)]))
                took.append(time.monotonic() - start)
                if links.qsize() > AT_ONCE:
                    bye(links.get())
            except OSError as error:
                failed[str(error)[:80]] += 1

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"links": len(took), "seconds": time.monotonic() - begin, "failed": failed, "p99": quantile(took, 0.99)}))


def bye(sock):
    sock.sendall(message(CLOSE, b"\x03\xe8"))
    sock.close()


def enter(count, host, port, login, *sources):
    took, failed = [], collections.Counter()
    for number in range(int(count)):
        start = time.monotonic()
        try:
            bye(connect(host, port, None, login, sources[number % len(sources)]))
            took.append(time.monotonic() - start)
        except OSError as error:
            failed[str(error)[:80]] += 1
        time.sleep(0.2)
    print(json.dumps({"slowest": max(took, default=None), "failed": failed}))


def session(host, port, ca, login):
    try:
        sock = connect(host, port, ca, login)
        print("101", hashlib.sha256(sock.getpeercert(True)).hexdigest())
    except OSError as error:
        status = re.search(r"HTTP/1.1 (\d+)", str(error))
        print(status[1] if status else str(error))


class Crowd:
    """Requests from so many addresses at a time, and what became of each."""

    def __init__(self, host, port, sources):
        os.setpriority(os.PRIO_PROCESS, 0, 19)  # whoever does this has processors of his own
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        self.to, self.sources, self.poll, self.start = (host, int(port)), int(sources), select.epoll(), time.monotonic()
        self.there, self.begun, self.ended = {}, 0, collections.Counter()
        self.poll.register(sys.stdin.fileno(), select.EPOLLIN)

    def begin(self, rate, most, text):
        """As many as are due by now, `most` at a time."""
        due = int((time.monotonic() - self.start) * rate) - self.begun
        for _ in range(min(due, most - len(self.there), 200)):
            self.begun += 1
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source(self.begun % self.sources), 0))
            sock.connect_ex(self.to)
            self.there[sock.fileno()] = sock, text
            self.poll.register(sock.fileno(), select.EPOLLOUT)

    def look(self):
        """Takes what came for 20 ms at most; whether our own input has ended."""
        over = False
        for descriptor, event in self.poll.poll(0.02):
            if descriptor == sys.stdin.fileno():
                over = True
                continue
            sock, text = self.there[descriptor]
            try:
                if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self.ended[sock.recv(100)[9:12].decode() or "closed"] += 1
                else:
                    sock.send(text)
                    self.poll.modify(descriptor, select.EPOLLIN)
                    continue
            except OSError as error:
                self.ended[error.strerror] += 1
            del self.there[descriptor]
            sock.close()
        return over


def slow(count, host, port, sources):
    crowd, count, most, told = Crowd(host, port, sources), int(count), 0, False
    while not crowd.look():
        crowd.begin(A_SECOND, count, b"GET / HTTP/1.1\r\nHost: ")
        most = max(most, len(crowd.there))
        if not told and crowd.begun >= count:
            told = True
            print("ready", flush=True)
    print(json.dumps({"begun": crowd.begun, "most": most, "ended": crowd.ended}))


def guess(rate, seconds, host, port, sources):
    crowd, rate, seconds = Crowd(host, port, sources), float(rate), float(seconds)
    while (passed := time.monotonic() - crowd.start) < seconds:
        crowd.begin(rate, 15_000, request(host, port, f"user{crowd.begun % 7}:guess"))
        crowd.look()
    while crowd.there and time.monotonic() < crowd.start + seconds + 2:
        crowd.look()
    print(json.dumps({"tries": crowd.begun, "seconds": passed, "answers": crowd.ended | {"none yet": len(crowd.there)}}))


def clock(count, host, port, known, sources):
    rng = random.Random(12)
    known_or_not = [number % 2 == 0 for number in range(int(count))]
    rng.shuffle(known_or_not)
    numbers, lock = itertools.count(), threading.Lock()
    times = {True: [], False: []}

    def one(number):
        # Names of one length, addresses of all in turn: there is no other difference.
        user = known if known_or_not[number] else "".join(rng.choices("abcdefghij", k=len(known)))
        sock = socket.create_connection((host, int(port)), timeout=20, source_address=(source(number % int(sources)), 0))
        text = request(host, port, f"{user}:guess")
        start = time.monotonic()
        sock.sendall(text)
        answer = sock.recv(500)
        took = time.monotonic() - start
        sock.close()
        if b" 401 " not in answer[:20]:
            raise OSError(f"not refused: {answer[:40]!r}")
        with lock:
            times[known_or_not[number]].append(took)

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(one, next(numbers)) for _ in known_or_not]:
            done.result()
    print(json.dumps({"known": times[True], "unknown": times[False]}))


if __name__ == "__main__":
    {"storm": storm, "enter": enter, "session": session, "slow": slow, "guess": guess, "clock": clock}[sys.argv[1]](*sys.argv[2:])
