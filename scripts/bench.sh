#!/usr/bin/env bash
# Runs every benchmark, one after the other (they measure time). Each prints JSON lines. Training specialists for all
# tasks and seeds, and the distillation experiment, take hours: specialists.py and distillation.py are run on their own.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
for benchmark in benchmarks/[!_]*.py; do
  [[ -e $benchmark ]] || { echo "bench: benchmarks/ holds no *.py" >&2; exit 1; }
  [[ $benchmark == benchmarks/@(specialists|distillation).py ]] || python "$benchmark"
done
