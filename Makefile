# gatehouse. `sudo make demo` shows it, `sudo make test` proves it, `sudo make install` puts it on a gateway.

SHELL := /bin/bash

# sudo drops Go from PATH: look where it is usually installed.
GO ?= $(shell command -v go || for g in /usr/local/go/bin/go /usr/lib/go/bin/go /usr/lib/go-*/bin/go /snap/bin/go $${SUDO_USER:+/home/$$SUDO_USER/go/bin/go /home/$$SUDO_USER/sdk/go*/bin/go}; do [ -x "$$g" ] && echo "$$g" && break; done)
ifeq ($(GO),)
$(error Go was not found: install it from your distribution or golang.org, or name it with GO=/path/to/go)
endif
export PATH := $(dir $(GO)):$(PATH)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
PREFIX  ?= /usr/local
BIN     := bin/gatehouse

# What the program needs at run time, what the demo's guests need, and what the tests run beside it.
RUNTIME_PACKAGES := iptables ipset
DEMO_PACKAGES    := $(RUNTIME_PACKAGES) iproute2 isc-dhcp-client dnsutils iputils-ping util-linux procps hostname
TEST_PACKAGES    := $(DEMO_PACKAGES) udhcpc dhcpcd-base systemd git conntrack gcc libc6-dev bind9-host ldnsutils knot-dnsutils dbus
# … of which nothing may start on this host.
TEST_SERVICES    := isc-dhcp-relay

# build
.PHONY: build
build: ## build bin/gatehouse
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o $(BIN) ./cmd/gatehouse

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

# systemd-resolved takes over the name resolution of the machine that it is installed on: tests run a copy of it, of
# systemd's own version as long as that can be had.
RESOLVED := bin/resolved
define copy_resolved
	@[ -x /usr/lib/systemd/systemd-resolved ] || [ -x $(RESOLVED)/usr/bin/resolvectl ] || { \
		echo "copying systemd-resolved to $(RESOLVED)"; \
		dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cd $$dir && \
		fetch() { apt-get -qq -o APT::Sandbox::User=root download "systemd-resolved=$$(dpkg-query -W -f '$${Version}' systemd)"; }; \
		{ fetch 2>/dev/null || { apt-get update -qq && { fetch || apt-get -qq -o APT::Sandbox::User=root download systemd-resolved; }; }; } && \
		dpkg -x *.deb x && mkdir -p $(CURDIR)/$(RESOLVED) && cp -a x/. $(CURDIR)/$(RESOLVED)/; \
	}
endef

.PHONY: deps-runtime deps-demo deps-test
deps-runtime: ; $(call install_packages,$(RUNTIME_PACKAGES))
deps-demo:    ; $(call install_packages,$(DEMO_PACKAGES))
deps-test:    ; $(call install_packages,$(TEST_PACKAGES))
	$(call copy_resolved)
	$(call install_peers,$(TEST_SERVICES))

