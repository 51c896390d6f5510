"""The peers' programs, from Debian packages unpacked below target/lab-peers: nothing is installed, no service starts."""

import os
import shutil

from hosts import LabError, command, say

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
TARGET = os.path.realpath(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")))
PEERS = os.path.join(TARGET, "lab-peers")
LIBRARIES = ":".join(os.path.join(PEERS, "root", *parts) for parts in
                     (("usr", "lib", "x86_64-linux-gnu"), ("lib", "x86_64-linux-gnu"),
                      ("usr", "lib", "aarch64-linux-gnu"), ("lib", "aarch64-linux-gnu")))
ENV = {"LD_LIBRARY_PATH": LIBRARIES}


def fetch(*packages):
    """Unpacks these packages, with the dependencies this machine lacks, once."""
    if shutil.which("apt-get") is None:
        raise LabError("not Debian: no apt-get to fetch it with")
    done = os.path.join(PEERS, "-".join(packages) + ".done")
    if os.path.exists(done):
        return
    say(f"fetching {' '.join(packages)} into {os.path.relpath(PEERS, ROOT)}")
    debs = os.path.join(PEERS, "debs")
    root = os.path.join(PEERS, "root")
    os.makedirs(debs, exist_ok=True)
    os.makedirs(root, exist_ok=True)
    simulate = ("apt-get", "-s", "install", "--no-install-recommends", *packages)
    try:
        plan = command(*simulate, timeout=60)
    except LabError:  # the lists may be missing or old
        command("apt-get", "-q", "update", timeout=180)
        plan = command(*simulate, timeout=60)
    # Upgrades ("Inst NAME [OLD] ...") are left alone: the library that is here will do.
    wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ") and "[" not in line.split()[2]]
    wanted += [name for name in packages if name not in wanted]  # installed already: a copy of it does no harm
    command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *wanted, timeout=300, cwd=debs)
    for name in wanted:
        for deb in sorted(os.listdir(debs)):
            if deb.startswith(name + "_"):
                command("dpkg", "-x", os.path.join(debs, deb), root, timeout=60)
    with open(done, "w", encoding="ascii") as file:
        file.write("\n".join(wanted) + "\n")


def program(path):
    """The unpacked program, `usr/sbin/openvpn` for example."""
    full = os.path.join(PEERS, "root", path)
    if not os.access(full, os.X_OK):
        raise LabError(f"{path} is not in the package")
    return full


def etherws():
    """The release binaries (etherws, etherctl); ETHERWS_BIN names another directory."""
    directory = os.environ.get("ETHERWS_BIN", os.path.join(TARGET, "release"))
    found = tuple(os.path.join(directory, name) for name in ("etherws", "etherctl"))
    for path in found:
        if not os.access(path, os.X_OK):
            raise LabError(f"{path} is missing: make release")
    return found
