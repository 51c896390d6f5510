"""The rows of the soak about who comes in: reconnect storm (R6), reload (R11), abuse (R12)."""

import json
import os
import re
import signal
import statistics
import time

from hosts import OVERLAY, UNDERLAY, LabError, command, until
from place import Flows, Row, cpu
from tunnels import TLS_ARGS, certificate

HOST, PORT = UNDERLAY["b"], "8080"
SHUT = "8081"  # nobody listens there
WEB = "8082"
NGINX = """daemon off; worker_processes 1; pid {pid}; error_log {log};
events {{ worker_connections 20000; }}
http {{ access_log off; server {{ listen {address} backlog=4096; return 401; }} }}
"""
USERS = 20
ROOM = "[limits]\nconnections = 20000\nunauthenticated = 10000\n"  # for all slow ones at a time
CROWD = 2_000  # addresses of strangers: a thousand tries a second are below the limit of each


def passwords(lab, name="htpasswd", word="pw"):
    """Twenty users with bcrypt, as htpasswd makes it; the password is the user's name and `word`."""
    lines = [command("htpasswd", "-nbB", f"user{number}", f"user{number}{word}").strip() for number in range(USERS)]
    return write(lab.path(name), "\n".join(lines) + "\n")


def write(path, text):
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(path + ".new", path)
    return path


def stranger(row, *argv):
    return row.peer("a", *argv, program="strangers.py")


def said(process, timeout):
    """What a peer printed at its end."""
    output = process.communicate(timeout=timeout)[0]
    try:
        return json.loads(output)
    except ValueError as error:
        raise LabError(f"{process.args[7:10]} said {output[-200:]!r}") from error


def log_of(process):
    with open(process.log, encoding="utf-8", errors="replace") as file:
        return file.read()


def r6_reconnect_storm(lab, seconds):
    with Row(lab) as row:
        key, cert = certificate(lab)
        flags = ("--sslkey", key, "--sslcert", cert, "--htpasswd", passwords(lab))
        server = row.server(*flags)
        logins = [f"user{number}:user{number}pw" for number in range(USERS)]
        before = cpu(server)
        crowds = [stranger(row, "storm", 100, seconds, HOST, PORT, cert, *logins) for _ in range(2)]
        found = [said(crowd, seconds + 60) for crowd in crowds]
        links, took = sum(one["links"] for one in found), max(one["seconds"] for one in found)
        failed = {why: number for one in found for why, number in one["failed"].items()}
        each = (cpu(server) - before) / max(links, 1) * 1e3
        rate = links / took
        result = [("R6 reconnect storm", rate >= 198 and not failed and links == 200 * seconds,
                   f"{links:,} wss links with passwords, {rate:.0f} a second for {took:.0f} s, {each:.1f} ms of the switch's CPU "
                   f"each, 99 % within {max(one['p99'] or 0 for one in found) * 1e3:.0f} ms; failed: {failed or 0}")]
        row.lab.stop(server)
    return result + r6_restart(lab, flags, cert)


def r6_restart(lab, flags, cert, count=500):
    """A switch that dials 500 times is as many hosts; without a TAP nothing goes round in so many loops."""
    with Row(lab) as row:
        quiet = write(lab.path("quiet.toml"), "[switch]\nloop_guard = false\n")
        server = row.server("--config", quiet, *flags)
        password = write(lab.path("password"), "user0pw\n")
        # A target is one port's: the query tells them apart.
        ports = "".join(f"[[port]]\ntype = 'client'\ntarget = 'wss://{HOST}:{PORT}/?{number}'\nname = 'l{number}'\n"
                        f"[port.options]\nuser = 'user0'\npasswd_file = {password!r}\ncacerts = {cert!r}\n" for number in range(count))
        row.switch("a", "--no-listen", "--config", write(lab.path("many.toml"), "[switch]\nloop_guard = false\n" + ports))
        up = lambda side: sum(entry["state"] == "up" for entry in row.entries(side, "listport"))
        until(lambda: up("b") == count, 60, f"{count} links")
        row.lab.stop(server)
        time.sleep(5)  # every link has tried again, in vain
        begin = time.monotonic()
        row.server("--config", quiet, *flags)
        until(lambda: up("a") == count and up("b") == count, 60, f"{count} links back")
        took = time.monotonic() - begin
        return [("R6 restart", took <= 30, f"{count} wss links back {took:.1f} s after the start of a switch that was away for 5 s")]


