# Everything a person runs. Needs python3 (3.11 or newer, with venv), make and git; the rest is
# installed into $(VENV). Stamp files depend on the requirements, so that a second run is instant.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := $(abspath $(VENV))/bin
MEMBERS := common services/api services/scheduler services/compute services/monitor lab
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PATH="$(BIN):$$PATH" $(BIN)/python -m pip --quiet --no-input
HASHED := install --require-hashes --only-binary :all:
# the order is drawn anew each time and pytest prints the seed that repeats it
PYTEST := $(BIN)/python -m pytest
# tests that start no server share the processors
QUICK := $(PYTEST) -q --numprocesses 2 --dist worksteal

export PATH := $(BIN):$(PATH)

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# ------------------------------------------------------------------------------------------- to see

.PHONY: demo
demo: $(VENV)/runtime.stamp ## a node is cut off and its instances come back, simulated, in about a minute
	@$(BIN)/evac-lab demo

.PHONY: lab
lab: $(VENV)/lab.stamp ## start a real cluster on this machine (root; stop it with `evac-lab down`)
	@VENV=$(VENV) MAKE="$(MAKE)" .ci/real
	@$(BIN)/evac-lab up

# ----------------------------------------------------------------------------------------- to check

.PHONY: check
check: $(VENV)/dev.stamp ## format, lint, import rules, types and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(QUICK) -m "not real and not slow"

.PHONY: test
test: $(VENV)/dev.stamp $(VENV)/lab.stamp ## every test and a hunt; as root on Debian or Ubuntu also the real servers and hosts
	@VENV=$(VENV) MAKE="$(MAKE)" .ci/real
	$(QUICK) -m "not real"
	$(BIN)/evac-lab hunt $(HUNT)
	$(PYTEST) -m real

# So many seeds that every count is reached, and no limit of time: a slow machine takes longer and finds the
# same. Others are hunted by hand: make hunt HUNT="--seeds 1000 --first 1000 --minutes 60".
HUNT := --seeds 16 --hours 1 --require --minimise 2
.PHONY: hunt
hunt: $(VENV)/dev.stamp ## random clusters, loads and faults on virtual time, ten to fifteen minutes on two cores
	$(BIN)/evac-lab hunt $(HUNT)

.PHONY: bench
bench: $(VENV)/dev.stamp ## measure, and compare with the thresholds
	$(BIN)/python -m bench

# ---------------------------------------------------------------------------------------- to change

.PHONY: format
format: $(VENV)/dev.stamp ## sort imports, repair what can be repaired safely, format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(VENV)/dev.stamp ## write the generated pages, schemas and missing samples of messages anew
	$(BIN)/python -m evac_common.messages.schemas --write
	$(BIN)/python tests/samples/write.py
	$(BIN)/python -m evac_lab.docs

# Versions stay as they are unless a line in *.in asks for others; `make requirements UPGRADE=1`
# takes the newest. No index, no cache and no configuration of this machine leaves a trace.
REQUIREMENTS := runtime dev lab libvirt
.PHONY: requirements
requirements: $(VENV)/dev.stamp ## resolve requirements/*.in into hashed, universal requirements/*.txt
	@for set in $(REQUIREMENTS); do \
		echo "requirements/$$set.txt"; \
		env -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS \
		$(BIN)/uv pip compile --no-config --quiet --universal --python-version 3.11 \
			--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
			$(if $(UPGRADE),--upgrade) requirements/$$set.in -o requirements/$$set.txt; \
	done

# ------------------------------------------------------------------------------------ environments

.PHONY: setup
setup: $(VENV)/dev.stamp $(VENV)/lab.stamp ## install everything for development into .venv

$(VENV)/created.stamp:
	@test -n "$(PYTHON)" || { echo "evac needs python3, 3.11 or newer, and finds none" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 3; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/runtime.stamp: $(VENV)/created.stamp requirements/runtime.txt $(MEMBERS:%=%/pyproject.toml)
	@echo "installing the runtime requirements and the members into $(VENV)"
	@$(PIP) $(HASHED) -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp requirements/dev.txt
	@echo "installing the development requirements into $(VENV)"
	@$(PIP) $(HASHED) -r requirements/dev.txt
	@touch $@

$(VENV)/lab.stamp: $(VENV)/runtime.stamp requirements/lab.txt
	@echo "installing the lab's requirements into $(VENV)"
	@$(PIP) $(HASHED) -r requirements/lab.txt
	@touch $@

# libvirt's binding is compiled against this machine's libvirt; its backend is installed first,
# because nothing that runs during an installation is fetched unhashed
.PHONY: libvirt
libvirt: $(VENV)/libvirt.stamp ## compile libvirt's binding (needs gcc, pkg-config, libvirt-dev)
	@:
$(VENV)/libvirt.stamp: $(VENV)/runtime.stamp requirements/libvirt.txt
	@echo "compiling libvirt's binding into $(VENV)"
	@sed '/^libvirt-python/,/^[^ ]/{/^libvirt-python/d;/^ /d}' requirements/libvirt.txt > $(VENV)/libvirt-backend.txt
	@$(PIP) $(HASHED) -r $(VENV)/libvirt-backend.txt
	@$(PIP) install --require-hashes --no-build-isolation -r requirements/libvirt.txt
	@touch $@

.PHONY: clean
clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
