#!/usr/bin/env bash
# Runs every benchmark, one after the other (they measure time). Each prints JSON lines. Training specialists for all
# tasks and seeds takes hours: benchmarks/specialists.py is run on its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for benchmark in benchmarks/[!_]*.py; do
  [[ -e $benchmark ]] || { echo "bench: benchmarks/ holds no *.py" >&2; exit 1; }
  [[ $benchmark == benchmarks/specialists.py ]] || python "$benchmark"
done
