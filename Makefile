# cowroot: everything a developer does, one target each. `make` alone lists them.
# Bare Debian 12 with git and make is enough to start from: `make setup venv` fetch the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The packages come before the virtual environment, whatever -j says.
.NOTPARALLEL:

# The system's own interpreter where there is one: it is what an image runs too. `make venv PYTHON=python3.9` takes another.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -ra

# The ladder, fast to slow. A rung is a folder of tests/; `make test` climbs until one fails. `behaviour` mounts, so it comes after t4.
rungs = $(sort $(dir $(wildcard $(1:%=tests/%/test_*.py))))
FAST_RUNGS := $(call rungs,t[0-4]_*) $(call rungs,behaviour) $(call rungs,t5_*)
RUNGS := $(FAST_RUNGS) $(call rungs,t6_*)
# Seconds for the whole ladder; each test has a shorter limit of its own where it can hang.
LADDER_LIMIT := 2640

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages of tests/packages.txt that are missing (as root, or with sudo)
	@tests/setup.sh

.PHONY: venv
venv: $(VENV)/.ready ## make .venv with cowroot (editable) and its development tools

# Done again only when the dependencies change.
$(VENV)/.ready: pyproject.toml hatch_build.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[dev]'
	touch $@

.PHONY: lint
lint: setup venv ## ruff, mypy --strict and shellcheck, as the tests run them
	$(PYTEST) -q tests/t0_config/test_lint.py

# These rungs run in two processes where there are two processors. Whichever is ready gets the next test; a process that dies is a failure,
# and no other takes its place. `make test WORKERS=0`: one after the other, in pytest itself. Of the longer rungs t4 and t5 stay alone: there,
# emptying the kernel's caches changes what others count, and boot scripts look for labels on all devices of the machine.
SIDE_BY_SIDE := tests/t3_* | tests/behaviour/ | tests/t6_*
WORKERS ?= $(shell [ "$$(nproc)" -gt 1 ] && echo 2 || echo 0)
IN_PROCESSES := -n $(WORKERS) --dist load --maxschedchunk 1 --max-worker-restart 0

# --signal=INT: pytest then tears its fixtures down (mounts, virtual machines) and says which test it was at.
define climb
	@for rung in $(1); do \
		echo; echo "== $$rung"; \
		case $$rung in $(SIDE_BY_SIDE)) how="$(IN_PROCESSES)";; *) how=;; esac; \
		timeout --foreground --signal=INT --kill-after=60 $$(($(LADDER_LIMIT) - SECONDS)) $(PYTEST) $$how "$$rung" || { \
			code=$$?; echo "make $@: $$rung $$([ $$code = 124 ] && echo "ran out of the ladder's $(LADDER_LIMIT) s" || echo failed)" >&2; \
			exit $$code; }; \
	done; \
	echo; echo "All rungs passed in $$SECONDS s: $(notdir $(patsubst %/,%,$(1)))"
endef

.PHONY: test
test: setup venv ## the whole ladder, fast to slow; ends at the first rung that fails
	$(call climb,$(RUNGS))

.PHONY: test-fast
test-fast: setup venv ## the ladder without the boots
	$(call climb,$(FAST_RUNGS))

.PHONY: demo
demo: setup venv ## build an appliance image, install cowroot into it, boot it read-only in QEMU (as root, or with sudo)
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m demo; else sudo $(BIN)/python -m demo; fi

# What to measure: `make bench BENCH="--rows 'find*' --rounds 3"`; `make bench BENCH=--help` says what there is.
BENCH ?=
FIGURES := .cache/benchmarks/latest

.PHONY: bench
bench: setup venv ## measure the engines beside overlayfs and other unions: a table, a chart, JSON (as root, or with sudo)
	@tests/setup.sh benchmarks/packages.txt
	@$$([ "$$(id -u)" = 0 ] || echo sudo) $(BIN)/python -m benchmarks --json $(FIGURES).json --chart $(FIGURES).svg $(BENCH)

# An hour on each engine; `make soak SECONDS=600` is shorter.
SECONDS ?= 3600

.PHONY: soak
soak: setup venv ## load a union for an hour with each engine; fails if its daemon's memory or descriptors grow (as root, or with sudo)
	@for engine in direct fusepy; do \
		$$([ "$$(id -u)" = 0 ] || echo sudo) $(BIN)/python -m tests.t4_mounted.soak --seconds $(SECONDS) --engine $$engine; \
	done

PREFIX ?= /usr/local
INSTALLED := $(PREFIX)/lib/cowroot
# Where bash, zsh and fish look for what completes a command.
BASH_COMPLETION := $(PREFIX)/share/bash-completion/completions/cowroot
ZSH_COMPLETION := $(PREFIX)/share/zsh/site-functions/_cowroot
FISH_COMPLETION := $(PREFIX)/share/fish/vendor_completions.d/cowroot.fish

.PHONY: install
install: ## install the cowroot command and the helpers of mount(8) and umount(8) on this machine, below PREFIX=/usr/local (as root)
	$(PYTHON) -m venv $(INSTALLED)
	$(INSTALLED)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade .
	mkdir -p $(PREFIX)/bin
	ln -sf $(INSTALLED)/bin/cowroot $(PREFIX)/bin/cowroot
	ln -sf $(INSTALLED)/bin/mount.fuse.cowroot $(INSTALLED)/bin/umount.fuse.cowroot /sbin/
	install -D -m 644 completions/cowroot.bash $(BASH_COMPLETION)
	install -D -m 644 completions/cowroot.zsh $(ZSH_COMPLETION)
	install -D -m 644 completions/cowroot.fish $(FISH_COMPLETION)
	$(PREFIX)/bin/cowroot --version

.PHONY: uninstall
uninstall: ## remove what `make install` put there
	rm -rf $(INSTALLED)
	rm -f $(PREFIX)/bin/cowroot $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION) /sbin/mount.fuse.cowroot /sbin/umount.fuse.cowroot

.PHONY: deb
deb: ## build the Debian package into dist/ (what that takes: apt-get build-dep ./)
	dpkg-buildpackage --unsigned-changes --build=binary --post-clean
	mkdir -p dist
	mv $(addprefix ../cowroot_$(shell dpkg-parsechangelog --show-field Version)_,all.deb *.buildinfo *.changes) dist/

.PHONY: docs
docs: venv ## write docs/reference/settings.md anew from the table of settings
	$(BIN)/python -m docs.settings_page

.PHONY: man
man: venv ## write man/ anew from the commands and the table of settings
	$(BIN)/python -m docs.man_pages

.PHONY: provisioning
provisioning: venv ## write anew what the Ansible role and the Puppet module know of the settings
	$(BIN)/python -m provisioning.settings_types

.PHONY: clean
clean: ## remove what the targets above have made here (not what lies in .cache: images, kept for the next run)
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
