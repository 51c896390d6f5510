"""A service manager's part in a restart: it keeps descriptors (FDSTORE=1) and passes them to the next start.

service_manager.py SOCKET COMMAND...: SIGHUP ends the command and starts it again, as `systemctl restart` does; SIGTERM ends
it for good. systemd.service(5), FileDescriptorStoreMax; sd_notify(3).
"""

import os
import select
import signal
import socket
import sys

path, command = sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
os.chmod(path, 0o777)  # as systemd's is: whoever is watched may have given up being root
asked = []
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, lambda number, _: asked.append(number))
stored = []


def listen(seconds):
    if not select.select([notify], [], [], seconds)[0]:
        return
    text, fds, _, _ = socket.recv_fds(notify, 65536, 16)
    lines = dict(line.split("=", 1) for line in text.decode().splitlines())
    if lines.get("FDSTORE") == "1":
        stored.extend((lines["FDNAME"], fd) for fd in fds)
        fds = []
    if lines.get("FDSTOREREMOVE") == "1":
        gone = [entry for entry in stored if entry[0] == lines["FDNAME"]]
        for entry in gone:
            stored.remove(entry)
        fds += [fd for _, fd in gone]
    for fd in fds:
        os.close(fd)


def start():
    def place():
        # Above where they are to be, first: one may stand where another belongs.
        high = [os.dup2(fd, 1000 + index) for index, (_, fd) in enumerate(stored)]
        for index, fd in enumerate(high):
            os.dup2(fd, 3 + index)
        os.closerange(3 + len(high), 2000)
        if stored:
            os.environ["LISTEN_FDS"] = str(len(stored))
            os.environ["LISTEN_PID"] = str(os.getpid())
            os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in stored)

    os.environ["NOTIFY_SOCKET"] = path
    child = os.fork()
    if child == 0:
        place()
        os.execvp(command[0], command)
    return child


child = start()
while True:
    listen(0.05)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(os.waitstatus_to_exitcode(status))
    if asked:
        what = asked.pop(0)
        os.kill(child, signal.SIGTERM)
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            listen(0.05)
        while select.select([notify], [], [], 0)[0]:
            listen(0)
        if what == signal.SIGTERM:
            sys.exit(0)
        child = start()
