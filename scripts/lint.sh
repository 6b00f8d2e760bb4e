#!/usr/bin/env bash
# Style, types, layers and package types. Needs the sourced environment; imports none of our packages.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
sources=$(printf '%s:' src/rldg_*/)
echo "lint: ruff"
ruff check --output-format concise .
echo "lint: mypy --strict"
typed=$(find src -name '*.py' -path 'src/*/rldg_*/*' -not -path '*/test/*' | sort)
MYPYPATH=${sources%:} mypy $typed $(find examples -name '*.py')
echo "lint: layers"
PYTHONPATH=${sources%:} lint-imports
echo "lint: package types"
python scripts/check_package_types.py
