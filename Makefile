# Every command of the house. Needs Debian 12 or the like with Python 3.11, make and git; each target
# does its own set-up, and does it again only when what it depends on has changed.
#
#   make setup         .venv with the headrace command
#   make check         lint, format, types, layers
#   make test          setup, check, and all tests that need nothing but this machine
#   make soak          kills under load for SOAK seconds (600), then many random histories, from new seeds
#   make test-clients  the same gateway against every S3 client we know (downloads them)
#   make demo          train a small model through a node, cold and warm
#   make bench         measure against nginx, SeaweedFS and JuiceFS (pass BENCH="--quick", "--only warm")
#   make lock          renew the hashed locks in requirements/
#   make clean         remove what the targets above made

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
LOCKED := $(INSTALL) --require-hashes --no-deps -r
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: setup check test soak test-clients demo bench lock clean
.DEFAULT_GOAL := setup
.NOTPARALLEL:
.SUFFIXES:

setup: $(STAMPS)/headrace

check: $(STAMPS)/headrace $(STAMPS)/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: check
	$(BIN)/pytest -m "not clients" $(PYTEST)

SOAK ?= 600
soak: $(STAMPS)/headrace $(STAMPS)/test
	HEADRACE_SOAK_SECONDS=$(SOAK) $(BIN)/pytest tests/faults/test_kill_node.py
	HEADRACE_HYPOTHESIS=nightly $(BIN)/pytest tests/property/test_gateway_machine.py

test-clients: $(STAMPS)/headrace $(STAMPS)/test
	scripts/test-clients

demo: $(STAMPS)/headrace $(STAMPS)/demo
	$(BIN)/python examples/mnist/main.py $(DEMO)

bench: $(STAMPS)/headrace $(STAMPS)/bench
	$(BIN)/python benchmarks/run.py $(BENCH)

lock:
	requirements/lock

clean:
	rm -rf $(VENV) .venv-clients build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMPS)/python: scripts/make-venv
	scripts/make-venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: requirements/runtime.txt $(STAMPS)/python
	$(LOCKED) $<
	@touch $@

$(STAMPS)/build: requirements/build.txt $(STAMPS)/runtime
	$(LOCKED) $<
	@touch $@

$(STAMPS)/headrace: pyproject.toml $(STAMPS)/build
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/test $(STAMPS)/demo $(STAMPS)/bench: $(STAMPS)/%: requirements/%.txt $(STAMPS)/runtime
	$(LOCKED) $<
	@touch $@

$(STAMPS)/demo: $(STAMPS)/mnist
$(STAMPS)/mnist: requirements/mnist.txt $(STAMPS)/runtime
	$(LOCKED) $<
	@touch $@
