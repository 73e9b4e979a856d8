# Two commands do all set-up: `make demo` and `make test`.

PREFIX ?= /usr/local
PROFILE ?= dev

export PATH := $(PATH):$(HOME)/.cargo/bin

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# The whole workspace, with the features that the tests use too: nothing is compiled twice.
BUILD := cargo build --locked --workspace

.PHONY: all build release demo test soak bench bench-pods verify docs install image cluster-tools clean help

all: build

build: ## Build imagevold and imagevol (PROFILE=dev)
	$(BUILD) --profile $(PROFILE)

release: ## Build them for use
	cargo build --locked --release --package imagevold --package imagevol

demo: ## Install what is missing, build, and tell the story of one pod in a minute
	hack/install-deps demo
	$(BUILD) --profile $(PROFILE)
	hack/demo $(BIN)

test: ## Install what is missing, and run every test; as root, those with real mounts too
	hack/install-deps test
	$(BUILD)
	cargo test --workspace --locked

e2e: ## The driver on a real cluster of one node, as root; ten minutes, and ten more the first time (E2E="--keep")
	hack/install-deps e2e
	hack/cluster/build-tools etcd kubernetes containerd helm
	hack/e2e $(E2E)

soak: ## 1 000 volumes mounted and 10 000 mounted and unmounted beside them: nothing may grow; half an hour
	hack/install-deps test
	cargo build --locked --release --package imagevold --package imagevol
	IMAGEVOL_SOAK=1 cargo test --locked --release --package imagevol-test-integration --test it soak -- --nocapture --test-threads 1

bench: ## Ratios against other tools and what the machine allows, in half an hour (BENCH="--rounds 1 --mib 64 tiny")
	hack/install-deps test
	cargo build --locked --release --package imagevold --package imagevol --package imagevol-test-bench
	$(if $(filter 0,$(shell id -u)),,sudo) $(TARGET_DIR)/release/imagevol-bench $(BENCH)

bench-pods: ## How soon pods are ready, on the cluster of KUBECONFIG with the driver in it (BENCH="--rounds 3 --mib 512")
	cargo build --locked --release --package imagevol-test-bench
	$(TARGET_DIR)/release/imagevol-bench-pods $(BENCH)

verify: ## Formatting, lints, floors, lengths, words, licences, rustdoc
	hack/verify

docs: build ## Links and command lines in the documents
	hack/verify-docs $(BIN)

install: release ## Install both programs, kubectl's plugin and systemd's unit below PREFIX
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(TARGET_DIR)/release/imagevold $(TARGET_DIR)/release/imagevol
	ln -sf imagevol $(DESTDIR)$(PREFIX)/bin/kubectl-imagevol
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/bin|$(PREFIX)/bin|' deploy/systemd/imagevold.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/imagevold.service

image: ## Make the container image, an OCI layout in target/image (hack/image --help)
	hack/image --profile $(PROFILE)

cluster-tools: ## Build the parts of hack/local-up-cluster.sh, ten minutes the first time
	hack/install-deps e2e
	hack/cluster/build-tools

clean: ## Remove what was built
	cargo clean

help: ## Say this
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '  make %-13s %s\n' "$$name" "$$what"; done
