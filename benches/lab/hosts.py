"""Two hosts, A and B, as network namespaces joined by one veth (the underlay, MTU 1500), and the processes in them.

Everything is bounded in time, and everything that was started is ended by its process id when the lab closes,
whatever happened before.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time

UNDERLAY = {"a": "10.99.0.1", "b": "10.99.0.2"}  # on the veth
OVERLAY = {"a": "10.99.1.1", "b": "10.99.1.2"}  # on t0, the device that a tunnel gives each host
TICK = os.sysconf("SC_CLK_TCK")


class LabError(Exception):
    """What was attempted and why it did not work; the lab goes on with the next tunnel."""


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


class Lab:
    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="etherws-lab-")
        self.names = {side: f"ewlab{os.getpid()}{side}" for side in "ab"}
        self.processes = []
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of a daemon are ours to reap

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
        a, b = self.names["a"], self.names["b"]
        for name in (a, b):
            command("ip", "netns", "add", name)
            # No router solicitations and no MLD: what is idle shall be idle.
            for knob in ("all", "default"):
                command("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{knob}.disable_ipv6=1")
            command("ip", "-n", name, "link", "set", "lo", "up")
        command("ip", "-n", a, "link", "add", "u0", "mtu", "1500", "type", "veth", "peer", "name", "u0",
                "mtu", "1500", "netns", b)
        for side in "ab":
            command("ip", "-n", self.names[side], "addr", "add", UNDERLAY[side] + "/24", "dev", "u0")
            command("ip", "-n", self.names[side], "link", "set", "u0", "up")

    def close(self):
        """Ends what still runs, first what was started, then what that left behind in the two namespaces."""
        for process in self.processes:
            end(process)
        self.processes.clear()
        for name in self.names.values():
            if not os.path.exists(f"/run/netns/{name}"):
                continue
            for pid in command("ip", "netns", "pids", name, check=False).split():
                kill(int(pid), signal.SIGKILL)
            command("ip", "netns", "del", name, check=False)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        command("rm", "-rf", self.work, check=False)

    def path(self, *parts):
        """A path below the lab's own directory; its parent is made."""
        path = os.path.join(self.work, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def on(self, side, *argv, timeout=20, check=True, env=None):
        """Runs a command on a host and returns what it printed."""
        return command("ip", "netns", "exec", self.names[side], *argv, timeout=timeout, check=check, env=env)

    def ip(self, side, *argv):
        return command("ip", "-n", self.names[side], *argv)

    def start(self, side, log, *argv, env=None, cwd=None):
        """Starts a process on a host (its pid is the program's own: `ip netns exec` executes it)."""
        with open(self.path(log + ".log"), "ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[side], *map(str, argv)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=environment(env), cwd=cwd)
        process.log = self.path(log + ".log")
        self.processes.append(process)
        return process

    def stop(self, *processes):
        for process in processes:
            end(process)
            if process in self.processes:
                self.processes.remove(process)

    def address(self, side, mtu=None):
        """Gives t0 its address, as every tunnel's device gets it."""
        self.ip(side, "addr", "replace", OVERLAY[side] + "/24", "dev", "t0")
        self.ip(side, "link", "set", "t0", "up", *(("mtu", str(mtu)) if mtu else ()))

    def device(self, side, timeout=15):
        """Waits until t0 is there."""
        until(lambda: quiet("ip", "-n", self.names[side], "link", "show", "t0"), timeout, f"t0 on host {side}")

    def frames(self, side):
        """Frames that passed t0, both ways."""
        words = self.on(side, "cat", "/sys/class/net/t0/statistics/rx_packets",
                        "/sys/class/net/t0/statistics/tx_packets").split()
        return sum(map(int, words))


def environment(extra=None):
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    env.update(LC_ALL="C", **(extra or {}))
    return env


def command(*argv, timeout=20, check=True, env=None, cwd=None):
    """Runs a command to its end and returns its standard output; LabError with its last words when it fails."""
    argv = [str(word) for word in argv]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=timeout, text=True, errors="replace", env=environment(env), cwd=cwd)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        if not check:
            return ""
        raise LabError(f"no end after {timeout} s: {' '.join(argv[:12])}") from error
    if check and done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip())[-400:]
        raise LabError(f"exit {done.returncode} of {' '.join(argv[:12])}: {words}")
    return done.stdout


