# make demo · make test · make check · make autobahn · make build · make release · make clean
CARGO ?= cargo
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin
# Two at a time: every integration test has its own namespaces, but switches, peers and iperf share the machine.
TEST_THREADS ?= 2

.PHONY: help demo test check autobahn build release clean
help:
	@echo 'make demo      two hosts, one link, DHCP and ping across it (KEEP=1 leaves it up)'
	@echo 'make test      installs what the tests need and runs them all (root)'
	@echo 'make check     format, clippy, cargo deny'
	@echo 'make autobahn  Autobahn|Testsuite against the WebSocket code (needs Python 2.7)'
	@echo 'make build     debug build        make release   release build'
	@echo 'make clean     removes target/'

demo:
	@scripts/demo.sh

test:
	@scripts/test.sh $(TEST_THREADS)

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	scripts/deny.sh

autobahn:
	@scripts/autobahn.sh

build:
	$(CARGO) build --locked

release:
	$(CARGO) build --release --locked

clean:
	$(CARGO) clean
