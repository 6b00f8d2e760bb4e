#!/usr/bin/env bash
# .venv-compat: tensorflow-cpu and tensorflow-datasets, the readers that our datasets must satisfy. 1.8 GB; never needed at run time.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
venv=.venv-compat

fail() { echo "compat: $1" >&2; exit 1; }

[[ -x .venv/bin/python ]] || fail "not set up yet: run 'make setup'"
key=$( (.venv/bin/python -V; cat requirements/compat.txt) | sha256sum | cut -d' ' -f1)
[[ -f $venv/stamp && $(<"$venv/stamp") == "$key" ]] && exit 0
# The same Python, nothing of what is installed in .venv.
.venv/bin/python -m venv --clear "$venv" || fail "cannot make a virtual environment at $venv"
if ! PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install -q --progress-bar off --retries 1 --timeout 20 \
  --no-deps -r requirements/compat.txt 2>"$venv/pip.log"; then
  if grep -qiE 'no space left' "$venv/pip.log"; then fail "the disk is full"; fi
  if grep -qiE 'NewConnectionError|name resolution|ConnectTimeout|Network is unreachable|ProxyError' "$venv/pip.log"; then
    fail "no network: the package index cannot be reached (see $venv/pip.log)"
  fi
  fail "pip could not install requirements/compat.txt (see $venv/pip.log)"
fi
"$venv/bin/python" -m pip check >/dev/null || fail "requirements/compat.txt is incomplete: $("$venv/bin/python" -m pip check | head -1)"
echo "$key" >"$venv/stamp"
echo "compat: $venv ready (${SECONDS} s)"
