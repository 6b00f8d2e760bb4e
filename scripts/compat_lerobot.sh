#!/usr/bin/env bash
# Our LeRobot datasets against the real lerobot, and its datasets against our importer, in .venv-lerobot (5.4 GB, Python 3.12 or 3.13).
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
venv=.venv-lerobot

fail() { echo "compat-lerobot: $1" >&2; exit 1; }
supported() { "$1" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in "${RLDG_LEROBOT_PYTHON:-}" python3.12 python3.13 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[23]*/bin/python; do
    if [[ -n $candidate ]] && supported "$candidate"; then command -v "$candidate"; return; fi
  done
  fail "lerobot needs Python 3.12 or 3.13: install one or set RLDG_LEROBOT_PYTHON"
}

[[ -x .venv/bin/python ]] || fail "not set up yet: run 'make setup'"
python=$(find_python)
key=$( ("$python" -V; cat requirements/lerobot.txt) | sha256sum | cut -d' ' -f1)
if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$key" ]]; then
  "$python" -m venv --clear "$venv" || fail "cannot make a virtual environment at $venv"
  if ! PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install -q --progress-bar off --retries 1 --timeout 60 \
    --no-deps -r requirements/lerobot.txt 2>"$venv/pip.log"; then
    if grep -qiE 'no space left' "$venv/pip.log"; then fail "the disk is full"; fi
    if grep -qiE 'NewConnectionError|name resolution|ConnectTimeout|Network is unreachable|ProxyError' "$venv/pip.log"; then
      fail "no network: the package index cannot be reached (see $venv/pip.log)"
    fi
    fail "pip could not install requirements/lerobot.txt (see $venv/pip.log)"
  fi
  # torchcodec, lerobot's default decoder, looks for FFmpeg's libraries by their plain names: PyAV has them.
  libraries=$(cd "$venv"/lib/python3.*/site-packages/av.libs && pwd)
  mkdir "$venv/ffmpeg"
  for library in "$libraries"/lib{av,sw}*; do
    name=$(basename "$library")
    ln -s "$library" "$venv/ffmpeg/$(sed -E 's/-[0-9a-f]{8}(\.so\.[0-9]+).*/\1/' <<<"$name")"
  done
  echo "$key" >"$venv/stamp"
  echo "compat-lerobot: $venv ready (${SECONDS} s)"
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
source scripts/env.sh
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HOME=$folder/huggingface
python tests_compat/lerobot/ours.py make "$folder"
# No ROS and none of our packages in there.
env -u PYTHONPATH LD_LIBRARY_PATH="$PWD/$venv/ffmpeg" "$venv/bin/python" tests_compat/lerobot/real.py "$folder" \
  2>"$folder/real.log" || { tail -n 30 "$folder/real.log" >&2; fail "lerobot and our dataset disagree (above)"; }
python tests_compat/lerobot/ours.py check "$folder"
