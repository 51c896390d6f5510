# make demo · make demo-fabric · make test · make test-vm · make test-fabric · make check · make bench · make bench-quick
# make autobahn · make fuzz · make soak · make pictures · make build · make release · make deb · make test-deb · make static
export CARGO ?= cargo
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin
# Two at a time: every integration test has its own namespaces, but switches, peers and iperf share the machine.
TEST_THREADS ?= 2
KILLS ?= 3

.PHONY: help demo demo-fabric openrpc test test-vm test-fabric check autobahn fuzz soak pictures build release deb test-deb static clean
.PHONY: bench bench-quick bench-micro bench-micro-quick bench-lab bench-lab-quick bench-scale bench-scale-quick

help:
	@echo 'make demo         two hosts, one link, DHCP and ping across it (KEEP=1 leaves it up)'
	@echo 'make demo-fabric  three nodes with EVPN behind HAProxy, KILLS=3 of them killed under load (root)'
	@echo 'make test         installs what the tests need and runs them all (root)'
	@echo 'make test-vm      virtual machines: two of QEMU, one in a browser; test-deb, static (root, half an hour)'
	@echo 'make test-fabric  the fabric with ten kills, goals checked (root, 5 minutes)'
	@echo 'make check        format, clippy, cargo deny'
	@echo 'make openrpc      docs/openrpc.json, made anew after a change of the contract'
	@echo 'make bench        bench-micro, then bench-lab (root, an hour); JSON in benches/results/'
	@echo 'make bench-quick  the same in two minutes once it is built, for a first look'
	@echo 'make bench-micro  mask, codec, FDB and path beside other crates, medians of three runs'
	@echo 'make bench-lab    etherws beside other tunnels, medians of three runs (root, 25 minutes)'
	@echo 'make bench-scale  what links cost, from 10 to 10,000 (root, 10 minutes); docs/scale.md'
	@echo 'make autobahn     Autobahn|Testsuite against the WebSocket code (needs Python 2.7)'
	@echo 'make fuzz T=3600  all fuzz targets, for so many seconds together (needs nightly and cargo-fuzz)'
	@echo 'make soak T=900   reliability, measured: the R rows, then churn for the rest of the time (root)'
	@echo 'make pictures     the pictures of the README, made anew (root)'
	@echo 'make build        debug build        make release   release build, symbols apart'
	@echo 'make deb          Debian package              make static       static programs (musl)'
	@echo 'make test-deb     the package installed, upgraded and removed in a fresh Debian (root)'
	@echo 'make clean        removes target/'

demo:
	@scripts/demo.sh

demo-fabric:
	@examples/fabric/run.py --kills $(KILLS)

test:
	@scripts/test.sh $(TEST_THREADS)

test-vm:
	@scripts/test-vm.sh

test-fabric:
	@timeout -k 30 1200 examples/fabric/run.py --test

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy -p etherws-proofs --locked -- -D warnings
	scripts/shellcheck.sh
	scripts/deny.sh

autobahn:
	@scripts/autobahn.sh

fuzz:
	@scripts/fuzz.sh $(T)

soak: release
	@scripts/install-deps.sh test
	@benches/soak/run.py $(T)

pictures:
	@scripts/browser.sh
	$(CARGO) test --locked --test dashboard -- --ignored pictures

# The JSON-RPC contract's description, after a change of it.
openrpc:
	$(CARGO) test --locked --lib -- --ignored write_openrpc

build:
	$(CARGO) build --locked

release:
	@scripts/release.sh

deb:
	@scripts/deb.sh

test-deb:
	@scripts/test-deb.sh

static:
	@scripts/static.sh

bench: bench-micro bench-lab

bench-quick: bench-micro-quick bench-lab-quick

bench-micro:
	@scripts/bench-micro.py --json benches/results/micro.json

bench-micro-quick:
	@scripts/bench-micro.py --quick

bench-lab: release
	@scripts/install-deps.sh test
	@timeout -k 30 1560 benches/lab/run.py

bench-lab-quick: release
	@scripts/install-deps.sh test
	@timeout -k 15 95 benches/lab/run.py --quick

bench-scale: release
	@scripts/install-deps.sh test
	@timeout -k 30 1200 benches/scale/run.py

bench-scale-quick: release
	@scripts/install-deps.sh test
	@timeout -k 15 180 benches/scale/run.py --quick

clean:
	$(CARGO) clean
