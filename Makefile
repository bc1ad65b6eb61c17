# gatehouse. `sudo make demo` shows it, `sudo make test` proves it, `sudo make install` puts it on a gateway.

SHELL := /bin/bash

# sudo drops Go from PATH: look where it is usually installed.
GO ?= $(shell command -v go || for g in /usr/local/go/bin/go /usr/lib/go/bin/go /usr/lib/go-*/bin/go /snap/bin/go $${SUDO_USER:+/home/$$SUDO_USER/go/bin/go /home/$$SUDO_USER/sdk/go*/bin/go}; do [ -x "$$g" ] && echo "$$g" && break; done)
ifeq ($(GO),)
$(error Go was not found: install it from your distribution or golang.org, or name it with GO=/path/to/go)
endif
export PATH := $(dir $(GO)):$(PATH)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
PREFIX  ?= /usr/local
BIN     := bin/gatehouse

# What the program needs at run time, what the demo's guests need, and what the tests run beside it.
RUNTIME_PACKAGES := iptables ipset
DEMO_PACKAGES    := $(RUNTIME_PACKAGES) iproute2 isc-dhcp-client dnsutils iputils-ping util-linux procps hostname
TEST_PACKAGES    := $(DEMO_PACKAGES) udhcpc git conntrack gcc libc6-dev

# build
.PHONY: build
build: ## build bin/gatehouse
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/gatehouse

# packages: each list is installed only when something in it is missing, so that an offline machine that has all can go on
define install_packages
	@missing=""; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ]; then echo "missing:$$missing: run this with sudo" >&2; exit 1; fi; \
		echo "installing$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

.PHONY: deps-runtime deps-demo deps-test
deps-runtime: ; $(call install_packages,$(RUNTIME_PACKAGES))
deps-demo:    ; $(call install_packages,$(DEMO_PACKAGES))
deps-test:    ; $(call install_packages,$(TEST_PACKAGES))

.PHONY: need-root
need-root:
	@[ "$$(id -u)" = 0 ] || { echo "this needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

.PHONY: demo
demo: need-root deps-demo build ## a lab in network namespaces with real clients
	$(BIN) demo

.PHONY: test
test: need-root deps-test build ## the whole suite: vet, staticcheck, tests with the race detector
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	GATEHOUSE_BIN=$(CURDIR)/$(BIN) $(GO) test -race -timeout 15m -p 2 ./...

.PHONY: test-all
test-all: test ## adds soaks and long crash loops
	GATEHOUSE_BIN=$(CURDIR)/$(BIN) GATEHOUSE_SOAK=1 $(GO) test -timeout 60m -count 1 ./firewall/... ./store/... ./internal/acceptance/...

# The peers that benchmarks compare with. Nothing of them may start on this host.
BENCH_DNS_PACKAGES := nsd knot unbound dnsmasq-base dnsperf dnsutils iproute2 util-linux iptables ipset
BENCH_DHCP_PACKAGES := kea-dhcp4-server kea-dhcp6-server kea-admin isc-dhcp-server dnsmasq-base iproute2 util-linux iptables ipset
BENCHFLAGS ?=

define install_peers
	@missing=""; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		echo "installing$$missing"; \
		if [ ! -e /usr/sbin/policy-rc.d ]; then trap 'rm -f /usr/sbin/policy-rc.d' EXIT; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; fi; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

.PHONY: bench-dns
bench-dns: need-root build ## DNS beside NSD, Knot, Unbound, dnsmasq and CoreDNS (BENCHFLAGS=-quick: a first impression)
	$(call install_peers,$(BENCH_DNS_PACKAGES))
	$(GO) run ./internal/bench/dns -gatehouse $(BIN) $(BENCHFLAGS)

.PHONY: bench-dhcp
bench-dhcp: need-root build ## DHCP beside Kea, ISC dhcpd and dnsmasq (BENCHFLAGS=-quick: a first impression)
	$(call install_peers,$(BENCH_DHCP_PACKAGES))
	$(GO) run ./internal/bench/dhcp -gatehouse $(BIN) $(BENCHFLAGS)

.PHONY: vulncheck
vulncheck: ## known vulnerabilities of the libraries in use (asks the vulnerability database)
	$(GO) tool govulncheck ./...

.PHONY: run
run: need-root deps-demo build ## a daemon on configs/gatehouse.yaml in a namespace of its own; HOST=1: on this host
	@mkdir -p run/state
ifeq ($(HOST),1)
	$(BIN) serve --config configs/gatehouse.yaml --state-dir $(CURDIR)/run/state --socket $(CURDIR)/run/api.sock
else
	@echo "a namespace of its own; talk to it with: sudo $(BIN) --socket $(CURDIR)/run/api.sock status"
	unshare --net --mount sh -c 'mount -t tmpfs run /run && ip link set lo up && exec $(BIN) serve --config configs/gatehouse.yaml --state-dir $(CURDIR)/run/state --socket $(CURDIR)/run/api.sock'
endif

.PHONY: install
install: need-root deps-runtime build ## put it on this host
	install -Dm755 $(BIN) $(DESTDIR)$(PREFIX)/sbin/gatehouse
	[ -e $(DESTDIR)/etc/gatehouse/gatehouse.yaml ] || install -Dm644 configs/gatehouse.yaml $(DESTDIR)/etc/gatehouse/gatehouse.yaml
	sed 's|@SBIN@|$(PREFIX)/sbin|' systemd/gatehouse.service > $(BIN).service
	install -Dm644 $(BIN).service $(DESTDIR)/etc/systemd/system/gatehouse.service
	@echo "edit /etc/gatehouse/gatehouse.yaml, then: systemctl daemon-reload && systemctl enable --now gatehouse"

.PHONY: uninstall
uninstall: need-root ## remove the program and its unit; configuration and state are kept
	-systemctl disable --now gatehouse 2>/dev/null
	-$(DESTDIR)$(PREFIX)/sbin/gatehouse teardown --offline
	rm -f $(DESTDIR)$(PREFIX)/sbin/gatehouse $(DESTDIR)/etc/systemd/system/gatehouse.service

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist run

.PHONY: help
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
