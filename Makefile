# The targets are also the steps of .ci/run. `make` alone lists them.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED := 0

prefix  ?= /usr/local
commit  ?= $(shell git describe --always --dirty --tags 2>/dev/null || echo unknown)
ldflags := -s -w -X main.commit=$(commit)
tools   := go tool -modfile=.ci/tools.mod

.PHONY: deps
deps: ## Install what building and testing needs (Debian packages, CRIU >= 4.2); root; quick when done
	@bash .ci/deps

.PHONY: build
build: ## Build bin/zap, static
	go build -buildvcs=false -trimpath -ldflags '$(ldflags)' -o bin/zap ./cmd/zap

.PHONY: test
test: deps build ## Run every test: the packages' (unit and root), then end to end
	@bash .ci/test packages engines validation e2e

.PHONY: test-packages test-engines test-validation test-e2e
test-packages: ## Run the packages' tests; those that need root skip without it
	@bash .ci/test packages
test-engines: build ## Run the tests of zap below podman and containerd
	@bash .ci/test engines
test-validation: build ## Run the validation programs of opencontainers/runtime-tools
	@bash .ci/test validation
test-e2e: build ## Run the tests between two hosts made of network namespaces
	@bash .ci/test e2e

.PHONY: test-guest test-vm
test-guest: deps build ## Run the packages' tests in two virtual machines with a stock Debian kernel and cgroup v2
	@bash .ci/test guest
test-vm: deps build ## Move pods between virtual machines with different kernels (emulated; ZAP_VM_ACCEL=kvm where there is one)
	@bash .ci/test vm

.PHONY: lint
lint: ## Check form and common mistakes: gofumpt, go vet, staticcheck
	@out=$$($(tools) gofumpt -l .); [ -z "$$out" ] || { echo "gofumpt: $$out" >&2; exit 1; }
	go vet ./...
	$(tools) staticcheck ./...

.PHONY: fmt
fmt: ## Format the Go files
	$(tools) gofumpt -l -w .

.PHONY: bench
bench: deps build ## Compare with runc and crun in one interleaved run, print the table
	@go build -buildvcs=false -o build/bench ./e2e/bench
	@ZAP=$(CURDIR)/bin/zap build/bench -o docs/bench.md

.PHONY: bench-vm
bench-vm: deps build ## Move a program between two virtual machines, by hand with runc and with zap, print the table
	@ZAP_VM=1 ZAP_VM_BENCH=$(CURDIR)/docs/bench-vm.md ZAP=$(CURDIR)/bin/zap go test -count=1 -timeout 1800s -v -run '^TestBench$$' ./e2e/vm

.PHONY: demo
demo: deps build ## Move a redis under load between two hosts made of network namespaces, print what happened
	@go build -buildvcs=false -o build/demo ./e2e/demo
	@ZAP=$(CURDIR)/bin/zap build/demo -o build/demo.png

.PHONY: install
install: build ## Install zap, its man pages and completions below $(prefix) (DESTDIR is honoured)
	install -D -m 755 bin/zap $(DESTDIR)$(prefix)/bin/zap
	install -d $(DESTDIR)$(prefix)/share/man/man8 $(DESTDIR)$(prefix)/share/bash-completion/completions \
	  $(DESTDIR)$(prefix)/share/zsh/site-functions $(DESTDIR)$(prefix)/share/fish/vendor_completions.d
	install -m 644 docs/man/*.8 $(DESTDIR)$(prefix)/share/man/man8
	bin/zap completion bash >$(DESTDIR)$(prefix)/share/bash-completion/completions/zap
	bin/zap completion zsh >$(DESTDIR)$(prefix)/share/zsh/site-functions/_zap
	bin/zap completion fish >$(DESTDIR)$(prefix)/share/fish/vendor_completions.d/zap.fish

.PHONY: docs
docs: ## Write the man pages anew from the definitions of the verbs
	go test -count=1 ./cmd/zap -run TestManPages -update

.PHONY: clean
clean: ## Remove what build made
	rm -rf bin build

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{ printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