def r11_reload(lab):
    with Row(lab) as row:
        files = {name: lab.path(f"served.{name}") for name in ("key", "cert", "htpasswd")}
        old, new = (one_certificate(lab, name) for name in ("old", "new"))
        words = {word: open(passwords(lab, f"htpasswd.{word}", word), encoding="ascii").read() for word in ("old", "new")}

        def serve(pair=None, word=None):
            for name, text in zip(("key", "cert"), pair or ()):
                write(files[name], text)
            if word:
                write(files["htpasswd"], word)

        serve(old, words["old"])
        both = write(lab.path("both.pem"), old[1] + new[1])
        _, server = row.pair("--cacerts", both, "--user", "user0", "--passwd-file", write(lab.path("password"), "user0old\n"),
                             server=("--sslkey", files["key"], "--sslcert", files["cert"], "--htpasswd", files["htpasswd"]),
                             scheme="wss")
        for side in "ab":
            lab.ip(side, "link", "set", "t0", "txqueuelen", "10000")
        print_of = {name: fingerprint(lab, pair[1]) for name, pair in (("old", old), ("new", new))}
        session = lambda login: stranger(row, "session", HOST, PORT, both, login).communicate(timeout=30)[0].strip()
        faults = []

        def check(when, word, pair):
            """Only who shows the password of `word` comes in, and is shown `pair`'s certificate."""
            other = "old" if word == "new" else "new"
            came, refused = session(f"user1:user1{word}"), session(f"user1:user1{other}")
            if came != f"101 {print_of[pair]}":
                faults.append(f"{when}: the {word} password came to {came}")
            if refused != "401":
                faults.append(f"{when}: the {other} password came to {refused}")

        def reload(what, expected):
            times = log_of(server).count(expected)
            server.send_signal(signal.SIGHUP)
            try:
                until(lambda: log_of(server).count(expected) > times, 10, expected)
            except LabError:
                faults.append(f"{what}: the log does not say {expected!r}")

        check("at first", "old", "old")
        flows = Flows(row, 30_000, 2_000)
        serve(new, words["new"])
        reload("new files", "reloaded: certificates")
        check("after the reload", "new", "new")
        serve((new[0], "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"))
        reload("a bad certificate", "nothing was changed")
        check("after a bad certificate", "new", "new")
        serve((old[0], new[1]))
        reload("another's key", "nothing was changed")
        check("after another's key", "new", "new")
        serve(old, "no user and no hash\n")
        reload("a bad password file", "nothing was changed")
        check("after a bad password file", "new", "new")
        found = flows.ended(90)
        link = next(entry for entry in row.entries("a", "listport") if entry["name"] == "link")
        lost = {name: found[name] for name in ("lost", "doubled", "altered", "late") if found[name]}
        return [("R11 reload", not faults and not lost and found["sent"] == 60_000 and link["connects"] == 1,
                 f"new certificate and passwords count, three bad files change nothing, the old link stays: "
                 f"{'; '.join(faults) or 'yes'}; of {found['sent']:,} datagrams meanwhile {lost or 'none'} lost"
                 + (f", by kernels {found['kernel']}" if found["lost"] else ""))]


def one_certificate(lab, name):
    key, cert = lab.path(f"{name}.key"), lab.path(f"{name}.crt")
    command("openssl", "req", *TLS_ARGS, "-keyout", key, "-out", cert)
    return [open(path, encoding="ascii").read() for path in (key, cert)]


def fingerprint(lab, cert):
    text = command("openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", write(lab.path("one.pem"), cert))
    return text.split("=")[1].strip().replace(":", "").lower()


def r12_abuse(lab):
    with Row(lab) as row:
        lab.ip("a", "route", "add", "local", "10.98.0.0/16", "dev", "lo")
        lab.ip("b", "route", "add", "10.98.0.0/16", "via", UNDERLAY["a"])
        # One hash of another kind is dearer than that of the user whom the guesses of the clock are about.
        users = open(passwords(lab), encoding="ascii").read()
        users += command("htpasswd", "-nbs", "mallory", "malloryspw") + command("htpasswd", "-nbB", "-C", "10", "dear", "dearpw")
        text = f"[listen]\nhtpasswd = {write(lab.path('users'), users)!r}\n"
        config = write(lab.path("abuse.toml"), text)
        _, server = row.pair("--user", "user0", "--passwd-file", write(lab.path("password"), "user0pw\n"),
                             server=("--config", config))
        return [*r12_slow_headers(row, config, text), r12_bad_logins(row, lab, server), r12_no_oracle(row)]


