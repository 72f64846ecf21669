# Two commands do everything: `make demo` and `make test`. Everything lives in .venv and var/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SPEED ?= 10

.DEFAULT_GOAL := help
.PHONY: help install demo up test check lint format types imports broker lock clean faults

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(VENV)/.installed ## the virtual environment, from requirements.lock

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python's venv module is missing: install python3-venv, then make again" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@find vpp_pipeline -name '*.nb[ci]' -delete # an older checkout's kernels
	$(BIN)/python -m vpp_pipeline.optimization.warm_up
	@touch $@

demo: install ## a whole delivery day at high speed, with a report
	$(BIN)/vpp demo

up: install ## the Dagster UI with a live simulated fleet; Ctrl-C stops all of it
	$(BIN)/vpp up --speed $(SPEED)

test: install broker ## everything CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

faults: install broker ## every fault that a plant must survive, and docs/faults.md anew
	$(BIN)/python -m tests.faults

broker: # a real mosquitto for the tests, where the system's package manager may install it
	@sh .ci/install-mosquitto

lock: install ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-strip-extras --no-header --no-annotate --upgrade -o requirements.lock

clean: ## remove what was made
	rm -rf $(VENV) var build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find dagster_home -mindepth 1 -not -name dagster.yaml -delete
