#!/usr/bin/env bash
# The documentation as HTML in out/docs. Installs the docs layer into .venv when it is missing; warnings are errors.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# The same pins a second time: pip sees that everything is there, and needs no network.
PIP_DISABLE_PIP_VERSION_CHECK=1 python -m pip install -q -c requirements/constraints.txt -r requirements/docs.txt
python -m sphinx -q -W --keep-going -b html docs out/docs
echo "docs: out/docs/index.html"
