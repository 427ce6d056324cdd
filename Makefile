# `make help` lists the targets. Everything installs into .venv; nothing else on the machine changes but caches.
PYTHON := $(or $(wildcard .venv/bin/python),$(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done))
PYTHON := $(or $(PYTHON),python3)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install install-dev check test demo crashpoints outages chaos chaos-bugs docs clean

help: ## this list
	@grep -hE '^[a-z%-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: ## what `jsm` needs, into .venv (also: the worker's engine, the embedded Valkey, the demo's model)
	@$(PYTHON) scripts/install.py api embedded worker demo parquet

install-dev: ## the same and what check and test need
	@$(PYTHON) scripts/install.py api embedded worker demo parquet postgres dev

demo: install ## a complete study on this machine, and its report
	@$(BIN)/jsm demo

check: install-dev ## ruff, formatting, import arrows, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# pytest-xdist 3.8 may hang where it replaces a process that died (its issue 784): none is replaced, and the run fails.
test: install-dev ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

crashpoints: install-dev ## kills a process at every commit, rename and send of a small study: 20 minutes or so
	@$(BIN)/python -W "ignore:XDG_RUNTIME_DIR is not set" -m tests.crashpoints

outages: install-dev ## queue, api and worker are each away for an hour, in a pool of their own: make outages MINUTES=60
	@$(BIN)/python -W "ignore:XDG_RUNTIME_DIR is not set" -m tests.faults.outages --minutes $(or $(MINUTES),60)

chaos: install-dev ## 60 jobs on six machines while everything goes wrong: make chaos SEED=1 FAULTS=200
	@$(BIN)/python -W "ignore:XDG_RUNTIME_DIR is not set" -m tests.chaos --seed $(or $(SEED),1) --faults $(or $(FAULTS),200)

chaos-bugs: install-dev ## every planted bug must be found by a short chaos run: make chaos-bugs JOBS=2
	@$(BIN)/python -W "ignore:XDG_RUNTIME_DIR is not set" -m tests.chaos.hunt --jobs $(or $(JOBS),2)

docs: install-dev ## writes the pages of docs/ that follow from code and measurements
	$(BIN)/python scripts/reference.py

bench-%: install-dev ## one benchmark: make bench-NAME runs benchmarks/NAME.py
	$(BIN)/python -m benchmarks.$(subst -,_,$*)

clean: ## removes .venv and tool caches; studies (.jsm) and built wheels (~/.cache/jsm-queue) stay
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
