#!/usr/bin/env bash
# Autobahn|Testsuite against examples/ws_echo.rs, as server and as client, over ws and wss: scripts/autobahn.sh
# [CASES], where CASES (default '*') is a case pattern as Autobahn takes it, such as '6.*'.
#
# It needs Python 2.7 (or PyPy for it): AUTOBAHN_PYTHON, or one found below, or wstest on PATH. The suite itself is
# fetched from PyPI into target/autobahn. Without these it skips, loudly; AUTOBAHN_REQUIRED=1 makes that a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-*}
dir=$PWD/target/autobahn
mkdir -p "$dir"

skip() {
    echo "##### SKIPPED: Autobahn|Testsuite: $1 #####" >&2
    [ -z "${AUTOBAHN_REQUIRED:-}" ] || exit 1
    exit 0
}

is_27() { [ "$("$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)" = '(2, 7)' ]; }

python=
for candidate in "${AUTOBAHN_PYTHON:-}" python2.7 python2 pypy pypy2 "$HOME"/.pyenv/versions/2.7*/bin/python; do
    if [ -n "$candidate" ] && is_27 "$candidate"; then
        python=$candidate
        break
    fi
done

if [ -n "$python" ]; then
    export PYTHONUSERBASE=$dir/python PYTHONWARNINGS=ignore
    wstest=("$python" "$dir/python/bin/wstest")

    if ! "${wstest[@]}" --help >/dev/null 2>&1; then
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip --user >/dev/null 2>&1 \
            || skip "$python has no pip"
        echo "installing autobahntestsuite for $python into ${dir#"$PWD/"}"
        "$python" -m pip install --user --quiet --disable-pip-version-check --no-warn-script-location \
            autobahntestsuite==0.8.2 >"$dir/pip.log" 2>&1 || skip "pip could not install it (target/autobahn/pip.log)"
    fi
elif command -v wstest >/dev/null; then
    wstest=(wstest)
else
    skip 'no Python 2.7 here (set AUTOBAHN_PYTHON, or put wstest on PATH)'
fi
command -v python3 >/dev/null || skip 'no python3 to read the reports with'
command -v openssl >/dev/null || skip 'no openssl to make a certificate with'

cargo build --locked --example ws_echo
echo_bin=${CARGO_TARGET_DIR:-target}/debug/examples/ws_echo

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
    -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null

pids=()
cleanup() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; }
trap cleanup EXIT

# spec FILE ROLE URL: Autobahn's configuration: all but compression (12, 13).
spec() {
    python3 - "$cases" "$dir" "$@" <<'PY'
import json, sys
cases, directory, path, role, url = sys.argv[1:6]
spec = {"outdir": path[:-5], "cases": [cases], "exclude-cases": ["12.*", "13.*"], "exclude-agent-cases": {}}
if role == "server":
    spec["servers"] = [{"agent": "etherws", "url": url, "options": {"version": 18}}]
else:
    spec.update(url=url, key=directory + "/key.pem", cert=directory + "/cert.pem")
json.dump(spec, open(path, "w"))
PY
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

within_10s() {
    for _ in $(seq 100); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    return 1
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# ws_echo as server: serve NAME SCHEME
serve() {
    local tls=() addr
    [ "$2" = ws ] || tls=(--tls "$dir/cert.pem" "$dir/key.pem")
    "$echo_bin" serve 127.0.0.1:0 "${tls[@]}" >"$dir/$1.addr" 2>"$dir/$1.echo.log" &
    pids+=($!)
    within_10s grep -q listening "$dir/$1.addr"
    addr=$(sed 's/listening on //' "$dir/$1.addr")
    spec "$dir/$1.json" server "$2://$addr"
    timeout 1800 "${wstest[@]}" -m fuzzingclient -s "$dir/$1.json" >"$dir/$1.log" 2>&1 &
    pids+=($!) jobs+=($!)
}

# ws_echo as client: dial NAME SCHEME
dial() {
    local trust=() port
    [ "$2" = ws ] || trust=("$dir/cert.pem")
    port=$(free_port)
    spec "$dir/$1.json" client "$2://127.0.0.1:$port"
    "${wstest[@]}" -m fuzzingserver -u 0 -s "$dir/$1.json" >"$dir/$1.log" 2>&1 &
    pids+=($!)
    within_10s listens "$port"
    timeout 1800 "$echo_bin" autobahn "$2://127.0.0.1:$port" "${trust[@]}" >"$dir/$1.echo.log" 2>&1 &
    pids+=($!) jobs+=($!)
}

jobs=()
rm -rf "$dir"/{server,client}-{ws,wss}
echo 'running the cases in both roles over ws and wss (some minutes)'
serve server-ws ws
serve server-wss wss
dial client-ws ws
dial client-wss wss
for pid in "${jobs[@]}"; do wait "$pid" || echo "a run ended with status $? (logs in target/autobahn)" >&2; done

python3 - "$cases" "$dir" <<'PY'
import collections, json, sys
cases, directory = sys.argv[1:]
wrong = []
for run in ["server-ws", "server-wss", "client-ws", "client-wss"]:
    try:
        results = json.load(open(f"{directory}/{run}/index.json"))["etherws"]
    except (OSError, KeyError) as error:
        wrong.append(f"{run}: no report: {error!r}")
        continue
    sections = collections.defaultdict(collections.Counter)
    for case, result in results.items():
        behavior, close = result["behavior"], result["behaviorClose"]
        sections[int(case.split(".")[0])][behavior] += 1
        late = behavior == "NON-STRICT" and case in ("6.4.3", "6.4.4")
        if not (behavior in ("OK", "INFORMATIONAL") or late) or close not in ("OK", "INFORMATIONAL"):
            wrong.append(f"{run}: {case}: {behavior}, close {close}")
    print(f"{run}: {len(results)} cases")
    for section, counts in sorted(sections.items()):
        print(f"  {section:>2}: " + ", ".join(f"{n} {behavior}" for behavior, n in sorted(counts.items())))
    if cases == "*" and len(results) != 301:
        wrong.append(f"{run}: {len(results)} cases instead of 301")
print("\n".join(wrong) or "all as they must be")
sys.exit(bool(wrong))
PY