def r12_slow_headers(row, config, text):
    """From one address, of which each has a share; from many; and where the limits let all of them stay. The good ones come
    from one of theirs and from elsewhere."""
    rows = []
    for sources, limits in ((1, ""), (CROWD, ""), (CROWD, ROOM)):
        if limits:
            write(config, text + limits)
            row.ctl("b", "reload")
        slow = stranger(row, "slow", 10_000, HOST, PORT, sources)
        slow.stdout.readline()
        found = said(stranger(row, "enter", 12, HOST, PORT, "user0:user0pw", UNDERLAY["a"], "10.98.0.1"), 120)
        crowd = said(slow, 20)
        slowest = found["slowest"]
        met = not found["failed"] and slowest is not None and slowest < 1 and crowd["begun"] >= 10_000
        rows.append(("R12 slow headers", met and (not limits or crowd["most"] >= 10_000),
                     f"{crowd['begun']:,} from {sources:,} address{'es' * (sources > 1)}, {crowd['most']:,} open at a time: a good "
                     f"client in after {(slowest or 0) * 1e3:.0f} ms at most; failed: {found['failed'] or 0}"))
    return rows


def r12_bad_logins(row, lab, server):
    """Pings by turns: with a thousand wrong logins a second beside them; with as many that find the port shut, for what
    the strangers themselves cost is no cost of the switch's; and, to tell what the kernel's share is, with as many at a
    web server that refuses all and checks nothing."""
    web = row.lab.start("b", "nginx", "nginx", "-c", write(lab.path("nginx.conf"), NGINX.format(
        pid=lab.path("nginx.pid"), log=lab.path("nginx.log"), address=f"{HOST}:{WEB}")))
    row.started.append(web)
    until(lambda: "401" in said_no(lab), 10, "nginx")
    times, tries, seconds, answers, spent = {PORT: [], SHUT: [], WEB: []}, 0, 0.0, {}, 0.0
    for _ in range(3):
        for port in (SHUT, WEB, PORT):
            before = cpu(server)
            crowd = stranger(row, "guess", 1_000, 7, HOST, port, CROWD)
            time.sleep(1)
            times[port] += pings(lab, 250)
            found = said(crowd, 90)
            if port != PORT:
                continue
            spent += cpu(server) - before
            tries, seconds = tries + found["tries"], seconds + found["seconds"]
            for answer, number in found["answers"].items():
                answers[answer] = answers.get(answer, 0) + number
    high = {port: statistics.quantiles(times[port], n=100)[98] for port in times}
    medians = ", ".join(f"{statistics.median(times[port]):.2f}" for port in (PORT, SHUT, WEB))
    return ("R12 bad logins", high[PORT] <= 2 * high[SHUT] and tries / seconds >= 950 and not answers.get("101"),
            f"{tries / seconds:.0f} a second ({answers}), {spent / seconds:.0%} of a core: ping's 99 % {high[PORT]:.2f} ms, "
            f"{high[SHUT]:.2f} ms without, {high[WEB]:.2f} ms with as many at nginx; medians {medians} ms")


def said_no(lab):
    return lab.on("a", "curl", "-si", f"http://{HOST}:{WEB}/", check=False)


def pings(lab, count):
    output = lab.on("a", "ping", "-n", "-c", count, "-i", "0.02", OVERLAY["b"], timeout=count * 0.02 + 20, check=False)
    times = [float(time_ms) for time_ms in re.findall(r"time=([\d.]+)", output)]
    if len(times) < count:
        raise LabError(f"{len(times)} of {count} pings came back: {output[-200:]}")
    return times


def r12_no_oracle(row, count=2_000):
    """Beside all that took part, the faster nine in ten: late answers of a busy machine hide what there may be."""
    found = said(stranger(row, "clock", count, HOST, PORT, "mallory", CROWD), 200)
    bound = statistics.quantiles(found["known"] + found["unknown"], n=10)[8]
    values = [welch(*([value for value in found[name] if value <= most] for name in ("known", "unknown")))
              for most in (float("inf"), bound)]
    means = (f"{statistics.mean(found[name]) * 1e3:.2f} ms" for name in ("known", "unknown"))
    return ("R12 login timing", all(abs(value) < 4.5 for value in values),
            "{:,} wrong logins: {} of a known user, {} of nobody; Welch's t {:.2f}, of the faster nine in ten {:.2f}".format(
                count, *means, *values))


def welch(one, other):
    spread = sum(statistics.variance(values) / len(values) for values in (one, other))
    return (statistics.mean(one) - statistics.mean(other)) / spread ** 0.5
