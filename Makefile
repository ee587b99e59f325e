# Stoker. `make demo` runs the whole system on this machine, `make test` every test. Both set themselves up.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# uv from the PATH; where there is none, one of our own in .build/
UV := $(shell command -v uv 2>/dev/null || echo .build/uv/bin/uv)
RUN := .venv/bin/

.PHONY: help setup demo up test check bench compatibility clean

help: ## Show what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

.build/uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Stoker needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Setting up: uv (package installer) into .build/"
	@$(PYTHON) -m venv .build/uv
	@.build/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'

# Installed again only when the lock or the project's description changed.
.venv/.installed: pyproject.toml uv.lock | $(filter .build/%,$(UV))
	@echo "Setting up: Stoker and its packages into .venv/"
	@$(UV) sync --quiet --frozen --python $(PYTHON)
	@touch $@

setup: .venv/.installed ## Make .venv with everything in it

demo: .venv/.installed ## Run everything here, deploy a real model, ask it something (EXIT=1: then end)
	@$(RUN)python -m entrypoints.demo $(if $(EXIT),--exit)

up: .venv/.installed ## Run everything here, empty
	@$(RUN)stoker up

test: .venv/.installed ## Run every test (ARGS="tests/api -k keys": some of them)
	@$(RUN)stoker engine install --backend cpu
	@$(RUN)python -m $(if $(ARGS),pytest $(ARGS),tests.parts)

check: .venv/.installed ## Lint, types, import rules
	@$(RUN)ruff format --check .
	@$(RUN)ruff check .
	@$(RUN)mypy
	@$(RUN)lint-imports

bench: .venv/.installed ## Measure; each benchmark ends with one JSON line
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(RUN)python -m benchmarks.$$(basename $$file .py); done

compatibility: .venv/.installed ## Try every client against the real engine; writes docs/compatibility.md (ARGS="openai-python llm": some)
	@$(RUN)python -m tests.compatibility.run $(ARGS)

clean: ## Remove everything that was made here
	rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
