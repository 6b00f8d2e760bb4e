# make setup | demo | test | test-compat | lint | docs | bench | clean
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := setup
.PHONY: setup demo test test-compat lint docs bench clean

setup:
	@bash scripts/setup.sh

demo: setup
	@.venv/bin/rldg demo

# Three processes for two cores, each with whole files: half of the time is waiting for nodes. The longest files first.
# A process that crashes ends the run: pytest-xdist replaces it, but then waits for ever with whole files.
test: setup
	@source scripts/env.sh && python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Our datasets against TensorFlow Datasets and against lerobot, each in an environment of its own: needs the network
# once, 7 GB of disk, and Python 3.12 for lerobot.
test-compat: setup
	@bash scripts/compat.sh
	@.venv-compat/bin/python -m pytest -c tests_compat/pytest.ini tests_compat
	@bash scripts/compat_lerobot.sh

lint: setup
	@source scripts/env.sh && bash scripts/lint.sh

docs: setup
	@source scripts/env.sh && bash scripts/docs.sh

bench: setup
	@source scripts/env.sh && bash scripts/bench.sh

clean:
	rm -rf .venv .venv-compat .venv-lerobot build install log docs/reference/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
