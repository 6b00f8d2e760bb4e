# make setup | demo | test | lint | bench | clean
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := setup
.PHONY: setup demo test lint bench clean

setup:
	@bash scripts/setup.sh

demo: setup
	@.venv/bin/rldg demo

test: setup
	@source scripts/env.sh && python -m pytest

lint: setup
	@source scripts/env.sh && bash scripts/lint.sh

bench: setup
	@source scripts/env.sh && bash scripts/bench.sh

clean:
	rm -rf .venv build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
