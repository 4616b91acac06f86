# SPDX-License-Identifier: Apache-2.0
# Tasks of this checkout; `make help` lists them. ARGS="..." is handed on where a task says so.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:

VENV := .venv
PYTHON_VERSION := $(shell python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# Named after Python, so that .venv is made anew when the host's Python is another.
INSTALLED := $(VENV)/.installed-$(PYTHON_VERSION)
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
# Two at once: a test that waits for its guest leaves a core to another. A file's tests share its fixtures.
WORKERS := 2
PYTEST := $(VENV)/bin/python -m pytest --durations=10 --numprocesses=$(WORKERS) --dist=loadfile
# A newcomer's shell does not know the command yet: the line that makes it known, where it is needed.
BIN = $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(VENV)/bin
SAY_HOW = [ "$$(command -v klp)" = "$(BIN)/klp" ] || \
	printf 'klp: to have the command klp in this shell:\n  export PATH="%s:$$PATH"\n' "$(BIN)" >&2
# The default kernel first: on the others the suite runs what is marked `everywhere`.
ON_EVERY_KERNEL := --klp-kernel=6.12 --klp-kernel=6.1 --klp-kernel=7.2

.PHONY: help run test test-rest test-all mutants lint bench setup host lock clean

help:  ## list the tasks
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-9s  %s\n", $$1, $$2 }'

run: setup  ## klp run ARGS: check livepatches in a guest
	@status=0; $(VENV)/bin/klp run $(ARGS) || status=$$?; $(SAY_HOW); exit $$status

# Unit tests come first, in one run of pytest, so that its closing line counts them all. tests/core.toml says which
# tests in guests go with them. A JUnit file is left by each, so that CI can add them up.
test: setup  ## unit tests, and one test of each feature in a guest; ARGS for pytest; some ten minutes
	@rm -f build/test.xml
	$(PYTEST) tests/unit tests/integration tests/suite --part=core $(ON_EVERY_KERNEL) \
		--klp-verdicts=build/verdicts.jsonl --junitxml=build/test.xml $(ARGS)

test-rest: setup  ## all other tests in guests, ARGS for pytest; some forty minutes
	@rm -f build/test-rest.xml
	$(PYTEST) tests/integration tests/suite --part=rest $(ON_EVERY_KERNEL) \
		--klp-verdicts=build/verdicts-rest.jsonl --junitxml=build/test-rest.xml $(ARGS)

test-all: setup  ## the suite and klp check's verdicts on every kernel, and the kernels' own selftests
	$(PYTEST) tests/suite tests/integration/test_check_verdicts.py $(ON_EVERY_KERNEL) --everywhere $(ARGS)
	$(VENV)/bin/klp selftests --kernel 6.1 --kernel 6.12 --kernel 7.2

mutants: setup  ## which faults of a kernel the suite finds; ARGS for tests/mutants; hours, and it can be resumed
	$(VENV)/bin/python -m tests.mutants $(ARGS)

lint: setup  ## linters and style checks alone (they are tests; `make test` has them)
	$(PYTEST) tests/unit/test_linters.py tests/unit/test_style.py tests/unit/test_layers.py $(ARGS)

bench: setup  ## measure; ARGS for bench/; the day of abuse: .venv/bin/python -m bench.abuse
	$(VENV)/bin/python -m bench $(ARGS)

setup: $(INSTALLED)  ## install what the host lacks, and make .venv
	@$(if $(filter setup,$(MAKECMDGOALS)),$(SAY_HOW),:)

# Order-only: looked at every time (it takes no time where nothing is missing), never a reason to reinstall.
host:
	@sh .ci/host-setup

$(INSTALLED): pyproject.toml .ci/requirements.txt | host
	$(VENV)/bin/python$(PYTHON_VERSION) -c '' 2>/dev/null || python3 -m venv --clear $(VENV)
	$(PIP) install --require-hashes --requirement .ci/requirements.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

lock:  ## pin pyproject.toml's dependencies anew in .ci/requirements.txt; ARGS=--upgrade: the newest
	sh .ci/lock $(ARGS)

clean:  ## remove .venv and caches of this checkout (images stay: docs/install.md removes all)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