.PHONY: need-root
need-root:
	@[ "$$(id -u)" = 0 ] || { echo "this needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

.PHONY: demo
demo: need-root deps-demo build ## a lab in network namespaces with real clients
	$(BIN) demo

.PHONY: test
test: need-root deps-test build ## the whole suite: vet, staticcheck, tests with the race detector
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	$(GO) vet -tags packages ./...
	$(GO) tool staticcheck -tags packages ./...
	GATEHOUSE_BIN=$(CURDIR)/$(BIN) $(GO) test -race -timeout 15m -p 2 ./...

# Tests with packages of other people's software, which is installed in booted systems only.
PACKAGE_TESTS := ^Test(OtherSoftwareOnTheGateway|GuestsOfRealVirtualisation)$$

.PHONY: test-all
test-all: test ## adds soaks, long crash loops, and tests with other software from its packages
	GATEHOUSE_BIN=$(CURDIR)/$(BIN) GATEHOUSE_SOAK=1 $(GO) test -timeout 60m -count 1 ./firewall/... ./store/... ./server/lease/... ./internal/acceptance/...
	GATEHOUSE_BIN=$(CURDIR)/$(BIN) $(GO) test -tags packages -timeout 60m -count 1 -v -run '$(PACKAGE_TESTS)' ./internal/acceptance

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

.PHONY: bench-firewall
bench-firewall: need-root deps-test build ## what the rules cost at 10,000 instances (BENCHFLAGS=-quick; -backend legacy)
	$(GO) run ./internal/bench/firewall -gatehouse $(BIN) $(BENCHFLAGS)

.PHONY: bench-firewall-swaps
bench-firewall-swaps: need-root deps-test build ## 500 changes under traffic in each backend: nothing leaks, nothing is lost
	$(GO) run ./internal/bench/firewall -gatehouse $(BIN) -swaps 500 $(BENCHFLAGS)

.PHONY: soak-firewall
soak-firewall: need-root deps-test build ## real packets through 5,000 random policies, as the policy says (most of an hour)
	GATEHOUSE_BIN=$(CURDIR)/$(BIN) GATEHOUSE_SOAK=1 $(GO) test -v -count 1 -timeout 110m -run '^TestTheKernelDoesWhatThePolicySays$$' ./internal/acceptance

.PHONY: soak-leases
soak-leases: need-root deps-test build ## the daemon killed 50 times under load, and 2,000,000 events in random orders: every acknowledged lease is there
	GATEHOUSE_SOAK=1 $(GO) test -v -count 1 -timeout 60m -run '^TestAnyOrderOfEventsKeepsOneHolder$$' ./server/lease
	GATEHOUSE_BIN=$(CURDIR)/$(BIN) GATEHOUSE_SOAK=1 $(GO) test -v -count 1 -timeout 60m -run '^TestEveryAcknowledgedLeaseOutlivesAKill$$' ./internal/acceptance

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

# The files of an installation below $(DESTDIR), the same whether make install or a package puts them there.
SBINDIR = $(DESTDIR)$(PREFIX)/sbin
LIBDIR  = $(DESTDIR)$(PREFIX)/lib
DATADIR = $(DESTDIR)$(PREFIX)/share
ZSHDIR  = $(DATADIR)/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
UNITS  := gatehouse.service gatehouse-base.service gatehouse.socket

.PHONY: stage
stage: build
	install -Dm755 $(BIN) $(SBINDIR)/gatehouse
	[ -e $(DESTDIR)/etc/gatehouse/gatehouse.yaml ] || install -Dm644 configs/gatehouse.yaml $(DESTDIR)/etc/gatehouse/gatehouse.yaml
	install -d $(LIBDIR)/systemd/system
	for u in $(UNITS); do sed 's|@SBIN@|$(PREFIX)/sbin|' systemd/$$u >$(LIBDIR)/systemd/system/$$u && chmod 644 $(LIBDIR)/systemd/system/$$u || exit; done
	install -Dm644 systemd/gatehouse.sysusers $(LIBDIR)/sysusers.d/gatehouse.conf
	install -Dm644 systemd/gatehouse.tmpfiles $(LIBDIR)/tmpfiles.d/gatehouse.conf
	install -Dm644 systemd/gatehouse.modules $(LIBDIR)/modules-load.d/gatehouse.conf
	install -d $(DATADIR)/man/man8 $(DATADIR)/bash-completion/completions $(ZSHDIR) $(DATADIR)/fish/vendor_completions.d
	env -u GATEHOUSE_SOCKET $(BIN) docs man $(DATADIR)/man/man8
	gzip -9nf $(DATADIR)/man/man8/gatehouse*.8
	$(BIN) completion bash >$(DATADIR)/bash-completion/completions/gatehouse
	$(BIN) completion zsh >$(ZSHDIR)/_gatehouse
	$(BIN) completion fish >$(DATADIR)/fish/vendor_completions.d/gatehouse.fish
	install -d $(DATADIR)/doc/gatehouse/examples
	install -m644 README.md configs/examples/*.yaml $(DATADIR)/doc/gatehouse/examples
	mv $(DATADIR)/doc/gatehouse/examples/README.md $(DATADIR)/doc/gatehouse/
	install -Dm644 systemd/COEXISTENCE.md $(DATADIR)/doc/gatehouse/systemd/COEXISTENCE.md

.PHONY: install
install: need-root deps-runtime stage ## put it on this host
ifeq ($(DESTDIR),)
	systemd-sysusers gatehouse.conf
	systemd-tmpfiles --create gatehouse.conf
	-[ ! -d /run/systemd/system ] || systemctl restart systemd-modules-load.service
	@echo "edit /etc/gatehouse/gatehouse.yaml (or run: gatehouse init), then: systemctl daemon-reload && systemctl enable --now gatehouse"
endif

.PHONY: uninstall
uninstall: need-root ## remove the program and its units; configuration and state are kept
ifeq ($(DESTDIR),)
	-[ ! -d /run/systemd/system ] || systemctl disable --now $(UNITS)
	-$(SBINDIR)/gatehouse teardown --offline
	rm -rf /run/gatehouse
endif
	rm -f $(SBINDIR)/gatehouse $(addprefix $(LIBDIR)/systemd/system/,$(UNITS))
	rm -f $(LIBDIR)/sysusers.d/gatehouse.conf $(LIBDIR)/tmpfiles.d/gatehouse.conf $(LIBDIR)/modules-load.d/gatehouse.conf
	rm -f $(DATADIR)/man/man8/gatehouse*.8.gz $(DATADIR)/bash-completion/completions/gatehouse
	rm -f $(ZSHDIR)/_gatehouse $(DATADIR)/fish/vendor_completions.d/gatehouse.fish
	rm -rf $(DATADIR)/doc/gatehouse
ifeq ($(DESTDIR),)
	-[ ! -d /run/systemd/system ] || systemctl daemon-reload
	@echo "kept: /etc/gatehouse, /var/lib/gatehouse and the user gatehouse; to remove them too: rm -r /etc/gatehouse /var/lib/gatehouse && userdel gatehouse"
endif

# A package's version begins with a digit; what has no tag yet sorts before everything that will have one.
DEB_VERSION ?= $(shell v=$$(git describe --tags --dirty=+dirty 2>/dev/null) && [[ $$v == v[0-9]* ]] && sed 's/^v//; s/-/+/' <<<$$v || \
	git log -1 --date=format:%Y%m%d%H%M%S --format=0.0~git%cd.%h)
DIST ?= $(CURDIR)/dist
DEB   = $(DIST)/gatehouse_$(DEB_VERSION)_$(shell dpkg --print-architecture 2>/dev/null).deb

.PHONY: deb
deb: export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct 2>/dev/null)
deb: ## dist/gatehouse_VERSION_ARCH.deb, the same bytes from the same commit
	rm -rf $(DIST)/stage
	umask 022 && $(MAKE) --no-print-directory -s stage DESTDIR=$(DIST)/stage PREFIX=/usr BIN=$(DIST)/gatehouse VERSION='$(DEB_VERSION)'
	GO=$(GO) systemd/debian/copyright.sh >$(DIST)/stage/usr/share/doc/gatehouse/copyright
	systemd/debian/build.sh $(DIST)/stage '$(DEB_VERSION)' $(DEB)
	rm -rf $(DIST)/stage $(DIST)/gatehouse
	@echo $(DEB)

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist run

.PHONY: help
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