def quiet(*argv):
    """True when the command succeeds."""
    try:
        command(*argv, timeout=5)
        return True
    except LabError:
        return False


def until(condition, timeout, what):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.05)


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def end(process, patience=4):
    """SIGTERM, then SIGKILL, to the process and to what it started (it leads a session of its own)."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(patience)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


# --- What the processor did ----------------------------------------------------------------------------------

def stat_fields(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rsplit(")", 1)[1].split()  # from field 3 on: state, ppid, ...


def cpu_seconds(daemons):
    """User and system seconds so far of these processes and of all that they started (SoftEther works in a child)."""
    family = {process.pid for process in daemons}
    table = {}
    for pid in filter(str.isdigit, os.listdir("/proc")) if daemons else ():
        try:
            table[int(pid)] = stat_fields(pid)
        except (OSError, IndexError):
            continue  # it ended meanwhile
    for process in daemons:
        if table.get(process.pid, "Z")[0] in "ZX":
            raise LabError(f"the tunnel's process {process.pid} has ended: {last_words(process)}")
    grown = True
    while grown:
        children = {pid for pid, fields in table.items()
                    if pid not in family and (int(fields[1]) in family or int(fields[3]) in family)}
        family |= children
        grown = bool(children)
    return sum(int(table[pid][index]) for pid in family for index in (11, 12)) / TICK


def last_words(process):
    try:
        with open(process.log, encoding="utf-8", errors="replace") as file:
            return " / ".join(file.read().strip().splitlines()[-3:]) or "it said nothing"
    except OSError:
        return "no log"


class Disturbance:
    """How much of a core others used meanwhile: processes outside the two hosts and this script, and the hypervisor.

    Children that ended are counted with their parents, once these have waited for them.
    """

    def __init__(self, lab):
        self.ours = set()
        for name in lab.names.values():
            self.ours.add(os.stat(f"/run/netns/{name}").st_ino)
        self.begin = time.monotonic()
        self.before = self._others()

    def _others(self):
        result = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) == os.getpid():
                continue
            try:
                if os.stat(f"/proc/{pid}/ns/net").st_ino in self.ours:
                    continue
                fields = stat_fields(pid)
            except (OSError, IndexError):
                continue
            if int(fields[6]) & 0x00200000:  # PF_KTHREAD: the kernel works for the tunnel too
                continue
            if int(fields[1]) == os.getpid():
                continue  # about to enter a host
            result[pid] = sum(int(fields[index]) for index in (11, 12, 13, 14))
        with open("/proc/stat", encoding="ascii") as file:
            result["steal"] = int(file.readline().split()[8])
        return result

    def share(self):
        """Cores' worth used by others since the beginning (0.1 = a tenth of one core)."""
        seconds = max(time.monotonic() - self.begin, 0.01)
        now = self._others()
        # Of the sums: the time of a child that ended moves to its parent.
        ticks = sum(now.values()) - sum(self.before.values())
        return max(0.0, ticks / TICK / seconds)


def wait_idle(bound, look=0.7, threshold=0.08):
    """Waits until all cores together do nothing for `look` seconds, at most `bound` seconds; returns whether they did."""
    deadline = time.monotonic() + bound
    while True:
        before = _idle()
        time.sleep(look)
        after = _idle()
        total = after[1] - before[1]
        if total and 1 - (after[0] - before[0]) / total <= threshold:
            return True
        if time.monotonic() > deadline:
            return False


def _idle():
    with open("/proc/stat", encoding="ascii") as file:
        words = [int(word) for word in file.readline().split()[1:9]]
    return words[3] + words[4], sum(words)
